// The dtypes of the CUDA kernels, and conversions between them. Numbers of Dtype: fastunlearn/ops/ghost_gram/cpu.py.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>

namespace fu {

enum Dtype : int { kFloat32 = 0, kFloat64 = 1, kBFloat16 = 2, kFloat16 = 3, kInt8 = 4 };

#ifdef __CUDACC__
__device__ inline float widen(float v) { return v; }
__device__ inline double widen(double v) { return v; }
__device__ inline float widen(__nv_bfloat16 v) { return __bfloat162float(v); }
__device__ inline float widen(__half v) { return __half2float(v); }
__device__ inline float widen(int8_t v) { return float(v); }

template <class S>
__device__ inline S narrow(float v);
template <>
__device__ inline float narrow<float>(float v) {
    return v;
}
template <>
__device__ inline __nv_bfloat16 narrow<__nv_bfloat16>(float v) {
    return __float2bfloat16_rn(v);
}
template <>
__device__ inline __half narrow<__half>(float v) {
    return __float2half_rn(v);
}
#endif

// Whether rows of `stride` numbers of `bytes` each can be read 16 bytes at a time.
inline bool aligned16(const void* base, int64_t stride, int bytes) {
    return reinterpret_cast<std::uintptr_t>(base) % 16 == 0 && stride * bytes % 16 == 0;
}

}  // namespace fu
