// Streams G through registers in 16-byte pieces. G v: a block takes a stretch of columns of kRows rows, so that a piece
// of v, once read, serves kRows rows. Blocks of one stretch are neighbours: they find it in the second cache, which a
// whole v does not fit into. G^T c: a thread owns the columns of one piece and walks down the rows.
#include "explicit_rows.h"

#include <algorithm>
#include <type_traits>

namespace fu {
namespace {

constexpr int kThreads = 256;  // at most; as many warps as a row has pieces for
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

// One block of threads: kRows rows of one stretch of one of the G_b.
template <class S, int kWide, bool kScaled>
__global__ void __launch_bounds__(kThreads, 2)
    partial_kernel(const ExplicitRows g, const float* vectors, float* scratch) {
    __shared__ float shared[kThreads / 32][kRows];
    const int64_t bands = (g.count + kRows - 1) / kRows, parts = (g.width + kStretch - 1) / kStretch;
    const int64_t stretch = blockIdx.x / bands % parts, b = blockIdx.x / bands / parts;
    const int64_t first = blockIdx.x % bands * kRows, groups = kScaled ? (g.width + g.group - 1) / g.group : 0;
    const int64_t begin = stretch * kStretch, end = min(begin + kStretch, g.width);
    const S* rows = static_cast<const S*>(g.rows) + b * g.block_stride;
    const float* v = vectors + b * g.width;
    // Beyond the last row the last one is read, and its sum dropped: no branch between loads.
    const int last = int(min(int64_t(kRows), g.count - first)) - 1;
    const S* row[kRows];
#pragma unroll
    for (int r = 0; r < kRows; ++r) row[r] = rows + (first + min(r, last)) * g.stride;
    const float* scales = kScaled ? g.scales + (b * g.count + first) * groups : nullptr;
    float sum[kRows] = {};
    int64_t c = begin + threadIdx.x * kWide;
    for (; c + kWide <= end; c += blockDim.x * kWide) {
        Piece<S, kWide> y[kRows];
#pragma unroll
        for (int r = 0; r < kRows; ++r) y[r] = piece_at<S, kWide>(row[r] + c);
        float factor[kRows];
        const int64_t group = kScaled ? c / g.group : 0;
#pragma unroll
        for (int r = 0; r < kRows; ++r) factor[r] = kScaled ? scales[min(r, last) * groups + group] : 1.0f;
        float x[kWide];
        load<kWide>(v + c, x);
#pragma unroll
        for (int r = 0; r < kRows; ++r) sum[r] += factor[r] * dot<S, kWide>(x, y[r]);
    }
    for (; c < end; ++c)  // what is left of the row is this thread's
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
            const float part = v[c] * widen(row[r][c]);
            sum[r] += kScaled ? part * scales[min(r, last) * groups + c / g.group] : part;
        }
#pragma unroll
    for (int r = 0; r < kRows; ++r)
        for (int offset = 16; offset > 0; offset /= 2) sum[r] += __shfl_down_sync(0xffffffffu, sum[r], offset);
    if (threadIdx.x % 32 == 0)
        for (int r = 0; r < kRows; ++r) shared[threadIdx.x / 32][r] = sum[r];
    __syncthreads();
    if (threadIdx.x < kRows && first + threadIdx.x < g.count) {
        float total = 0.0f;
        for (int warp = 0; warp < int(blockDim.x) / 32; ++warp) total += shared[warp][threadIdx.x];
        scratch[(b * parts + stretch) * g.count + first + threadIdx.x] = total;
    }
}

// The rows of all blocks, a thread each.
__global__ void finish_kernel(const float* scratch, int64_t parts, int64_t count, int64_t blocks, float* out) {
    const int64_t n = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
    if (n >= blocks * count) return;
    const int64_t b = n / count, row = n % count;
    double total = 0;
    for (int64_t part = 0; part < parts; ++part) total += double(scratch[(b * parts + part) * count + row]);
    out[n] = float(total);
}

// sum += held[r] G_r for rows r to r + kTogether of a piece: all of them are read before the first is used.
template <class S, int kWide, bool kScaled, int kTogether>
__device__ inline void add_rows(const S* at, int64_t stride, const float* scale, int64_t groups, const float* held,
                                int r, float (&sum)[kWide]) {
    Piece<S, kWide> y[kTogether];
    const S* next = at + r * stride;
#pragma unroll
    for (int i = 0; i < kTogether; ++i, next += stride) y[i] = piece_at<S, kWide>(next);
    float factor[kTogether];
#pragma unroll
    for (int i = 0; i < kTogether; ++i) factor[i] = kScaled ? held[r + i] * scale[(r + i) * groups] : held[r + i];
#pragma unroll
    for (int i = 0; i < kTogether; ++i)
#pragma unroll
        for (int n = 0; n < kWide; ++n) sum[n] += factor[i] * widen(y[i].value[n]);
}

template <class S, int kWide, bool kScaled>
__global__ void __launch_bounds__(kThreads, 4)
    transposed_kernel(const ExplicitRows g, const float* all_coefficients, float* all_out, bool add) {
    __shared__ float held[kHeld];
    const int64_t each = int64_t(blockDim.x) * kWide, across = (g.width + each - 1) / each, b = blockIdx.x / across;
    const int64_t c = blockIdx.x % across * each + threadIdx.x * kWide, left = g.width - c;
    const int64_t groups = kScaled ? (g.width + g.group - 1) / g.group : 0;
    const S* at = static_cast<const S*>(g.rows) + b * g.block_stride + c;
    const float* scale = kScaled ? g.scales + b * g.count * groups + c / g.group : nullptr;
    const float* coefficients = all_coefficients + b * g.count;
    float* out = all_out + b * g.width + c;
    float sum[kWide] = {};
    for (int64_t base = 0; base < g.count; base += kHeld) {
        const int here = int(min(int64_t(kHeld), g.count - base));
        __syncthreads();
        for (int n = threadIdx.x; n < here; n += blockDim.x) held[n] = coefficients[base + n];
        __syncthreads();
        if (left >= kWide) {
            int r = 0;
            for (; r + kRows <= here; r += kRows)
                add_rows<S, kWide, kScaled, kRows>(at, g.stride, scale, groups, held, r, sum);
            for (; r < here; ++r) add_rows<S, kWide, kScaled, 1>(at, g.stride, scale, groups, held, r, sum);
        } else {
            for (int r = 0; r < here; ++r) {
                const float factor = kScaled && left > 0 ? held[r] * scale[r * groups] : held[r];
#pragma unroll
                for (int n = 0; n < kWide; ++n)
                    if (n < left) sum[n] += factor * widen(at[r * g.stride + n]);
            }
        }
        at += here * g.stride;
        if (kScaled) scale += here * groups;
    }
#pragma unroll
    for (int n = 0; n < kWide; ++n)
        if (n < left) out[n] = add ? out[n] + sum[n] : sum[n];
}

// f(type, numbers in 16 bytes, whether there are scales) for the dtype of g; single numbers where rows, or a vector of
// each block, are not aligned.
template <class F>
cudaError_t dispatch(const ExplicitRows& g, const void* vector, F f) {
    const bool vectors_fit = reinterpret_cast<std::uintptr_t>(vector) % 16 == 0 && (g.blocks == 1 || g.width % 4 == 0);
    const auto fits = [&](int bytes) {
        return vectors_fit && aligned16(g.rows, g.stride, bytes) && (g.blocks == 1 || g.block_stride * bytes % 16 == 0);
    };
    const auto with = [&](auto type, auto wide) {
        const auto scaled = [&](auto yes) {
            return fits(sizeof(type)) ? f(type, wide, yes) : f(type, std::integral_constant<int, 1>(), yes);
        };
        return g.scales ? scaled(std::true_type()) : scaled(std::false_type());
    };
    switch (g.dtype) {
        case kFloat32: return with(float(), std::integral_constant<int, 4>());
        case kBFloat16: return with(__nv_bfloat16(), std::integral_constant<int, 8>());
        case kInt8: return with(int8_t(), std::integral_constant<int, 16>());
        default: return cudaErrorInvalidValue;
    }
}

// Threads for a row of `width` numbers, kWide at a time: whole warps.
int threads_for(int64_t width, int wide) {
    const int64_t pieces = (width + wide - 1) / wide;
    return int(std::min<int64_t>(kThreads, (pieces + 31) / 32 * 32));
}

}  // namespace

int64_t rows_times_vector_parts(const ExplicitRows& g) { return (g.width + kStretch - 1) / kStretch; }

cudaError_t rows_times_vector(const ExplicitRows& g, const float* v, float* scratch, float* out, cudaStream_t stream) {
    if (g.count == 0 || g.blocks == 0) return cudaSuccess;
    const int64_t parts = rows_times_vector_parts(g), bands = (g.count + kRows - 1) / kRows;
    if (bands * parts * g.blocks > INT32_MAX) return cudaErrorInvalidValue;
    if (parts > 0) {
        const unsigned grid = unsigned(bands * parts * g.blocks);
        const cudaError_t status = dispatch(g, v, [&](auto type, auto wide, auto scaled) {
            const int threads = threads_for(g.width, wide.value);
            partial_kernel<decltype(type), wide.value, scaled.value><<<grid, threads, 0, stream>>>(g, v, scratch);
            return cudaGetLastError();
        });
        if (status != cudaSuccess) return status;
    }
    finish_kernel<<<unsigned((g.blocks * g.count + 127) / 128), 128, 0, stream>>>(scratch, parts, g.count, g.blocks,
                                                                                  out);
    return cudaGetLastError();
}

cudaError_t vector_times_rows(const ExplicitRows& g, const float* coefficients, float* out, bool add,
                              cudaStream_t stream) {
    if (g.width == 0 || g.blocks == 0) return cudaSuccess;
    return dispatch(g, out, [&](auto type, auto wide, auto scaled) {
        const int threads = threads_for(g.width, wide.value);
        const int64_t each = int64_t(threads) * wide.value, grid = (g.width + each - 1) / each * g.blocks;
        if (grid > INT32_MAX) return cudaErrorInvalidValue;
        transposed_kernel<decltype(type), wide.value, scaled.value>
            <<<unsigned(grid), threads, 0, stream>>>(g, coefficients, out, add);
        return cudaGetLastError();
    });
}

}  // namespace fu
