// Packing and the micro-kernel of the matrix product. Compiled once per instruction set: see simd.h.
#include "gemm_kernels.h"
#include "kernels.h"
#include "micro_tile.h"
#include "simd.h"

namespace fu {
namespace {

template <class T>
constexpr int lanes = FU_BYTES / int(sizeof(T));

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
    const V low = __builtin_shufflevector(a, b, low_lane(I, D, n)...);
    b = __builtin_shufflevector(a, b, high_lane(I, D, n)...);
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
template <int kPanel, class Read, class T>
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
    constexpr int kColumns = kVectors * lanes<T>;
    if (depth_stride == 1) {
        for (int64_t r = 0; r < rows; r += panel)
            pack_along<Read>(from + r * row_stride, row_stride, rows - r, depth, panel, packed + r * depth);
    } else if (row_stride == 1 && panel == kRows) {
        pack_across<kRows, Read>(from, depth_stride, rows, depth, packed);
    } else if (row_stride == 1 && panel == kColumns) {
        pack_across<kColumns, Read>(from, depth_stride, rows, depth, packed);
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
inline void micro_tile(const T* a, const T* b, int64_t depth, T* c, int64_t ldc, bool accumulate) {
    using V = typename Vector<T>::type;
    V sum[kRows][kVectors] = {};
    for (int64_t k = 0; k < depth; ++k) {
        V right[kVectors];
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v) right[v] = load(b + v * lanes<T>);
#pragma GCC unroll 16
        for (int r = 0; r < kRows; ++r) {
            const T left = a[r];
#pragma GCC unroll 4
            for (int v = 0; v < kVectors; ++v) sum[r][v] += left * right[v];
        }
        a += kRows;
        b += kVectors * lanes<T>;
    }
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v) {
            T* place = c + r * ldc + v * lanes<T>;
            store(place, accumulate ? load(place) + sum[r][v] : sum[r][v]);
        }
    }
}

template <class T>
void product(const T* a, int64_t rows, const T* b, int64_t columns, int64_t depth, T* c, int64_t ldc, bool accumulate) {
    constexpr int64_t kColumns = kVectors * lanes<T>;
    for (int64_t j = 0; j < columns; j += kColumns) {  // a panel of b stays in the first cache while all of a passes by
        for (int64_t i = 0; i < rows; i += kRows) {
            const T* left = a + i * depth;
            const T* right = b + j * depth;
            T* to = c + i * ldc + j;
            if (i + kRows <= rows && j + kColumns <= columns) {
                micro_tile(left, right, depth, to, ldc, accumulate);
                continue;
            }
            alignas(64) T edge[kRows * kColumns];
            micro_tile(left, right, depth, edge, kColumns, false);
            const int64_t height = rows - i < kRows ? rows - i : kRows;
            const int64_t width = columns - j < kColumns ? columns - j : kColumns;
            for (int64_t r = 0; r < height; ++r)
                for (int64_t s = 0; s < width; ++s)
                    to[r * ldc + s] = accumulate ? to[r * ldc + s] + edge[r * kColumns + s] : edge[r * kColumns + s];
        }
    }
}

}  // namespace

extern const GemmKernels FU_JOIN(gemm_kernels_, FU_ISA);
const GemmKernels FU_JOIN(gemm_kernels_, FU_ISA) = {
    {kRows, kVectors * lanes<float>, pack_f32, product<float>},
    {kRows, kVectors * lanes<double>, pack_f64, product<double>},
};

}  // namespace fu
