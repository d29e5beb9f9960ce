// Sums of matrix products with shared right-hand sides: C_o (+)= sum over its terms of A B^T.
//
// One call does a whole step of the dual pass of a linear layer: y = x W^T and yt = xt W^T + x Wt^T read W once, and
// out += h^T x + g^T xt adds both products to `out` without a temporary.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kernels.h"

namespace fu {

// A matrix of `rows` (of A or of B: the index that stays in the result) by `depth` (the index that is summed over),
// with any strides, in elements.
struct GemmMatrix {
    const void* data;
    int64_t row_stride;
    int64_t depth_stride;
    int dtype;  // kFloat64 where the result is double, else kFloat32 or kBFloat16 (widened exactly)
};

// The address of element (row, depth).
inline const void* element(const GemmMatrix& matrix, int64_t row, int64_t depth) {
    const int64_t size = matrix.dtype == kFloat64 ? 8 : matrix.dtype == kFloat32 ? 4 : 2;
    return static_cast<const char*>(matrix.data) + (row * matrix.row_stride + depth * matrix.depth_stride) * size;
}

struct GemmTerm {
    GemmMatrix a;
    int right;  // which of the right-hand sides it meets
};

struct GemmOutput {
    void* c;  // rows x columns, row after row at row_stride; a row is contiguous
    int64_t rows;
    int64_t row_stride;
    bool accumulate;  // add to c, or overwrite it
    std::vector<GemmTerm> terms;
};

struct GemmRight {
    GemmMatrix b;
    int64_t depth;
};

// How float matrices are multiplied. Sums are in float always.
enum class GemmMode : int {
    kExact = 0,    // as float
    kRounded = 1,  // rounded to bfloat16
    kSplit = 2,    // each as a sum of two bfloat16, in three products
};

struct GemmProblem {
    bool wide;  // double, or float
    int64_t columns;
    std::vector<GemmRight> rights;
    std::vector<GemmOutput> outputs;
    GemmMode mode = GemmMode::kExact;  // of float
};

// The result does not depend on the number of threads. Throws std::invalid_argument on impossible sizes
// and on an instruction set that is not live or lacks the mode.
void gemm(const std::string& isa, const GemmProblem& problem, int threads);

// Whether the modes other than kExact run with this instruction set on this CPU.
bool has_bfloat16_products(const std::string& isa);

}  // namespace fu
