// K_ij = sum_{t in i, s in j} (x_t . x_s + bias) (g_t . g_s) on CUDA, without a token x token matrix.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace fu {

// Dtypes of the inputs; the numbers are those of fastunlearn/ops/ghost_gram/cpu.py.
enum Dtype : int { kFloat32 = 0, kFloat64 = 1, kBFloat16 = 2, kFloat16 = 3 };

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

// Queued on `stream` of the current device. Returns the launch's status; an unknown dtype is
// cudaErrorInvalidValue.
cudaError_t ghost_gram(const GramProblem& problem, cudaStream_t stream);

}  // namespace fu
