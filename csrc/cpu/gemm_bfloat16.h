// Products of float matrices by way of bfloat16 instructions: tables that gemm.cpp drives in the place of float's.
#pragma once

#include "gemm_kernels.h"

namespace fu {

// `pack` is null where the instruction set has no such products. Packed are pairs of the depth, a pair in one element.
struct GemmBFloat16 {
    GemmTable<float> rounded;  // every operand rounded to bfloat16
    GemmTable<float> split;    // every operand as the sum of two bfloat16: three products, all but the smallest
};

}  // namespace fu
