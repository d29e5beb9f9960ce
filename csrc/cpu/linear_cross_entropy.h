// Output layer and cross-entropy, first and second order, without whole logits (ops/linear_cross_entropy/README.md).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "gemm.h"

namespace fu {

enum class HeadMode : int {
    kValues = 0,    // nll and nll_t
    kGradient = 1,  // nll, gx, weight_out += g^T x
    kHessian = 2,   // nll, nll_t, gx, hx, weight_out += h^T x + g^T xt
    kGgn = 3,       // nll, nll_t, hx, weight_out += h^T x
};

// Pointers `void*` are double where `wide`, else float. Streams are the tangents; without any, gradients have one.
struct HeadProblem {
    HeadMode mode;
    bool wide;
    int64_t tokens, width, vocabulary;
    int streams;
    GemmMatrix x;                      // tokens x width
    std::vector<GemmMatrix> xt;        // one per stream, or none (zero)
    GemmMatrix weight;                 // vocabulary x width
    std::vector<GemmMatrix> weight_t;  // one per stream, or none
    const int64_t* labels;             // in [0, vocabulary)
    const void* token_weights;         // not for kValues
    const void* bias;                  // null: none
    const void* bias_t;                // streams x vocabulary; null: zero
    double softcap;                    // 0: none
    double logit_scale;
    void* nll;                  // tokens
    void* nll_t;                // streams x tokens
    void* gx;                   // tokens x width, or null
    void* hx;                   // streams x tokens x width, or null
    void* weight_out;           // added to: vocabulary x width, contiguous, of every stream; or null
    int64_t weight_out_stride;  // elements from one stream's to the next one's
    void* bias_out;             // added to: vocabulary of every stream; or null
    int64_t bias_out_stride;
    int64_t logit_bytes;  // the most that a chunk of logits and their tangents may take
};

// The result does not depend on the number of threads. Throws std::invalid_argument on impossible sizes
// and on an instruction set that is not live.
void linear_cross_entropy(const std::string& isa, const HeadProblem& problem, int threads);

}  // namespace fu
