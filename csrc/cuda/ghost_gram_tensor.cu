// The ghost Gram of bfloat16 and float16 on tensor cores (sm_80 and newer, by warp-level 16 x 16 x 16 products).
//
// A block of eight warps makes a tile of 128 x 128 tokens: P = X1 X2^T and Q = G1 G2^T stay in registers as fragments
// of one layout, so they are multiplied number by number there. Slabs of 32 columns come in by asynchronous copies,
// two in flight while one is multiplied. The product then takes the slabs' place in shared memory and is summed there.
#include <cuda_pipeline.h>
#include <mma.h>

#include "sample_sums.h"

namespace fu {
namespace {

using namespace nvcuda;

constexpr int kTile = 128;
constexpr int kSlab = 32;
constexpr int kRow = kSlab + 8;  // numbers from one row of a slab to the next: spreads rows over the banks
constexpr int kStages = 3;
constexpr int kThreads = 256;
constexpr int kPitch = kTile + 4;      // of the finished tile, in floats
constexpr int kDown = 4, kAcross = 2;  // fragments of a warp: 64 x 32 tokens; warps are 2 x 4
constexpr int kMostRowTiles = 65535;

constexpr int kSlabBytes = kStages * 2 * kTile * kRow * 2;
constexpr int kTileBytes = kTile * kPitch * 4;
constexpr int kShared = kSlabBytes > kTileBytes ? kSlabBytes : kTileBytes;

struct Operand {
    const void* base;
    int64_t stride;
    int64_t first;  // row of the tile's first token
    int rows;       // tokens of this tile
    bool vectors;   // rows can be read 16 bytes at a time
};

// One slab of one operand into shared memory; what lies outside is zero. Eight numbers, 16 bytes, at a time.
template <class S>
__device__ void fetch(S* slab, const Operand& o, int64_t k0, int64_t width) {
    for (int piece = threadIdx.x; piece < kTile * kSlab / 8; piece += kThreads) {
        const int row = piece / (kSlab / 8), k = piece % (kSlab / 8) * 8;
        S* to = slab + row * kRow + k;
        const S* from = static_cast<const S*>(o.base) + (o.first + row) * o.stride + k0 + k;
        const int64_t left = row < o.rows ? width - k0 - k : 0;
        if (left >= 8 && o.vectors) {
            __pipeline_memcpy_async(to, from, 16);
        } else {
            for (int n = 0; n < 8; ++n) to[n] = n < left ? from[n] : S(0.0f);
        }
    }
}

template <class S>
using Sum = wmma::fragment<wmma::accumulator, 16, 16, 16, float>;

template <class S>
__device__ void multiply(S* slabs, const Operand& a, const Operand& b, int64_t width, Sum<S> (&sum)[kDown][kAcross]) {
    const int warp = threadIdx.x / 32;
    const int top = warp / 4 * (kDown * 16), left = warp % 4 * (kAcross * 16);
    for (int i = 0; i < kDown; ++i)
        for (int j = 0; j < kAcross; ++j) wmma::fill_fragment(sum[i][j], 0.0f);
    const int64_t steps = (width + kSlab - 1) / kSlab;
    const auto slab = [slabs](int64_t step, int side) { return slabs + (step % kStages * 2 + side) * kTile * kRow; };
    __syncthreads();  // the product before is done with the slabs
    for (int64_t step = 0; step < kStages - 1; ++step) {
        if (step < steps) {
            fetch(slab(step, 0), a, step * kSlab, width);
            fetch(slab(step, 1), b, step * kSlab, width);
        }
        __pipeline_commit();
    }
    for (int64_t step = 0; step < steps; ++step) {
        __pipeline_wait_prior(kStages - 2);
        __syncthreads();  // this slab has come for all, and the slab that is fetched next was read by all
        const int64_t next = step + kStages - 1;
        if (next < steps) {
            fetch(slab(next, 0), a, next * kSlab, width);
            fetch(slab(next, 1), b, next * kSlab, width);
        }
        __pipeline_commit();
        const S* rows = slab(step, 0);
        const S* columns = slab(step, 1);
#pragma unroll
        for (int k = 0; k < kSlab; k += 16) {
            wmma::fragment<wmma::matrix_a, 16, 16, 16, S, wmma::row_major> one[kDown];
            wmma::fragment<wmma::matrix_b, 16, 16, 16, S, wmma::col_major> two[kAcross];
#pragma unroll
            for (int i = 0; i < kDown; ++i) wmma::load_matrix_sync(one[i], rows + (top + i * 16) * kRow + k, kRow);
#pragma unroll
            for (int j = 0; j < kAcross; ++j)
                wmma::load_matrix_sync(two[j], columns + (left + j * 16) * kRow + k, kRow);
#pragma unroll
            for (int i = 0; i < kDown; ++i)
#pragma unroll
                for (int j = 0; j < kAcross; ++j) wmma::mma_sync(sum[i][j], one[i], two[j], sum[i][j]);
        }
    }
}

template <class S>
__global__ void __launch_bounds__(kThreads) gram_kernel(const GramProblem p, bool x_vectors, bool g_vectors) {
    if (p.symmetric && blockIdx.x < blockIdx.y) return;
    extern __shared__ __align__(32) unsigned char shared[];  // 32: what fragments need
    __shared__ int32_t row_owner[kTile], column_owner[kTile];
    S* slabs = reinterpret_cast<S*>(shared);
    float* tile = reinterpret_cast<float*>(shared);
    const int64_t row = int64_t(blockIdx.y) * kTile, column = int64_t(blockIdx.x) * kTile;
    const int rows = int(min(int64_t(kTile), p.first.tokens - row));
    const int columns = int(min(int64_t(kTile), p.second.tokens - column));
    if (threadIdx.x < rows) row_owner[threadIdx.x] = p.first.owner[row + threadIdx.x];
    if (threadIdx.x < columns) column_owner[threadIdx.x] = p.second.owner[column + threadIdx.x];

    Sum<S> inputs[kDown][kAcross], gradients[kDown][kAcross];
    multiply<S>(slabs, {p.first.x, p.first.x_stride, row, rows, x_vectors},
                {p.second.x, p.second.x_stride, column, columns, x_vectors}, p.d_in, inputs);
    multiply<S>(slabs, {p.first.g, p.first.g_stride, row, rows, g_vectors},
                {p.second.g, p.second.g_stride, column, columns, g_vectors}, p.d_out, gradients);
    __syncthreads();  // the slabs give way to the tile
    const float shift = p.bias ? 1.0f : 0.0f;
    const int warp = threadIdx.x / 32;
    const int top = warp / 4 * (kDown * 16), left = warp % 4 * (kAcross * 16);
#pragma unroll
    for (int i = 0; i < kDown; ++i)
#pragma unroll
        for (int j = 0; j < kAcross; ++j) {
            for (int n = 0; n < inputs[i][j].num_elements; ++n)
                inputs[i][j].x[n] = (inputs[i][j].x[n] + shift) * gradients[i][j].x[n];
            wmma::store_matrix_sync(tile + (top + i * 16) * kPitch + left + j * 16, inputs[i][j], kPitch,
                                    wmma::mem_row_major);
        }
    __syncthreads();
    sum_rows<kPitch>(tile, row_owner, rows, columns);
    __syncthreads();
    add_columns<kPitch>(tile, p, row_owner, rows, column_owner, columns, blockIdx.x == blockIdx.y);
}

template <class S>
cudaError_t launch(const GramProblem& p, cudaStream_t stream) {
    const int64_t down = (p.first.tokens + kTile - 1) / kTile;
    if (down > kMostRowTiles) return cudaErrorInvalidValue;
    const bool x = aligned16(p.first.x, p.first.x_stride, 2) && aligned16(p.second.x, p.second.x_stride, 2);
    const bool g = aligned16(p.first.g, p.first.g_stride, 2) && aligned16(p.second.g, p.second.g_stride, 2);
    const cudaError_t status =
        cudaFuncSetAttribute(gram_kernel<S>, cudaFuncAttributeMaxDynamicSharedMemorySize, kShared);
    if (status != cudaSuccess) return status;
    const dim3 grid(unsigned((p.second.tokens + kTile - 1) / kTile), unsigned(down));
    gram_kernel<S><<<grid, kThreads, kShared, stream>>>(p, x, g);
    return cudaGetLastError();
}

}  // namespace

cudaError_t ghost_gram_tensor(const GramProblem& problem, cudaStream_t stream) {
    return problem.dtype == kBFloat16 ? launch<__nv_bfloat16>(problem, stream) : launch<__half>(problem, stream);
}

}  // namespace fu
