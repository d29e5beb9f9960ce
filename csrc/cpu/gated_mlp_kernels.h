// Table of the gated activation's kernels, one per instruction set (see kernels.h for why a table).
#pragma once

#include <cstdint>

namespace fu {

// One operand at the place where a kernel starts, and the distance in elements from one tangent to the next.
// data null: the operand is zero (for `up` of a plain activation: one), or the result is not wanted.
struct Stream {
    void* data;
    int64_t tangent;
};

struct GatedForward {
    int kind;   // place in KINDS of fastunlearn/ops/activation/reference.py
    int64_t k;  // tangents
    Stream gate, up, gate_t, up_t;
    Stream y, yt;  // y data null: not wanted
};

struct GatedBackward {
    int kind;
    int64_t k;
    Stream gate, up, gate_t, up_t, g, h;
    Stream g_gate, g_up, h_gate, h_up;
};

// For one element type of the operands: n consecutive elements of every stream.
struct GatedKernels {
    void (*forward)(const GatedForward& call, int64_t n);
    void (*backward)(const GatedBackward& call, int64_t n);
};

struct GatedTable {
    GatedKernels of[3];  // float32, float64, bfloat16 (numbers of Dtype in kernels.h)
};

}  // namespace fu
