// Tables of the attention's small functions, compiled once per instruction set (isa/attention_*.cpp; see kernels.h).
//
// Two layouts. A *tile* holds one number per (key j, query i): row j, stride kTile, queries along the row, so that
// what belongs to a query (lse, running maximum) is a vector and needs no sum across lanes. A *matrix* holds rows of
// head size in chunks of kChunk columns: [chunk][kTile rows][kChunk]. With both strides known when compiling, a
// product reads its left factor in place, upright or transposed, and only queries need a transposed copy.
// Rows and columns past the edge hold anything finite or not: they reach no result.
#pragma once

#include <cstdint>

namespace fu {

constexpr int64_t kTile = 96;  // a multiple of every micro-tile's rows (4, 6, 12) and columns (4 .. 32)
constexpr int64_t kChunk = 64;

// One product a b of a sum of products; `depth` is the length of the inner sum.
template <class T>
struct Term {
    const T* a;
    const T* b;
    int64_t depth;
};

template <class T>
struct AttentionProducts {
    // Rows of `source` (row stride `stride`, elements of `dtype`), times factor, into a matrix. Columns up to a whole
    // vector are 0.
    void (*pack)(int dtype, const void* source, int64_t stride, int64_t rows, int64_t columns, T factor, T* matrix);
    // to[column][row] with row stride kTile.
    void (*transpose)(const T* matrix, int64_t rows, int64_t columns, T* to);

    // c = sum of products, or c += with `accumulate`; rows x columns.
    // scores: a matrix chunk (keys), b transposed queries, c a tile.
    // by_keys: a tile, b a chunk of rows of queries, c a chunk of rows of keys.
    // by_queries: a tile read transposed, b a chunk of rows of keys, c a chunk of rows of queries.
    // triangle: the tile is of the diagonal of a causal attention, and only its queries i >= j count. scores then
    // leaves 0 in micro-tiles below it, and the other two pass over them.
    using Product = void (*)(const Term<T>* terms, int64_t count, int64_t rows, int64_t columns, T* c, bool accumulate,
                             bool triangle);
    Product scores, by_keys, by_queries;

    // sums[row] += a[row] . b[row]
    void (*row_dots)(const T* a, const T* b, int64_t rows, int64_t columns, T* sums);
    // to[row] += factor * matrix[row], row stride ld, any number of columns
    void (*add)(const T* matrix, int64_t rows, int64_t columns, T factor, T* to, int64_t ld);
    // a[row] = factor[row] * a[row] - shift[row] * o[row]; o null: only the factor
    void (*rescale)(T* a, const T* factor, const T* shift, const T* o, int64_t rows, int64_t columns);
};

// What all score functions work on: `rows` keys by `columns` queries of tiles.
struct TileSize {
    int64_t rows, columns;
};

template <class T>
struct AttentionSoftmax {
    // s <- cap tanh(s / cap) (u = the tanh; no cap where u is null), + slope (first + j - i), + bias (null: none).
    void (*shape)(TileSize size, T* s, T* u, T cap, T slope, int64_t first, const T* bias);
    // Online softmax: s becomes p = exp(s - maximum) with the new maximum. Old sums are to be rescaled by `correction`
    // (written here); `kept` is the old total after that, total the new one.
    void (*online)(TileSize size, T* s, T* maximum, T* total, T* correction, T* kept);
    // z becomes p (s' - mean) with s' = (1 - u^2) z, for the new running mean; shift = new mean - old. `rest` collects
    // what rounding leaves of sum p (s' - mean).
    void (*online_tangent)(TileSize size, T* z, const T* u, const T* p, const T* total, const T* correction,
                           const T* kept, T* mean, T* shift, T* rest);
    // s becomes exp((s - lse) - rest)
    void (*probabilities)(TileSize size, T* s, const T* lse, const T* rest);
    // y becomes f = (1 - u^2) e, with e = p (y - d); e is written where it is not null.
    void (*adjoint)(TileSize size, const T* p, const T* u, T* y, T* e, const T* d);
    // z becomes p' = p (s' - mean), y becomes f' (README of the op); e as written by adjoint.
    void (*tangent_adjoint)(TileSize size, const T* p, const T* u, T cap, const T* e, const T* mean, const T* d, T* z,
                            T* y);
};

struct AttentionKernels {
    AttentionProducts<float> products_f32;
    AttentionProducts<double> products_f64;
};
struct SoftmaxKernels {
    AttentionSoftmax<float> f32;
    AttentionSoftmax<double> f64;
};

}  // namespace fu
