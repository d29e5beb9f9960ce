// The part of CUDA's language and runtime that csrc/cuda uses, for a plain C++ compiler (see emulated.h).
#pragma once

#include <cmath>
#include <cstdint>
#include <string>

#include "emulated.h"

#define __CUDACC__ 1
#define __global__
#define __device__
#define __host__
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))

#define threadIdx (emulated::place().thread)
#define blockIdx (emulated::place().block)
#define blockDim (emulated::place().block_size)
#define gridDim (emulated::place().grid)
#define __syncthreads() emulated::wait_for_block(__LINE__)
#define __syncwarp() emulated::wait_for_warp("__syncwarp")

using cudaStream_t = struct CUstream_st*;
enum cudaError_t {
    cudaSuccess = 0,
    cudaErrorInvalidValue = 1,
    cudaErrorInvalidConfiguration = 9,
    cudaErrorLaunchFailure = 719
};
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };
enum cudaDeviceAttr { cudaDevAttrMaxSharedMemoryPerBlockOptin = 97 };

cudaError_t cudaGetLastError();
const char* cudaGetErrorString(cudaError_t status);

inline cudaError_t cudaRuntimeGetVersion(int* version) {
    *version = 0;
    return cudaSuccess;
}
inline cudaError_t cudaGetDeviceCount(int* count) {
    *count = 1;
    return cudaSuccess;
}
inline cudaError_t cudaGetDevice(int* device) {
    *device = 0;
    return cudaSuccess;
}
constexpr int kSharedOfSm80 = 163 * 1024;  // per block, the smaller of the two architectures that are built
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr, int) {
    *value = kSharedOfSm80;
    return cudaSuccess;
}
template <class F>
cudaError_t cudaFuncSetAttribute(F* kernel, cudaFuncAttribute, int bytes) {
    if (bytes > kSharedOfSm80) return cudaErrorInvalidValue;
    emulated::allowed_shared(reinterpret_cast<const void*>(kernel)) = bytes;
    return cudaSuccess;
}

inline float __shfl_down_sync(unsigned mask, float value, int offset) {
    emulated::require(mask == 0xffffffffu, "shuffles are emulated for whole warps only");
    const emulated::Place& here = emulated::place();
    here.warp->values[here.lane] = value;
    emulated::wait_for_warp("__shfl_down_sync");
    const float got = here.lane + offset < emulated::kWarp ? here.warp->values[here.lane + offset] : value;
    emulated::wait_for_warp("__shfl_down_sync, read");
    return got;
}

inline double atomicAdd(double* address, double value) {
    const double before = *address;
    *address = before + value;
    return before;
}

inline int64_t min(int64_t a, int64_t b) { return a < b ? a : b; }
using std::sqrt;
