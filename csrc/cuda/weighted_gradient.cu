// A block makes one tile of out and walks over all tokens: no atomics, one reading and one writing of out. Half
// precision: 128 x 128 tiles, eight warps, 16 x 16 x 16 products; the next slab of tokens is read into registers while
// the present one is multiplied, and g is scaled on its way to shared memory. There w_t g_t is kept as two numbers of
// the dtype, what it rounds to and what that leaves: where weights solve a nearly singular system, the sum is a small
// difference of large terms, and one rounding of each would be most of it. Else: 64 x 64 tiles of plain FMA.
#include <mma.h>

#include "weighted_gradient.h"

namespace fu {
namespace {

using namespace nvcuda;

constexpr int kThreads = 256;
constexpr int kMostRowTiles = 65535;

// ---- tensor cores ----
constexpr int kTile = 128;
constexpr int kSlab = 32;                              // tokens at a time
constexpr int kRow = kTile + 8;                        // numbers from one token to the next in shared memory
constexpr int kDown = 4, kAcross = 2;                  // fragments of a warp: 64 x 32 of out; warps are 2 x 4
constexpr int kPieces = kSlab * kTile / 8 / kThreads;  // 16-byte pieces of one slab of one operand per thread

template <class S>
struct alignas(16) Piece {
    S value[8];
};

template <class S>
__device__ void read(Piece<S> (&held)[kPieces], const S* base, int64_t stride, int64_t token, int64_t tokens,
                     int64_t column, int64_t width, bool vectors) {
#pragma unroll
    for (int n = 0; n < kPieces; ++n) {
        const int piece = threadIdx.x + n * kThreads;
        const int64_t t = token + piece / (kTile / 8), c = column + piece % (kTile / 8) * 8;
        const int64_t left = t < tokens ? width - c : 0;
        const S* from = base + t * stride + c;
        if (left >= 8 && vectors) {
            held[n] = *reinterpret_cast<const Piece<S>*>(from);
        } else {
            for (int e = 0; e < 8; ++e) held[n].value[e] = e < left ? from[e] : S(0.0f);
        }
    }
}

template <class S>
__device__ void put(S* slab, const Piece<S> (&held)[kPieces]) {
#pragma unroll
    for (int n = 0; n < kPieces; ++n) {
        const int piece = threadIdx.x + n * kThreads;
        *reinterpret_cast<Piece<S>*>(slab + piece / (kTile / 8) * kRow + piece % (kTile / 8) * 8) = held[n];
    }
}

// Weights times what is held: the rounded products stay there, what rounding left off goes to ``rest``.
template <class S>
__device__ void scale(Piece<S> (&held)[kPieces], Piece<S> (&rest)[kPieces], const float* weights, int64_t token,
                      int64_t tokens) {
#pragma unroll
    for (int n = 0; n < kPieces; ++n) {
        const int64_t t = token + (threadIdx.x + n * kThreads) / (kTile / 8);
        const float w = t < tokens ? weights[t] : 0.0f;
        for (int e = 0; e < 8; ++e) {
            const float product = w * widen(held[n].value[e]);
            held[n].value[e] = narrow<S>(product);
            rest[n].value[e] = narrow<S>(product - widen(held[n].value[e]));
        }
    }
}

// kParts: 2 with weights, 1 without (g itself is a number of the dtype).
template <class S, int kParts>
__global__ void __launch_bounds__(kThreads) tensor_kernel(const WeightedGradient p, bool x_vectors, bool g_vectors) {
    __shared__ __align__(32) S left_slab[kParts][kSlab * kRow];
    __shared__ __align__(32) S right_slab[kSlab * kRow];
    __shared__ __align__(32) float staged[kThreads / 32][16 * 20];
    const int64_t row = int64_t(blockIdx.y) * kTile, column = int64_t(blockIdx.x) * kTile;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int top = warp / 4 * (kDown * 16), left = warp % 4 * (kAcross * 16);
    const S* x = static_cast<const S*>(p.x);
    const S* g = static_cast<const S*>(p.g);
    const float* weights = static_cast<const float*>(p.weights);
    wmma::fragment<wmma::accumulator, 16, 16, 16, float> sum[kDown][kAcross];
    for (int i = 0; i < kDown; ++i)
        for (int j = 0; j < kAcross; ++j) wmma::fill_fragment(sum[i][j], 0.0f);
    Piece<S> next_g[kPieces], next_x[kPieces];
    read(next_g, g, p.g_stride, 0, p.tokens, row, p.d_out, g_vectors);
    read(next_x, x, p.x_stride, 0, p.tokens, column, p.d_in, x_vectors);
    for (int64_t token = 0; token < p.tokens; token += kSlab) {
        __syncthreads();  // the slab before was read by all
        if constexpr (kParts == 2) {
            Piece<S> rest[kPieces];
            scale(next_g, rest, weights, token, p.tokens);
            put(left_slab[1], rest);
        }
        put(left_slab[0], next_g);
        put(right_slab, next_x);
        __syncthreads();
        if (token + kSlab < p.tokens) {
            read(next_g, g, p.g_stride, token + kSlab, p.tokens, row, p.d_out, g_vectors);
            read(next_x, x, p.x_stride, token + kSlab, p.tokens, column, p.d_in, x_vectors);
        }
#pragma unroll
        for (int k = 0; k < kSlab; k += 16) {
            wmma::fragment<wmma::matrix_a, 16, 16, 16, S, wmma::col_major> one[kDown];  // g^T: tokens lie along columns
            wmma::fragment<wmma::matrix_b, 16, 16, 16, S, wmma::row_major> two[kAcross];
#pragma unroll
            for (int j = 0; j < kAcross; ++j)
                wmma::load_matrix_sync(two[j], right_slab + k * kRow + left + j * 16, kRow);
#pragma unroll
            for (int part = kParts - 1; part >= 0; --part) {
#pragma unroll
                for (int i = 0; i < kDown; ++i)
                    wmma::load_matrix_sync(one[i], left_slab[part] + k * kRow + top + i * 16, kRow);
#pragma unroll
                for (int i = 0; i < kDown; ++i)
#pragma unroll
                    for (int j = 0; j < kAcross; ++j) wmma::mma_sync(sum[i][j], one[i], two[j], sum[i][j]);
            }
        }
    }
    float* out = static_cast<float*>(p.out);
    const float unit = p.unit == nullptr ? 1.0f : *p.unit;
    for (int i = 0; i < kDown; ++i)
        for (int j = 0; j < kAcross; ++j) {
            __syncwarp();
            wmma::store_matrix_sync(staged[warp], sum[i][j], 20, wmma::mem_row_major);
            __syncwarp();
            for (int n = lane; n < 256; n += 32) {
                const int64_t r = row + top + i * 16 + n / 16, c = column + left + j * 16 + n % 16;
                if (r < p.d_out && c < p.d_in) out[r * p.out_stride + c] += unit * staged[warp][n / 16 * 20 + n % 16];
            }
        }
}

// ---- plain FMA: float32 and float64 ----
constexpr int kPlainTile = 64, kPlainSlab = 16, kSide = 16, kEach = kPlainTile / kSide;

template <class T>
__global__ void __launch_bounds__(kThreads) plain_kernel(const WeightedGradient p) {
    __shared__ T a[kPlainSlab][kPlainTile], b[kPlainSlab][kPlainTile];
    const int64_t row = int64_t(blockIdx.y) * kPlainTile, column = int64_t(blockIdx.x) * kPlainTile;
    const T* x = static_cast<const T*>(p.x);
    const T* g = static_cast<const T*>(p.g);
    const T* weights = static_cast<const T*>(p.weights);
    const int ty = threadIdx.x / kSide, tx = threadIdx.x % kSide;
    T sum[kEach][kEach] = {};
    for (int64_t token = 0; token < p.tokens; token += kPlainSlab) {
        __syncthreads();
        for (int n = threadIdx.x; n < kPlainSlab * kPlainTile; n += kThreads) {
            const int k = n / kPlainTile, c = n % kPlainTile;
            const int64_t t = token + k;
            const bool here = t < p.tokens;
            a[k][c] = here && row + c < p.d_out ? g[t * p.g_stride + row + c] * (weights ? weights[t] : T(1)) : T(0);
            b[k][c] = here && column + c < p.d_in ? x[t * p.x_stride + column + c] : T(0);
        }
        __syncthreads();
#pragma unroll
        for (int k = 0; k < kPlainSlab; ++k)
#pragma unroll
            for (int i = 0; i < kEach; ++i)
#pragma unroll
                for (int j = 0; j < kEach; ++j) sum[i][j] += a[k][ty * kEach + i] * b[k][tx + j * kSide];
    }
    T* out = static_cast<T*>(p.out);
    for (int i = 0; i < kEach; ++i)
        for (int j = 0; j < kEach; ++j) {
            const int64_t r = row + ty * kEach + i, c = column + tx + j * kSide;
            if (r < p.d_out && c < p.d_in) out[r * p.out_stride + c] += sum[i][j];
        }
}

dim3 tiles(const WeightedGradient& p, int size) {
    return dim3(unsigned((p.d_in + size - 1) / size), unsigned((p.d_out + size - 1) / size));
}

template <class S>
cudaError_t launch_tensor(const WeightedGradient& p, cudaStream_t stream) {
    const bool x_vectors = aligned16(p.x, p.x_stride, 2), g_vectors = aligned16(p.g, p.g_stride, 2);
    if (p.weights == nullptr) {
        tensor_kernel<S, 1><<<tiles(p, kTile), kThreads, 0, stream>>>(p, x_vectors, g_vectors);
    } else {
        tensor_kernel<S, 2><<<tiles(p, kTile), kThreads, 0, stream>>>(p, x_vectors, g_vectors);
    }
    return cudaGetLastError();
}

template <class T>
cudaError_t launch_plain(const WeightedGradient& p, cudaStream_t stream) {
    plain_kernel<T><<<tiles(p, kPlainTile), kThreads, 0, stream>>>(p);
    return cudaGetLastError();
}

}  // namespace

cudaError_t weighted_gradient(const WeightedGradient& problem, cudaStream_t stream) {
    if (problem.tokens == 0 || problem.d_in == 0 || problem.d_out == 0) return cudaSuccess;
    if (problem.d_out > int64_t(kMostRowTiles) * kPlainTile) return cudaErrorInvalidValue;
    switch (problem.dtype) {
        case kFloat32: return launch_plain<float>(problem, stream);
        case kFloat64: return launch_plain<double>(problem, stream);
        case kBFloat16: return launch_tensor<__nv_bfloat16>(problem, stream);
        case kFloat16: return launch_tensor<__half>(problem, stream);
        default: return cudaErrorInvalidValue;
    }
}

}  // namespace fu
