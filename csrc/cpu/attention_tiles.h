// What forward and backward share: scratch memory, tiles of keys, masks, and the scores of one tile.
#pragma once

#include <algorithm>
#include <limits>
#include <memory>
#include <new>
#include <string>
#include <vector>

#include "attention.h"
#include "attention_kernels.h"
#include "kernels.h"
#include "threads.h"

namespace fu {

// The live tables for accumulators of type T. Throws where `isa` is not live.
template <class T>
struct AttentionKit {
    explicit AttentionKit(const std::string& isa);
    const AttentionProducts<T>& products;
    const AttentionSoftmax<T>& softmax;
};

void check_attention(const AttentionProblem& problem, int threads);

inline int64_t tiles_of(int64_t length) { return (length + kTile - 1) / kTile; }
inline int64_t chunks_of(int64_t columns) { return (columns + kChunk - 1) / kChunk; }
inline int64_t matrix_size(int64_t columns) { return chunks_of(columns) * kTile * kChunk; }

// Aligned memory of one thread, not set to anything, made before the threads start: an exception must not leave a
// parallel region.
template <class T>
class Scratch {
   public:
    T* take(int64_t count) {
        const size_t size = size_t(std::max<int64_t>(count, 1));
        blocks_.emplace_back(static_cast<T*>(::operator new(size * sizeof(T), std::align_val_t(64))));
        return blocks_.back().get();
    }

   private:
    struct Free {
        void operator()(T* memory) const { ::operator delete(memory, std::align_val_t(64)); }
    };
    std::vector<std::unique_ptr<T, Free>> blocks_;
};

inline int64_t size_of(int dtype) { return dtype == kFloat64 ? 8 : dtype == kFloat32 ? 4 : 2; }

inline const void* row_of(const AttentionTensor& x, int dtype, int64_t tangent, int64_t batch, int64_t head,
                          int64_t row) {
    const int64_t offset = tangent * x.tangent + batch * x.batch + head * x.head + row * x.row;
    return static_cast<const char*>(x.data) + offset * size_of(dtype);
}

// Rows of queries of one head; heads that share keys are numbered one after the other (`number` of one (b, g)).
struct QueryBlock {
    QueryBlock(const AttentionProblem& p, int64_t batch_, int64_t group, int64_t number)
        : batch(batch_), head(group * (p.heads / p.groups) + number / tiles_of(p.queries)),
          first(number % tiles_of(p.queries) * kTile), rows(std::min(kTile, p.queries - first)) {}
    int64_t batch, head, first, rows;
};

// k, v and their tangents for up to kTile keys, packed.
template <class T>
struct KeyTile {
    KeyTile(const AttentionProblem& p, Scratch<T>& scratch)
        : k(scratch.take(matrix_size(p.size))), v(scratch.take(matrix_size(p.value_size))),
          kt(p.kt.data ? scratch.take(matrix_size(p.size) * p.tangents) : nullptr),
          vt(p.vt.data ? scratch.take(matrix_size(p.value_size) * p.tangents) : nullptr) {}

    // Packs the tile that starts at key `at`.
    void load(const AttentionProblem& p, const AttentionProducts<T>& products, int64_t batch, int64_t group,
              int64_t at) {
        first = at;
        rows = std::min(kTile, p.keys - at);
        const auto pack = [&](const AttentionTensor& x, int64_t n, int64_t columns, T* to) {
            if (to)
                products.pack(p.dtype, row_of(x, p.dtype, n, batch, group, at), x.row, rows, columns, T(1),
                              to + n * matrix_size(columns));
        };
        pack(p.k, 0, p.size, k);
        pack(p.v, 0, p.value_size, v);
        for (int64_t n = 0; n < p.tangents; ++n) {
            pack(p.kt, n, p.size, kt);
            pack(p.vt, n, p.value_size, vt);
        }
    }

    T *k, *v, *kt, *vt;
    int64_t first = 0, rows = 0;
};

// One sum of products into a tile of scores: matrices of keys times transposed matrices of queries, chunk by chunk.
template <class T>
class ScoreSum {
   public:
    explicit ScoreSum(int64_t columns) { terms_.reserve(size_t(2 * chunks_of(columns))); }
    ScoreSum& clear() {
        terms_.clear();
        return *this;
    }
    ScoreSum& add(const T* keys, const T* queries, int64_t columns) {
        if (keys && queries)
            for (int64_t c = 0; c < columns; c += kChunk)
                terms_.push_back({keys + c * kTile, queries + c * kTile, std::min(kChunk, columns - c)});
        return *this;
    }
    void run(const AttentionProducts<T>& products, TileSize size, T* tile, bool triangle) const {
        products.scores(terms_.data(), int64_t(terms_.size()), size.rows, size.columns, tile, false, triangle);
    }

   private:
    std::vector<Term<T>> terms_;
};

// What comes between q.k and the softmax.
template <class T>
class ScoreRule {
   public:
    ScoreRule(const AttentionProblem& p, Scratch<T>& scratch)
        : p_(p.scores), bias_(p_.mask ? scratch.take(kTile * kTile) : nullptr) {}

    // Whether causal and window leave anything of these queries and keys.
    static bool live(const AttentionScores& s, int64_t query, int64_t queries, int64_t key, int64_t keys) {
        if (s.causal && key > query + queries - 1) return false;
        return !(s.window && key + keys - 1 <= query - s.window);
    }

    // Whether this is a tile of the diagonal, of which only queries i >= j count.
    bool triangle(const QueryBlock& block, int64_t key) const { return p_.causal && key == block.first; }
    // Whether anything is left; if so, `apply` may follow for the same tile.
    bool begin(const QueryBlock& block, int64_t key, int64_t keys);
    // q.k (times scale) becomes s; u: where the tanh of the cap goes.
    void apply(const AttentionSoftmax<T>& softmax, const QueryBlock& block, int64_t key, int64_t keys, T* s,
               T* u) const;

   private:
    void fill_bias(const QueryBlock& block, int64_t key, int64_t keys) const;

    const AttentionScores& p_;
    T* bias_;
    bool use_bias_ = false;
};

extern template class ScoreRule<float>;
extern template class ScoreRule<double>;

}  // namespace fu
