// Sums of matrix products with shared right-hand sides: C_o (+)= sum over its terms of A B^T.
//
// One call does a whole step of the dual pass of a linear layer: y = x W^T and yt = xt W^T + x Wt^T read W once, and
// out += h^T x + g^T xt adds both products to `out` without a temporary.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace fu {

// A matrix of `rows` (of A or of B: the index that stays in the result) by `depth` (the index that is summed over),
// with any strides, in elements.
struct GemmMatrix {
    const void* data;
    int64_t row_stride;
    int64_t depth_stride;
    int dtype;  // kFloat64 where the result is double, else kFloat32 or kBFloat16 (widened exactly)
};

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

struct GemmProblem {
    bool wide;  // double, or float
    int64_t columns;
    std::vector<GemmRight> rights;
    std::vector<GemmOutput> outputs;
};

// The result does not depend on the number of threads. Throws std::invalid_argument on impossible sizes
// and on an instruction set that is not live.
void gemm(const std::string& isa, const GemmProblem& problem, int threads);

}  // namespace fu
