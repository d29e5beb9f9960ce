// Streams G through registers in 16-byte pieces. G v: a block takes a stretch of columns of kRows rows, so that a piece
// of v, once read, serves kRows rows. Blocks of one stretch are neighbours: they find it in the second cache, which a
// whole v does not fit into. G^T c: a thread owns the columns of one piece and walks down the rows.
#include "explicit_rows.h"

#include <type_traits>

namespace fu {
namespace {

constexpr int kThreads = 256;
constexpr int kRows = 8;
constexpr int64_t kStretch = 1 << 16;  // columns of one block of G v
constexpr int kHeld = 1024;            // coefficients in shared memory at a time

// 16 bytes of a row, or one number of rows that are not aligned.
template <class S, int kWide>
struct alignas(sizeof(S) * kWide) Piece {
    S value[kWide];
};

template <class S, int kWide>
__device__ inline Piece<S, kWide> piece_at(const S* p) {
    return *reinterpret_cast<const Piece<S, kWide>*>(p);
}

// kWide numbers of a float32 vector, aligned to 16 bytes where kWide is not 1.
template <int kWide>
__device__ inline void load(const float* p, float (&x)[kWide]) {
    constexpr int kEach = kWide >= 4 ? 4 : 1;
#pragma unroll
    for (int n = 0; n < kWide; n += kEach) {
        const Piece<float, kEach> piece = piece_at<float, kEach>(p + n);
#pragma unroll
        for (int i = 0; i < kEach; ++i) x[n + i] = piece.value[i];
    }
}

template <class S, int kWide>
__device__ inline float dot(const float (&x)[kWide], const Piece<S, kWide>& y) {
    float sum = 0.0f;
#pragma unroll
    for (int n = 0; n < kWide; ++n) sum += x[n] * widen(y.value[n]);
    return sum;
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
    const int64_t bands = (g.count + kRows - 1) / kRows, stretch = blockIdx.x / bands;
    const int64_t first = blockIdx.x % bands * kRows, groups = g.scales ? (g.width + g.group - 1) / g.group : 0;
    const int64_t begin = stretch * kStretch, end = min(begin + kStretch, g.width);
    const S* row[kRows];  // beyond the last row the last one is read, and its sum dropped: no branch between loads
    const float* scale[kRows];
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
        const int64_t number = min(first + r, g.count - 1);
        row[r] = rows + number * g.stride;
        scale[r] = g.scales ? g.scales + number * groups : nullptr;
    }
    float sum[kRows] = {};
    int64_t c = begin + threadIdx.x * kWide;
    for (; c + kWide <= end; c += kThreads * kWide) {
        Piece<S, kWide> y[kRows];
#pragma unroll
        for (int r = 0; r < kRows; ++r) y[r] = piece_at<S, kWide>(row[r] + c);
        float factor[kRows];
        const int64_t group = g.scales ? c / g.group : 0;
#pragma unroll
        for (int r = 0; r < kRows; ++r) factor[r] = g.scales ? scale[r][group] : 1.0f;
        float x[kWide];
        load<kWide>(v + c, x);
#pragma unroll
        for (int r = 0; r < kRows; ++r) sum[r] += factor[r] * dot<S, kWide>(x, y[r]);
    }
    for (; c < end; ++c)  // what is left of the row is this thread's
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
            const float part = v[c] * widen(row[r][c]);
            sum[r] += g.scales ? part * scale[r][c / g.group] : part;
        }
    for (int r = 0; r < kRows; ++r) {
        const float total = block_sum(sum[r], shared);
        if (threadIdx.x == 0 && first + r < g.count) scratch[stretch * g.count + first + r] = total;
    }
}

__global__ void finish_kernel(const float* scratch, int64_t parts, int64_t count, float* out) {
    const int64_t row = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
    if (row >= count) return;
    double total = 0;
    for (int64_t part = 0; part < parts; ++part) total += double(scratch[part * count + row]);
    out[row] = float(total);
}

// sum += held[r] G_r for rows r to r + kTogether of a piece: all of them are read before the first is used.
template <class S, int kWide, int kTogether>
__device__ inline void add_rows(const S* at, int64_t stride, const float* scale, int64_t groups, const float* held,
                                int r, float (&sum)[kWide]) {
    Piece<S, kWide> y[kTogether];
    const S* next = at + r * stride;
#pragma unroll
    for (int i = 0; i < kTogether; ++i, next += stride) y[i] = piece_at<S, kWide>(next);
    float factor[kTogether];
#pragma unroll
    for (int i = 0; i < kTogether; ++i) factor[i] = scale ? held[r + i] * scale[(r + i) * groups] : held[r + i];
#pragma unroll
    for (int i = 0; i < kTogether; ++i)
#pragma unroll
        for (int n = 0; n < kWide; ++n) sum[n] += factor[i] * widen(y[i].value[n]);
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
        const S* at = rows + base * g.stride + c;
        const float* scale = g.scales ? g.scales + base * groups + c / g.group : nullptr;
        if (left >= kWide) {
            int r = 0;
            for (; r + kRows <= here; r += kRows) add_rows<S, kWide, kRows>(at, g.stride, scale, groups, held, r, sum);
            for (; r < here; ++r) add_rows<S, kWide, 1>(at, g.stride, scale, groups, held, r, sum);
        } else {
            for (int r = 0; r < here; ++r)
                for (int n = 0; n < left; ++n)
                    sum[n] += (scale ? held[r] * scale[r * groups] : held[r]) * widen(at[r * g.stride + n]);
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
    if (bands * parts > INT32_MAX) return cudaErrorInvalidValue;
    if (parts > 0) {
        const cudaError_t status = dispatch(g, v, [&](auto type, auto wide) {
            partial_kernel<decltype(type), wide.value><<<unsigned(bands * parts), kThreads, 0, stream>>>(g, v, scratch);
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
