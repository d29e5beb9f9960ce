// Streams G through registers in 16-byte pieces. G v: a block takes a stretch of columns of kRows rows, so that a piece
// of v, once read, serves kRows rows. G^T c: a thread owns the columns of one piece and walks down the rows.
#include "explicit_rows.h"

#include <type_traits>

namespace fu {
namespace {

constexpr int kThreads = 256;
constexpr int kRows = 8;
constexpr int64_t kStretch = 1 << 16;  // columns of one block of G v
constexpr int kHeld = 1024;            // coefficients in shared memory at a time

template <class S, int kWide>
struct alignas(sizeof(S) * kWide) Piece {
    S value[kWide];
};

// kWide numbers at p of which the first `left` exist.
template <class S, int kWide>
__device__ inline void read(const S* p, int64_t left, float (&out)[kWide]) {
    if (left >= kWide) {
        const Piece<S, kWide> piece = *reinterpret_cast<const Piece<S, kWide>*>(p);
#pragma unroll
        for (int n = 0; n < kWide; ++n) out[n] = widen(piece.value[n]);
    } else {
        for (int n = 0; n < kWide; ++n) out[n] = n < left ? widen(p[n]) : 0.0f;
    }
}

// Sum over the block; the result is in thread 0.
__device__ inline float block_sum(float value, float* shared) {
    for (int offset = 16; offset > 0; offset /= 2) value += __shfl_down_sync(0xffffffffu, value, offset);
    __syncthreads();
    if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = value;
    __syncthreads();
    if (threadIdx.x == 0)
        for (int warp = 1; warp < kThreads / 32; ++warp) value += shared[warp];
    return value;
}

template <class S, int kWide>
__global__ void __launch_bounds__(kThreads) partial_kernel(const ExplicitRows g, const float* v, float* scratch) {
    __shared__ float shared[kThreads / 32];
    const S* rows = static_cast<const S*>(g.rows);
    const int64_t first = int64_t(blockIdx.y) * kRows, groups = g.scales ? (g.width + g.group - 1) / g.group : 0;
    const int64_t begin = int64_t(blockIdx.x) * kStretch, end = min(begin + kStretch, g.width);
    float sum[kRows] = {};
    for (int64_t c = begin + threadIdx.x * kWide; c < end; c += kThreads * kWide) {
        float x[kWide];
        read<float, kWide>(v + c, g.width - c, x);
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
            const int64_t row = first + r;
            if (row >= g.count) break;
            float y[kWide], dot = 0.0f;
            read<S, kWide>(rows + row * g.stride + c, g.width - c, y);
#pragma unroll
            for (int n = 0; n < kWide; ++n) dot += x[n] * y[n];
            sum[r] += g.scales ? dot * g.scales[row * groups + c / g.group] : dot;
        }
    }
    for (int r = 0; r < kRows; ++r) {
        const float total = block_sum(sum[r], shared);
        if (threadIdx.x == 0 && first + r < g.count) scratch[blockIdx.x * g.count + first + r] = total;
    }
}

__global__ void finish_kernel(const float* scratch, int64_t parts, int64_t count, float* out) {
    const int64_t row = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
    if (row >= count) return;
    double total = 0;
    for (int64_t part = 0; part < parts; ++part) total += double(scratch[part * count + row]);
    out[row] = float(total);
}

template <class S, int kWide>
__global__ void __launch_bounds__(kThreads)
    transposed_kernel(const ExplicitRows g, const float* coefficients, float* out, bool add) {
    __shared__ float held[kHeld];
    const S* rows = static_cast<const S*>(g.rows);
    const int64_t groups = g.scales ? (g.width + g.group - 1) / g.group : 0;
    const int64_t c = (int64_t(blockIdx.x) * kThreads + threadIdx.x) * kWide;
    const int64_t left = g.width - c;
    float sum[kWide] = {};
    for (int64_t base = 0; base < g.count; base += kHeld) {
        const int here = int(min(int64_t(kHeld), g.count - base));
        __syncthreads();
        for (int n = threadIdx.x; n < here; n += kThreads) held[n] = coefficients[base + n];
        __syncthreads();
        if (left <= 0) continue;
#pragma unroll 4
        for (int r = 0; r < here; ++r) {
            float y[kWide];
            read<S, kWide>(rows + (base + r) * g.stride + c, left, y);
            float factor = held[r];
            if (g.scales) factor *= g.scales[(base + r) * groups + c / g.group];
#pragma unroll
            for (int n = 0; n < kWide; ++n) sum[n] += factor * y[n];
        }
    }
    for (int n = 0; n < kWide && n < left; ++n) out[c + n] = add ? out[c + n] + sum[n] : sum[n];
}

// f(type, numbers in 16 bytes) for the dtype of g; single numbers where rows are not aligned.
template <class F>
cudaError_t dispatch(const ExplicitRows& g, const void* vector, F f) {
    const bool vector_fits = reinterpret_cast<std::uintptr_t>(vector) % 16 == 0;
    switch (g.dtype) {
        case kFloat32:
            if (vector_fits && aligned16(g.rows, g.stride, 4)) return f(float(), std::integral_constant<int, 4>());
            return f(float(), std::integral_constant<int, 1>());
        case kBFloat16:
            if (vector_fits && aligned16(g.rows, g.stride, 2))
                return f(__nv_bfloat16(), std::integral_constant<int, 8>());
            return f(__nv_bfloat16(), std::integral_constant<int, 1>());
        case kInt8:
            if (vector_fits && aligned16(g.rows, g.stride, 1)) return f(int8_t(), std::integral_constant<int, 16>());
            return f(int8_t(), std::integral_constant<int, 1>());
        default: return cudaErrorInvalidValue;
    }
}

}  // namespace

int64_t rows_times_vector_parts(const ExplicitRows& g) { return (g.width + kStretch - 1) / kStretch; }

cudaError_t rows_times_vector(const ExplicitRows& g, const float* v, float* scratch, float* out, cudaStream_t stream) {
    if (g.count == 0) return cudaSuccess;
    const int64_t parts = rows_times_vector_parts(g), bands = (g.count + kRows - 1) / kRows;
    if (bands > 65535) return cudaErrorInvalidValue;
    if (parts > 0) {
        const cudaError_t status = dispatch(g, v, [&](auto type, auto wide) {
            const dim3 grid{unsigned(parts), unsigned(bands)};
            partial_kernel<decltype(type), wide.value><<<grid, kThreads, 0, stream>>>(g, v, scratch);
            return cudaGetLastError();
        });
        if (status != cudaSuccess) return status;
    }
    finish_kernel<<<unsigned((g.count + 127) / 128), 128, 0, stream>>>(scratch, parts, g.count, out);
    return cudaGetLastError();
}

cudaError_t vector_times_rows(const ExplicitRows& g, const float* coefficients, float* out, bool add,
                              cudaStream_t stream) {
    if (g.width == 0) return cudaSuccess;
    return dispatch(g, out, [&](auto type, auto wide) {
        const int64_t each = int64_t(kThreads) * wide.value;
        transposed_kernel<decltype(type), wide.value>
            <<<unsigned((g.width + each - 1) / each), kThreads, 0, stream>>>(g, coefficients, out, add);
        return cudaGetLastError();
    });
}

}  // namespace fu
