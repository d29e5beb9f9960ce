// Packing and the micro-kernel of the matrix product. Compiled once per instruction set: see simd.h.
#include "gemm_kernels.h"
#include "kernels.h"
#include "micro_tile.h"
#include "simd.h"

namespace fu {
namespace {

template <class T>
constexpr int lanes = FU_BYTES / int(sizeof(T));
template <class T>
constexpr int64_t kColumns = kVectors * lanes<T>;

// ---- reading: a scalar or a whole vector of the source dtype, as T ----

template <class T>
struct ReadSame {
    using Source = T;
    static T one(T v) { return v; }
    static typename Vector<T>::type many(const T* from) { return load(from); }
    template <int N>
    static void copy(const T* from, T* to) {
        __builtin_memcpy(to, from, N * sizeof(T));
    }
};
struct ReadBFloat16 {
    using Source = uint16_t;
    static float one(uint16_t v) { return widen_bfloat16(v); }
    static typename Vector<float>::type many(const uint16_t* from) {
        typedef uint16_t Narrow __attribute__((vector_size(FU_BYTES / 2)));
        typedef uint32_t Wide __attribute__((vector_size(FU_BYTES)));
        Narrow narrow;
        __builtin_memcpy(&narrow, from, sizeof(narrow));
        return (typename Vector<float>::type)(__builtin_convertvector(narrow, Wide) << 16);
    }
    template <int N>
    static void copy(const uint16_t* from, float* to) {
        for (int i = 0; i < N; ++i) to[i] = one(from[i]);
    }
};

// ---- transposition of lanes x lanes elements in registers: log2(lanes) rounds of pairwise exchanges ----

template <int... I>
struct Numbers {};
template <int N, int... I>
struct Count : Count<N - 1, N - 1, I...> {};
template <int... I>
struct Count<0, I...> {
    using type = Numbers<I...>;
};

// Lane l of the new row i: from row i where bit `d` of l is clear, else from row i + d (numbered from `n` on).
constexpr int low_lane(int l, int d, int n) { return l & d ? n + l - d : l; }
constexpr int high_lane(int l, int d, int n) { return l & d ? n + l : l + d; }

template <int D, class V, int... I>
inline void exchange(V& a, V& b, Numbers<I...>) {
    constexpr int n = sizeof...(I);
#if defined(__clang__) || __GNUC__ >= 12
    const V low = __builtin_shufflevector(a, b, low_lane(I, D, n)...);
    b = __builtin_shufflevector(a, b, high_lane(I, D, n)...);
#else
    using Picks = decltype(a < b);  // whole numbers, as many and as wide
    const V low = __builtin_shuffle(a, b, Picks{low_lane(I, D, n)...});
    b = __builtin_shuffle(a, b, Picks{high_lane(I, D, n)...});
#endif
    a = low;
}

template <int D, int N, class V>
inline void transpose_round(V* rows) {
#pragma GCC unroll 16
    for (int i = 0; i < N; ++i)
        if (!(i & D)) exchange<D>(rows[i], rows[i + D], typename Count<N>::type());
}

template <int N, class V>
inline void transpose(V* rows) {
    transpose_round<1, N>(rows);
    if constexpr (N > 2) transpose_round<2, N>(rows);
    if constexpr (N > 4) transpose_round<4, N>(rows);
    if constexpr (N > 8) transpose_round<8, N>(rows);
}

// ---- packing ----

// The depth runs along memory: blocks of lanes x lanes are transposed. A panel narrower than a vector is written by
// whole vectors, which spill into the depth after it, and are written over from there.
template <class Read, class T>
void pack_along(const typename Read::Source* from, int64_t stride, int64_t rows, int64_t depth, int64_t panel, T* to) {
    constexpr int L = lanes<T>;
    using V = typename Vector<T>::type;
    const int64_t whole = depth / L * L;
    for (int64_t k = 0; k < whole; k += L) {
        for (int64_t r = 0; r < panel; r += L) {
            V block[L];
#pragma GCC unroll 16
            for (int i = 0; i < L; ++i) {
                const auto* line = from + (r + i) * stride + k;
                block[i] = r + i < rows ? Read::many(line) : V{};
                if (r + i < rows) __builtin_prefetch(line + 4 * L);  // the rows are far apart
            }
            transpose<L>(block);
#pragma GCC unroll 16
            for (int i = 0; i < L; ++i) {
                if (r + L <= panel || panel < L)
                    store(to + (k + i) * panel + r, block[i]);
                else
                    for (int64_t j = r; j < panel; ++j) to[(k + i) * panel + j] = block[i][j - r];
            }
        }
    }
    for (int64_t k = whole; k < depth; ++k)
        for (int64_t r = 0; r < panel; ++r) to[k * panel + r] = r < rows ? Read::one(from[r * stride + k]) : T(0);
}

// The rows run along memory, and a line of it serves all panels, of kPanel rows each.
template <int64_t kPanel, class Read, class T>
void pack_across(const typename Read::Source* from, int64_t stride, int64_t rows, int64_t depth, T* packed) {
    const int64_t whole = rows / kPanel * kPanel;
    for (int64_t k = 0; k < depth; ++k) {
        const auto* line = from + k * stride;
        T* to = packed + k * kPanel;
        for (int64_t r = 0; r < whole; r += kPanel) Read::template copy<kPanel>(line + r, to + r * depth);
        if (whole < rows)
            for (int64_t v = 0; v < kPanel; ++v)
                to[whole * depth + v] = whole + v < rows ? Read::one(line[whole + v]) : T(0);
    }
}

template <class Read, class T>
void pack_from(const void* source, int64_t row_stride, int64_t depth_stride, int64_t rows, int64_t depth, int64_t panel,
               T* packed) {
    const auto* from = static_cast<const typename Read::Source*>(source);
    if (depth_stride == 1) {
        for (int64_t r = 0; r < rows; r += panel)
            pack_along<Read>(from + r * row_stride, row_stride, rows - r, depth, panel, packed + r * depth);
    } else if (row_stride == 1 && panel == kRows) {
        pack_across<kRows, Read>(from, depth_stride, rows, depth, packed);
    } else if (row_stride == 1 && panel == kColumns<T>) {
        pack_across<kColumns<T>, Read>(from, depth_stride, rows, depth, packed);
    } else {
        for (int64_t r0 = 0; r0 < rows; r0 += panel)
            for (int64_t k = 0; k < depth; ++k)
                for (int64_t r = r0; r < r0 + panel; ++r)
                    *packed++ = r < rows ? Read::one(from[r * row_stride + k * depth_stride]) : T(0);
    }
}

void pack_f32(int dtype, const void* source, int64_t row_stride, int64_t depth_stride, int64_t rows, int64_t depth,
              int64_t panel, float* to) {
    if (dtype == kBFloat16)
        pack_from<ReadBFloat16>(source, row_stride, depth_stride, rows, depth, panel, to);
    else
        pack_from<ReadSame<float>>(source, row_stride, depth_stride, rows, depth, panel, to);
}

void pack_f64(int, const void* source, int64_t row_stride, int64_t depth_stride, int64_t rows, int64_t depth,
              int64_t panel, double* to) {
    pack_from<ReadSame<double>>(source, row_stride, depth_stride, rows, depth, panel, to);
}

// ---- product ----

template <class T>
struct Sums {
    typename Vector<T>::type at[kRows][kVectors];
};

// One step of the depth: sums += left right^T, where the rows of `left` are kStride elements apart.
template <int64_t kStride, class T>
inline void add_step(const T* left, const T* b, Sums<T>& sums) {
    typename Vector<T>::type right[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) right[v] = load(b + v * lanes<T>);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
        const T one = left[r * kStride];
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v) sums.at[r][v] += one * right[v];
    }
}

template <class T>
inline void store_sums(const Sums<T>& sums, T* c, int64_t ldc, bool accumulate) {
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v) {
            T* place = c + r * ldc + v * lanes<T>;
            store(place, accumulate ? load(place) + sums.at[r][v] : sums.at[r][v]);
        }
    }
}

// The micro-tile's part of c, and that of its right-hand neighbour, whose turn is later, are on their way to the caches
// while the sums are made.
template <class T>
inline void ask_for(const T* c, int64_t ldc) {
    for (int r = 0; r < kRows; ++r) {
        __builtin_prefetch(c + r * ldc, 1);
        __builtin_prefetch(c + r * ldc + (kVectors - 1) * lanes<T>, 1);
        __builtin_prefetch(c + r * ldc + kVectors * lanes<T>, 1, 2);
        __builtin_prefetch(c + r * ldc + (2 * kVectors - 1) * lanes<T>, 1, 2);
    }
}

// Reads packed rows: depth steps of kRows elements.
template <class T>
struct PackedLeft {
    const T* a;
    void operator()(const T* b, int64_t depth, Sums<T>& sums) const {
        const T* left = a;
        for (int64_t k = 0; k < depth; ++k, left += kRows, b += kColumns<T>) add_step<1>(left, b, sums);
    }
};

// Reads rows that lie in tiles of kColumns depth.
template <class T>
struct TiledLeft {
    const T* a;
    int64_t tile_stride;
    void operator()(const T* b, int64_t depth, Sums<T>& sums) const {
        const T* tile = a;
        for (int64_t k = 0; k < depth; k += kColumns<T>, tile += tile_stride) {
            const int64_t steps = depth - k < kColumns<T> ? depth - k : kColumns<T>;
            for (int64_t j = 0; j < steps; ++j, b += kColumns<T>) add_step<kColumns<T>>(tile + j, b, sums);
        }
    }
};

// One micro-tile, of which `height` x `width` are inside c.
template <class T, class Left>
inline void micro_tile(const Left& left, const T* b, int64_t depth, int64_t height, int64_t width, T* c, int64_t ldc,
                       bool accumulate) {
    Sums<T> sums = {};
    if (height >= kRows && width >= kColumns<T>) {
        if (accumulate) ask_for(c, ldc);
        left(b, depth, sums);
        return store_sums(sums, c, ldc, accumulate);
    }
    alignas(64) T edge[kRows * kColumns<T>];
    left(b, depth, sums);
    store_sums(sums, edge, kColumns<T>, false);
    for (int64_t r = 0; r < height && r < kRows; ++r)
        for (int64_t s = 0; s < width && s < kColumns<T>; ++s)
            c[r * ldc + s] = accumulate ? c[r * ldc + s] + edge[r * kColumns<T> + s] : edge[r * kColumns<T> + s];
}

template <class T>
void product(const T* a, int64_t rows, const T* b, int64_t columns, int64_t depth, T* c, int64_t ldc, bool accumulate) {
    for (int64_t j = 0; j < columns; j += kColumns<T>)  // all of a passes by a panel of b
        for (int64_t i = 0; i < rows; i += kRows)
            micro_tile(PackedLeft<T>{a + i * depth}, b + j * depth, depth, rows - i, columns - j, c + i * ldc + j, ldc,
                       accumulate);
}

template <class T>
void product_tiles(const T* a, int64_t tile_stride, int64_t rows, const T* b, int64_t columns, int64_t depth, T* c,
                   int64_t ldc) {
    for (int64_t i = 0; i < rows; i += kRows)
        micro_tile(TiledLeft<T>{a + i * kColumns<T>, tile_stride}, b, depth, rows - i, columns, c + i * ldc, ldc, true);
}

int64_t length(int64_t depth) { return depth; }

}  // namespace

extern const GemmKernels FU_JOIN(gemm_kernels_, FU_ISA);
constexpr GemmKernels FU_JOIN(gemm_kernels_, FU_ISA) = {
    {kRows, int(kColumns<float>), pack_f32, product<float>, product_tiles<float>, length},
    {kRows, int(kColumns<double>), pack_f64, product<double>, product_tiles<double>, length},
};

}  // namespace fu
