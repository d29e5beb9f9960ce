// K_ij = sum_{t in i, s in j} (x_t . x_s + bias) (g_t . g_s) on CUDA, without a token x token matrix.
#pragma once

#include "numbers.h"

namespace fu {

// One set of samples, all addresses on the device. owner[t] is the sample of token t and does not decrease.
struct GramSide {
    const void* x;
    int64_t x_stride;
    const void* g;
    int64_t g_stride;
    const int32_t* owner;
    int64_t samples;
    int64_t tokens;
};

struct GramProblem {
    int dtype;
    int64_t d_in;
    int64_t d_out;
    GramSide first;
    GramSide second;
    bool symmetric;  // second is first: only the upper triangle (j >= i) of out is added to
    bool bias;
    double* out;  // first.samples x second.samples, contiguous; the sums are added to it
};

// Most tokens of the first side that one launch takes.
int64_t ghost_gram_most_tokens();

// The same on tensor cores, for bfloat16 and float16 (ghost_gram_tensor.cu). ghost_gram calls it.
cudaError_t ghost_gram_tensor(const GramProblem& problem, cudaStream_t stream);

// Queued on `stream` of the current device. Returns the launch's status; an unknown dtype is
// cudaErrorInvalidValue.
cudaError_t ghost_gram(const GramProblem& problem, cudaStream_t stream);

}  // namespace fu
