// The order of the backward's work: which parts of (queries x keys) come after which.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "attention.h"

namespace fu {

// A block of queries against a span of kSpan or fewer tiles of keys, of one (batch, group).
struct AttentionPiece {
    int64_t pair;         // batch * groups + group
    int64_t block;        // of queries: see QueryBlock
    int64_t first, last;  // tiles of keys
    int64_t after_block;  // the pieces before this one, in order, that add to the same queries, and
    int64_t after_span;   // to the same keys; -1: none
};

// Pieces lie on diagonals of the grid (blocks x spans), one diagonal after the other, so that neighbours in the list
// share neither queries nor keys. Every sum then has an order that depends on the shapes alone, and no copy of
// an output per thread is needed: a piece waits for the two before it. Threads take pieces in the list's order, so what
// a piece waits for is done or being done, and waiting always ends.
class AttentionSchedule {
   public:
    explicit AttentionSchedule(const AttentionProblem& problem);

    const std::vector<AttentionPiece>& pieces() const { return pieces_; }

    // The next piece for the calling thread, once all before it on its queries and keys are done; -1 at the end.
    int64_t take();
    void finish(int64_t piece) { done_[size_t(piece)].store(true, std::memory_order_release); }

   private:
    void wait(int64_t piece) const;

    std::vector<AttentionPiece> pieces_;
    std::unique_ptr<std::atomic<bool>[]> done_;
    std::atomic<int64_t> next_{0};
};

}  // namespace fu
