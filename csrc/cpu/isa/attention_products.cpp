// Products of the attention's tiles, packing, and row operations. Compiled once per instruction set: see simd.h.
#include "attention_kernels.h"
#include "kernels.h"
#include "micro_tile.h"
#include "simd.h"

namespace fu {
namespace {

template <class T>
constexpr int64_t kLanes = FU_BYTES / int64_t(sizeof(T));

inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

template <class T, class S, class Widen>
void pack_from(const S* from, int64_t stride, int64_t rows, int64_t columns, T factor, T* matrix, Widen widen) {
    for (int64_t r = 0; r < rows; ++r, from += stride) {
        for (int64_t c0 = 0; c0 < columns; c0 += kChunk) {
            T* to = matrix + c0 * kTile + r * kChunk;
            const int64_t here = least(kChunk, columns - c0);
            for (int64_t c = 0; c < here; ++c) to[c] = factor * widen(from[c0 + c]);
            for (int64_t c = here; c % kLanes<T>; ++c) to[c] = 0;
        }
    }
}

void pack_f32(int dtype, const void* from, int64_t stride, int64_t rows, int64_t columns, float factor, float* matrix) {
    if (dtype == kBFloat16)
        return pack_from(static_cast<const uint16_t*>(from), stride, rows, columns, factor, matrix, widen_bfloat16);
    if (dtype == kFloat16)
        return pack_from(static_cast<const uint16_t*>(from), stride, rows, columns, factor, matrix, widen_half);
    pack_from(static_cast<const float*>(from), stride, rows, columns, factor, matrix, [](float v) { return v; });
}

void pack_f64(int, const void* from, int64_t stride, int64_t rows, int64_t columns, double factor, double* matrix) {
    pack_from(static_cast<const double*>(from), stride, rows, columns, factor, matrix, [](double v) { return v; });
}

// A square of 4 x 4 floats by shuffles of 16-byte vectors, which every instruction set here has.
typedef float Four __attribute__((vector_size(16), aligned(4)));
typedef int32_t Picks __attribute__((vector_size(16)));

inline void transpose_square(const float* from, int64_t ld, float* to) {
    const Four a = *reinterpret_cast<const Four*>(from), b = *reinterpret_cast<const Four*>(from + ld);
    const Four c = *reinterpret_cast<const Four*>(from + 2 * ld), d = *reinterpret_cast<const Four*>(from + 3 * ld);
#if defined(__clang__)
#define FU_SHUFFLE(x, y, i, j, k, l) __builtin_shufflevector(x, y, i, j, k, l)
#else
#define FU_SHUFFLE(x, y, i, j, k, l) __builtin_shuffle(x, y, Picks{i, j, k, l})
#endif
    const Four ab0 = FU_SHUFFLE(a, b, 0, 4, 1, 5), ab1 = FU_SHUFFLE(a, b, 2, 6, 3, 7);
    const Four cd0 = FU_SHUFFLE(c, d, 0, 4, 1, 5), cd1 = FU_SHUFFLE(c, d, 2, 6, 3, 7);
    *reinterpret_cast<Four*>(to) = FU_SHUFFLE(ab0, cd0, 0, 1, 4, 5);
    *reinterpret_cast<Four*>(to + kTile) = FU_SHUFFLE(ab0, cd0, 2, 3, 6, 7);
    *reinterpret_cast<Four*>(to + 2 * kTile) = FU_SHUFFLE(ab1, cd1, 0, 1, 4, 5);
    *reinterpret_cast<Four*>(to + 3 * kTile) = FU_SHUFFLE(ab1, cd1, 2, 3, 6, 7);
}

inline void transpose_square(const double* from, int64_t ld, double* to) {
    for (int64_t c = 0; c < 4; ++c)
        for (int64_t r = 0; r < 4; ++r) to[c * kTile + r] = from[r * ld + c];
}

// Whole squares: a matrix has kTile rows and whole chunks, so reading past the edge stays inside it, and `to` has
// room for `columns` rounded up to 4.
template <class T>
void transpose(const T* matrix, int64_t rows, int64_t columns, T* to) {
    for (int64_t c = 0; c < columns; c += 4) {
        const T* from = matrix + c / kChunk * kTile * kChunk + c % kChunk;
        for (int64_t r = 0; r < rows; r += 4) transpose_square(from + r * kChunk, kChunk, to + c * kTile + r);
    }
}

// Of every term, steps [begin, end) of the inner sum. The left factor's element (r, k) is at a[r * kRow + k * kDepth].
template <class T, int64_t kRow, int64_t kDepth, int64_t kB, int64_t kC, int kWide>
inline void micro_tile(const Term<T>* terms, int64_t count, int64_t begin, int64_t end, int64_t row, int64_t column,
                       T* c, bool accumulate) {
    using V = typename Vector<T>::type;
    V sum[kRows][kWide] = {};
    for (int64_t t = 0; t < count; ++t) {
        const T* a = terms[t].a + row * kRow + begin * kDepth;
        const T* b = terms[t].b + column + begin * kB;
        for (int64_t k = least(terms[t].depth, end) - begin; k > 0; --k) {
            V right[kWide];
#pragma GCC unroll 4
            for (int v = 0; v < kWide; ++v) right[v] = load(b + v * kLanes<T>);
#pragma GCC unroll 16
            for (int r = 0; r < kRows; ++r) {
                const T left = a[r * kRow];
#pragma GCC unroll 4
                for (int v = 0; v < kWide; ++v) sum[r][v] += left * right[v];
            }
            a += kDepth;
            b += kB;
        }
    }
    c += row * kC + column;
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
        for (int v = 0; v < kWide; ++v) {
            T* place = c + r * kC + v * kLanes<T>;
            store(place, accumulate ? load(place) + sum[r][v] : sum[r][v]);
        }
    }
}

constexpr int64_t kAll = INT64_MAX;

// Which steps of the inner sum of rows [row, row + kRows) of the result, from column `column`, count in a triangle.
struct Steps {
    int64_t begin, end;
};
struct ScoreSteps {  // rows are keys, columns queries
    static Steps of(int64_t row, int64_t column, int64_t width) { return {0, row < column + width ? kAll : 0}; }
};
struct KeySteps {  // rows are keys, the inner sum is over queries
    static Steps of(int64_t row, int64_t, int64_t) { return {row, kAll}; }
};
struct QuerySteps {  // rows are queries, the inner sum is over keys
    static Steps of(int64_t row, int64_t, int64_t) { return {0, row + kRows}; }
};

template <class T, class Triangle, int64_t kRow, int64_t kDepth, int64_t kB, int64_t kC>
void product(const Term<T>* terms, int64_t count, int64_t rows, int64_t columns, T* c, bool accumulate, bool triangle) {
    constexpr int64_t kColumns = kVectors * kLanes<T>;
    for (int64_t j = 0; j < columns; j += kColumns) {  // a panel of b stays in the first cache while a passes by
        for (int64_t i = 0; i < rows; i += kRows) {
            const auto [begin, end] = triangle ? Triangle::of(i, j, kColumns) : Steps{0, kAll};
            if (columns - j > kLanes<T>)
                micro_tile<T, kRow, kDepth, kB, kC, kVectors>(terms, count, begin, end, i, j, c, accumulate);
            else
                micro_tile<T, kRow, kDepth, kB, kC, 1>(terms, count, begin, end, i, j, c, accumulate);
        }
    }
}

template <class T>
void row_dots(const T* a, const T* b, int64_t rows, int64_t columns, T* sums) {
    for (int64_t r = 0; r < rows; ++r) {
        typename Vector<T>::type total = {};
        for (int64_t c = 0; c < columns; c += kLanes<T>) {
            const int64_t place = c / kChunk * kTile * kChunk + r * kChunk + c % kChunk;
            total += load(a + place) * load(b + place);
        }
        T sum = 0;
        for (int64_t lane = 0; lane < kLanes<T>; ++lane) sum += total[lane];
        sums[r] += sum;
    }
}

template <class T>
void add(const T* matrix, int64_t rows, int64_t columns, T factor, T* to, int64_t ld) {
    for (int64_t c0 = 0; c0 < columns; c0 += kChunk) {
        const int64_t here = least(kChunk, columns - c0);
        for (int64_t r = 0; r < rows; ++r) {
            const T* from = matrix + c0 * kTile + r * kChunk;
            T* place = to + r * ld + c0;
            for (int64_t c = 0; c < here; ++c) place[c] += factor * from[c];
        }
    }
}

template <class T>
void rescale(T* a, const T* factor, const T* shift, const T* o, int64_t rows, int64_t columns) {
    for (int64_t c0 = 0; c0 < columns; c0 += kChunk, a += kTile * kChunk) {
        const int64_t here = least(kChunk, columns - c0);
        for (int64_t r = 0; r < rows; ++r) {
            T* place = a + r * kChunk;
            if (o) {
                const T* other = o + c0 * kTile + r * kChunk;
                for (int64_t c = 0; c < here; c += kLanes<T>)
                    store(place + c, factor[r] * load(place + c) - shift[r] * load(other + c));
            } else {
                for (int64_t c = 0; c < here; c += kLanes<T>) store(place + c, factor[r] * load(place + c));
            }
        }
    }
}

template <class T>
constexpr AttentionProducts<T> table(decltype(AttentionProducts<T>::pack) pack) {
    return {pack,
            transpose<T>,
            product<T, ScoreSteps, kChunk, 1, kTile, kTile>,
            product<T, KeySteps, kTile, 1, kChunk, kChunk>,
            product<T, QuerySteps, 1, kTile, kChunk, kChunk>,
            row_dots<T>,
            add<T>,
            rescale<T>};
}

}  // namespace

extern const AttentionKernels FU_JOIN(attention_products_, FU_ISA);
constexpr AttentionKernels FU_JOIN(attention_products_, FU_ISA) = {table<float>(pack_f32), table<double>(pack_f64)};

}  // namespace fu
