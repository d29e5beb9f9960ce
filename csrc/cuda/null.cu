#include "null.h"

namespace fu {
namespace {

constexpr int kThreads = 256;

__global__ void null_kernel(const float* from, float* to, int64_t count) {
    const int64_t step = int64_t(gridDim.x) * kThreads;
    for (int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x; i < count; i += step) to[i] = from[i];
}

}  // namespace

cudaError_t null(const float* from, float* to, int64_t count, cudaStream_t stream) {
    if (count == 0) return cudaSuccess;  // a grid of no blocks would be an error
    const int64_t blocks = (count + kThreads - 1) / kThreads;
    null_kernel<<<unsigned(blocks < 65535 ? blocks : 65535), kThreads, 0, stream>>>(from, to, count);
    return cudaGetLastError();
}

}  // namespace fu
