// Rotary embedding (fastunlearn/ops/rope/README.md).
#pragma once

#include <cstdint>
#include <string>

namespace fu {

// x (a, b, heads, rows, d) with the strides given (elements; the channels are consecutive), y contiguous. cos and sin
// (b or 1, rows, width) in the accumulator type, contiguous; table_batch is their stride along b (0: one for all).
struct RopeProblem {
    int dtype;
    int64_t a, b, heads, rows, d, width;
    const void* x;
    int64_t strides[4];  // of a, b, heads, rows
    const void *cos, *sin;
    int64_t table_batch;
    void* y;
    bool interleaved, inverse;
};

// Throws std::invalid_argument for an unknown dtype or instruction set, bad sizes or no thread.
void rope(const std::string& isa, const RopeProblem& p, int threads);

}  // namespace fu
