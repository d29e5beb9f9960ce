// One thread block makes a kTile x kTile tile of tokens: P = X1 X2^T and then Q = G1 G2^T in registers, by way
// of slabs in shared memory; their product goes to shared memory, is summed by sample on both sides, and the
// sums of the pairs of samples are added to the result by float64 atomics. The order of those additions varies,
// but in float64, so it does not show in a float32 result beyond a rare last bit.
//
// Version log: 1, plain FMA tiles for every dtype; 2, bfloat16 and float16 go to tensor cores (ghost_gram_tensor.cu).
#include "sample_sums.h"

namespace fu {
namespace {

constexpr int kTile = 64;             // tokens on each side of a tile
constexpr int kSlab = 16;             // part of d at a time
constexpr int kSide = 16;             // threads on each side of a block
constexpr int kEach = kTile / kSide;  // tokens on each side of a thread's share
constexpr int kThreads = kSide * kSide;
constexpr int kMostRowTiles = 65535;  // limit of gridDim.y

// Shared memory: the two slabs while multiplying, the finished tile afterwards. The odd pitch of the tile
// spreads a column over the banks.
template <class T>
union Shared {
    struct {
        T a[kSlab][kTile + 4];
        T b[kSlab][kTile + 4];
    } slabs;
    T tile[kTile][kTile + 1];
};

template <class S, class T>
__device__ void load_slab(T (*slab)[kTile + 4], const S* base, int64_t stride, int64_t row, int64_t rows, int64_t k0,
                          int64_t width) {
    // 16 neighbouring threads read 16 neighbouring numbers of one row.
    const int k = threadIdx.x % kSlab;
    for (int r = threadIdx.x / kSlab; r < kTile; r += kThreads / kSlab) {
        const bool inside = r < rows && k0 + k < width;
        slab[k][r] = inside ? widen(base[(row + r) * stride + k0 + k]) : T(0);
    }
}

// sum = A B^T for the tile's rows of two matrices of `width` columns; rows beyond the end count as zeros.
template <class S, class T>
__device__ void multiply(Shared<T>& s, const void* a, int64_t a_stride, int64_t row, int64_t rows, const void* b,
                         int64_t b_stride, int64_t column, int64_t columns, int64_t width, T (&sum)[kEach][kEach]) {
    const int ty = threadIdx.x / kSide, tx = threadIdx.x % kSide;
    for (int i = 0; i < kEach; ++i)
        for (int j = 0; j < kEach; ++j) sum[i][j] = 0;
    for (int64_t k0 = 0; k0 < width; k0 += kSlab) {
        __syncthreads();  // the slabs of the step before were read by all
        load_slab<S, T>(s.slabs.a, static_cast<const S*>(a), a_stride, row, rows, k0, width);
        load_slab<S, T>(s.slabs.b, static_cast<const S*>(b), b_stride, column, columns, k0, width);
        __syncthreads();
#pragma unroll
        for (int k = 0; k < kSlab; ++k) {
            T left[kEach], right[kEach];
#pragma unroll
            for (int i = 0; i < kEach; ++i) left[i] = s.slabs.a[k][ty * kEach + i];
#pragma unroll
            for (int j = 0; j < kEach; ++j) right[j] = s.slabs.b[k][tx + j * kSide];
#pragma unroll
            for (int i = 0; i < kEach; ++i)
#pragma unroll
                for (int j = 0; j < kEach; ++j) sum[i][j] += left[i] * right[j];
        }
    }
}

template <class S, class T>
__global__ void __launch_bounds__(kThreads) ghost_gram_kernel(const GramProblem p) {
    if (p.symmetric && blockIdx.x < blockIdx.y) return;
    __shared__ Shared<T> s;
    __shared__ int32_t row_owner[kTile], column_owner[kTile];
    const int64_t row = int64_t(blockIdx.y) * kTile, column = int64_t(blockIdx.x) * kTile;
    const int rows = int(min(int64_t(kTile), p.first.tokens - row));
    const int columns = int(min(int64_t(kTile), p.second.tokens - column));
    if (threadIdx.x < rows) row_owner[threadIdx.x] = p.first.owner[row + threadIdx.x];
    if (threadIdx.x < columns) column_owner[threadIdx.x] = p.second.owner[column + threadIdx.x];

    T inputs[kEach][kEach], gradients[kEach][kEach];
    multiply<S, T>(s, p.first.x, p.first.x_stride, row, rows, p.second.x, p.second.x_stride, column, columns, p.d_in,
                   inputs);
    multiply<S, T>(s, p.first.g, p.first.g_stride, row, rows, p.second.g, p.second.g_stride, column, columns, p.d_out,
                   gradients);
    __syncthreads();  // the slabs give way to the tile
    const T shift = p.bias ? T(1) : T(0);
    const int ty = threadIdx.x / kSide, tx = threadIdx.x % kSide;
    for (int i = 0; i < kEach; ++i)
        for (int j = 0; j < kEach; ++j)
            s.tile[ty * kEach + i][tx + j * kSide] = (inputs[i][j] + shift) * gradients[i][j];
    __syncthreads();
    sum_rows<kTile + 1>(&s.tile[0][0], row_owner, rows, columns);
    __syncthreads();
    add_columns<kTile + 1>(&s.tile[0][0], p, row_owner, rows, column_owner, columns, blockIdx.x == blockIdx.y);
}

template <class S, class T>
cudaError_t launch(const GramProblem& p, cudaStream_t stream) {
    const dim3 grid(unsigned((p.second.tokens + kTile - 1) / kTile), unsigned((p.first.tokens + kTile - 1) / kTile));
    ghost_gram_kernel<S, T><<<grid, kThreads, 0, stream>>>(p);
    return cudaGetLastError();
}

}  // namespace

int64_t ghost_gram_most_tokens() { return int64_t(kMostRowTiles) * kTile; }

cudaError_t ghost_gram(const GramProblem& problem, cudaStream_t stream) {
    if (problem.first.tokens == 0 || problem.second.tokens == 0) return cudaSuccess;
    switch (problem.dtype) {
        case kFloat32: return launch<float, float>(problem, stream);
        case kFloat64: return launch<double, double>(problem, stream);
        case kBFloat16:
        case kFloat16: return ghost_gram_tensor(problem, stream);
        default: return cudaErrorInvalidValue;
    }
}

}  // namespace fu
