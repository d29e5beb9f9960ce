// Table of the RoPE kernels, one per instruction set (see kernels.h for why a table).
#pragma once

#include <cstdint>

namespace fu {

// Rows [0, rows) of one head: x with row stride x_row, y with row stride y_row, cos and sin (rows, width) in the
// accumulator type with row stride table_row; the channels [width, d) are copied.
struct RopeCall {
    const void* x;
    int64_t x_row;
    const void *cos, *sin;
    int64_t table_row;
    void* y;
    int64_t y_row;
    int64_t rows, width, d;
    bool interleaved, inverse;
};

struct RopeTable {
    void (*of[3])(const RopeCall& call);  // float32, float64, bfloat16 (numbers of Dtype in kernels.h)
};

}  // namespace fu
