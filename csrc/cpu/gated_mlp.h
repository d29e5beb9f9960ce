// act(gate) * up, tangents and adjoints (fastunlearn/ops/gated_mlp/README.md); up may be missing (plain activation).
#pragma once

#include <cstdint>
#include <string>

#include "gated_mlp_kernels.h"

namespace fu {

// A stream over rows: distance in elements from one row to the next; the elements of a row are consecutive.
struct RowStream {
    void* data;
    int64_t tangent;
    int64_t row;
};

// Activation numbers, in the order of fastunlearn/ops/activation/reference.py KINDS.
constexpr int kKinds = 9;

struct GatedProblem {
    int dtype;
    int kind;
    int64_t rows, columns, k;
    RowStream gate, up, gate_t, up_t;
};

// Throw std::invalid_argument for an unknown dtype, kind or instruction set, a negative size or no thread.
void gated_forward(const std::string& isa, const GatedProblem& p, RowStream y, RowStream yt, int threads);
void gated_backward(const std::string& isa, const GatedProblem& p, RowStream g, RowStream h, RowStream g_gate,
                    RowStream g_up, RowStream h_gate, RowStream h_up, int threads);

}  // namespace fu
