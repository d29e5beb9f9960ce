// Products with explicit per-sample gradients that are stored block by block: G v and G^T w, reading G once.
#pragma once

#include <cstdint>
#include <string>

namespace fu {

// g: (blocks, rows, width) of `stored` (low_rank_apply_kernels.h), contiguous; scales (blocks, rows) or null: each
// row's factor. k vectors at once.
struct LowRankProblem {
    int stored;
    const void* g;
    const float* scales;
    int64_t blocks, rows, width, k;
};

// out (k, blocks, rows) = sum over the block's columns of G v, for v (k, blocks, width). The results of both do not
// depend on the number of threads. Both throw std::invalid_argument on impossible sizes.
void low_rank_dot(const std::string& isa, const LowRankProblem& problem, const float* v, float* out, int threads);

// out (k, blocks, width) = sum over rows of w G, for w (k, blocks, rows). Overwrites out.
void low_rank_combine(const std::string& isa, const LowRankProblem& problem, const float* w, float* out, int threads);

}  // namespace fu
