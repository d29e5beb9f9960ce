// out += sum_t w_t g_t x_t^T: a linear layer's weight gradient with a weight per token (a row scaling of g).
#pragma once

#include "numbers.h"

namespace fu {

// All addresses on the device. x (tokens x d_in), g (tokens x d_out) of dtype (float32, float64, bfloat16, float16),
// rows x_stride and g_stride numbers apart; weights float32 (float64 for float64), null for ones; out (d_out x d_in)
// float32 (float64 for float64), rows out_stride apart. unit: in half precision, one float32 that the sum is multiplied
// by before it is added to out, null for 1; weights are in that unit, so that w_t g_t fits float16's range.
struct WeightedGradient {
    int dtype;
    const void* x;
    int64_t x_stride;
    const void* g;
    int64_t g_stride;
    const void* weights;
    const float* unit;
    void* out;
    int64_t out_stride;
    int64_t tokens;
    int64_t d_in;
    int64_t d_out;
};

// Half precision on tensor cores: w_t g_t is two numbers of the dtype (2^-17 of it is lost in bfloat16, 2^-22 in
// float16), sums are float32. Same bits on every run.
cudaError_t weighted_gradient(const WeightedGradient& problem, cudaStream_t stream);

}  // namespace fu
