// One chunk of tokens of the output layer with cross-entropy: what linear_cross_entropy.cpp does chunk by chunk.
//
// Logits, tangents and adjoints lie in tiles: a panel of tokens side by side (as many as a micro-tile has columns) for
// each entry of the vocabulary. Such a tile is a packed right-hand side as it stands, and a left-hand side for
// `product_tiles`, so only the inputs and the weights are ever packed.
#pragma once

#include <algorithm>
#include <vector>

#include "cross_entropy_kernels.h"
#include "gemm_kernels.h"
#include "linear_cross_entropy.h"
#include "scratch.h"

namespace fu {

// How the work is cut. It depends on the sizes and the memory alone, never on the threads.
struct HeadPlan {
    int64_t tokens;  // of a chunk at most; a multiple of the panel
    int streams;     // taken together
    int64_t block;   // rows of the vocabulary per task; a multiple of a micro-tile's rows
    int64_t super;   // rows of the vocabulary between the two halves of the second sweep; a multiple of `block`
};

template <class T>
class HeadChunk {
   public:
    // `forward`: for the products of inputs and weights; as `gemm`, or of the same tiles by bfloat16 instructions.
    HeadChunk(const HeadProblem& problem, const HeadPlan& plan, const GemmTable<T>& gemm, const GemmTable<T>& forward,
              const CrossEntropyTable<T>& table, int threads);
    void run(int64_t first, int64_t tokens);

   private:
    static constexpr int64_t kDepth = 256;  // a right-hand panel of it fits the first cache
    static constexpr int64_t kMostPanel = 64;

    // Streams [begin, begin + count) of the problem. The first group carries the logits themselves too. Among a group's
    // `lines`, 0 is the primal one and 1 + i that of stream begin + i.
    struct Group {
        int begin, count;
        bool first;
    };

    // The first sweep and the values (head_chunk.cpp).
    void pack_inputs(int from, int to, int stream);
    void split_tangents(const Group& group);
    void first_block(const Group& group, int64_t block, T* left);
    void multiply(const GemmMatrix& weight, int64_t block, int from, int to, bool primal, bool add, T* left, T* own);
    LogitTile<T> logit_tile(const Group& group, int64_t block, int64_t panel, int64_t* labels, T* own) const;
    void merge(const Group& group, int64_t panel);

    // The second sweep (head_adjoints.cpp).
    void second_sweep(const Group& group);
    void second_block(const Group& group, int64_t block);
    void add_weights(const Group& group, int64_t block, int line);
    void add_inputs(const Group& group, int64_t top, int64_t strip, int64_t from, int64_t to, T* left);
    void write_inputs(const Group& group);

    bool values_only() const { return p_.mode == HeadMode::kValues; }
    bool second_order() const { return p_.mode == HeadMode::kHessian; }
    bool capped() const { return p_.softcap > 0; }
    bool crossed_weights() const { return second_order() && !p_.weight_t.empty(); }
    bool crossed_inputs() const { return second_order() && !p_.xt.empty(); }
    int64_t rows_of(int64_t block) const { return std::min(plan_.block, p_.vocabulary - block * plan_.block); }
    int64_t whole(int64_t rows) const { return (rows + g_.mr - 1) / g_.mr * g_.mr; }
    // How many rows the tiles of one panel have room for where row `row` lies; `own`: a thread's own tiles.
    int64_t room(int64_t row, const T* own = nullptr) const {
        if (own) return plan_.block;
        return std::min(plan_.super, whole(p_.vocabulary) - row / plan_.super * plan_.super);
    }
    T* tile(int line, int64_t row, int64_t panel, T* own = nullptr) const {
        if (own) return own + (line * panels_ + panel) * plan_.block * g_.nr;
        const int64_t top = row / plan_.super * plan_.super;
        T* const super = logits_.get() + (line * whole(p_.vocabulary) + top) * plan_.tokens;
        return super + (panel * room(row) + row - top) * g_.nr;
    }
    T* columns(int line, int64_t panel) const {
        return columns_.get() + (line * plan_.tokens + panel * g_.nr) * p_.width;
    }
    T* rows(int line) const { return rows_.get() + line * plan_.tokens * wide_; }
    T* output(int line, int64_t panel) const { return outputs_.get() + (line * plan_.tokens + panel * g_.nr) * wide_; }
    T* line(std::vector<T>& all, int64_t number) const { return all.data() + number * plan_.tokens; }

    const HeadProblem& p_;
    const HeadPlan plan_;
    const GemmTable<T>& g_;
    const GemmTable<T>& f_;
    const CrossEntropyTable<T>& t_;
    const int threads_;
    const int64_t blocks_;       // of the vocabulary
    const int64_t wide_;         // the width, made whole panels and whole micro-tiles
    int64_t strip_, left_size_;  // rows of one task of add_inputs; elements of scratch of a thread
    int64_t first_ = 0, tokens_ = 0, panels_ = 0;
    Scratch<T> logits_, left_;
    std::vector<GemmMatrix> weight_t_;  // of the group's streams
    Scratch<char> tangents_;       // where they lie if those of the problem lie element by element beside each other
    Scratch<T> columns_;           // x and the group's xt as right-hand sides whose depth is the width
    Scratch<T> rows_;              // the same, times the tokens' weights, with the tokens as depth
    Scratch<T> outputs_;           // gx and the group's hx, in tiles
    std::vector<int64_t> labels_;  // of the chunk's tokens; -1 past the last
    std::vector<T> weights_;       // 0 past the last
    std::vector<T> largest_, sum_, dots_;                                  // a line of tokens per block (and stream)
    std::vector<double> merged_;                                           // sums of dots_, a line of tokens per stream
    std::vector<T> top_, share_, mean_, chosen_, chosen_t_, label_share_;  // a line of tokens (per stream)
};

extern template class HeadChunk<float>;
extern template class HeadChunk<double>;

}  // namespace fu
