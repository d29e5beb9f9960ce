// Table of the kernels of RMSNorm and LayerNorm, one per instruction set (see kernels.h for why a table).
#pragma once

#include <cstdint>

namespace fu {

// A (K, rows, d) operand: distances in elements from one tangent and from one row to the next. data null: zero.
struct NormStream {
    void* data;
    int64_t tangent;
    int64_t row;
};

// What all rows share. scale (d), scale_t (K, d), bias (d), bias_t (K, d) are in the accumulator type; scale is
// offset + weight. Null: 1 for scale, 0 for the others.
struct NormCall {
    bool center;  // LayerNorm
    double eps;
    int64_t d, k;
    const void *scale, *scale_t, *bias, *bias_t;
    NormStream x, xt;
};

struct NormForward {
    NormStream y, yt;
};

struct NormBackward {
    NormStream g, h, gx, hx;
    void *weight_h, *bias_h;  // (K, d) accumulators in the accumulator type, added to; null: not wanted
};

// For one element type: rows [begin, end). scratch: kNormScratch rows of d, each rounded up to 64 bytes.
constexpr int kNormScratch = 3;
struct NormKernels {
    void (*forward)(const NormCall& call, const NormForward& to, int64_t begin, int64_t end, void* scratch);
    void (*backward)(const NormCall& call, const NormBackward& to, int64_t begin, int64_t end, void* scratch);
};

struct NormTable {
    NormKernels of[3];  // float32, float64, bfloat16 (numbers of Dtype in kernels.h)
};

}  // namespace fu
