// RMSNorm and LayerNorm with tangents, and their dual backward (fastunlearn/ops/norm/README.md).
#pragma once

#include <cstdint>
#include <string>

#include "norm_kernels.h"

namespace fu {

struct NormProblem {
    int dtype;
    int64_t rows;
    NormCall call;
};

// Throw std::invalid_argument for an unknown dtype or instruction set, bad sizes or no thread.
void norm_forward(const std::string& isa, const NormProblem& p, const NormForward& to, int threads);

// weight_h and bias_h of `to` are overwritten. The result does not depend on `threads`.
void norm_backward(const std::string& isa, const NormProblem& p, const NormBackward& to, int threads);

}  // namespace fu
