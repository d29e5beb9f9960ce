// K_ij = sum_{t in i, s in j} (x_t . x_s + bias) (g_t . g_s), without a token x token matrix.
#pragma once

#include <cstdint>
#include <string>

namespace fu {

// One set of samples. Rows of x and g are tokens; a row is contiguous, `stride` elements after the one before.
// offsets has samples + 1 entries, from 0 to tokens, not decreasing.
struct GramSide {
    const void* x;
    int64_t x_stride;
    const void* g;
    int64_t g_stride;
    const int64_t* offsets;
    int64_t samples;
    int64_t tokens;
};

struct GramProblem {
    int dtype;  // of x and g; the result is double for kFloat64, else float
    int64_t d_in;
    int64_t d_out;
    GramSide first;
    GramSide second;
    bool symmetric;  // second is first: half the tiles are computed, and the result mirrored
    bool bias;
    void* out;  // first.samples x second.samples, row stride out_stride; overwritten
    int64_t out_stride;
};

// The result does not depend on the number of threads. Throws std::invalid_argument on impossible sizes
// and on an instruction set that is not live.
void ghost_gram(const std::string& isa, const GramProblem& problem, int threads);

}  // namespace fu
