// Cholesky solves of many small positive definite systems: the m x m systems of a Fisher in blocks.
#pragma once

#include "numbers.h"

namespace fu {

// Largest size that one block's shared memory holds on the current device.
int64_t small_cholesky_most(int dtype);

// For each of `count` systems: (A + shift I) = L L^T, then rhs (size x columns) is overwritten by the solution.
// A (count, size, size) and rhs (count, size, columns) contiguous, float32 or float64; only the lower half of A is
// read, and nothing of it is written. info[n] = 0, or 1 + the pivot that was not positive (rhs is then left alone).
cudaError_t small_cholesky_solve(int dtype, const void* a, void* rhs, int32_t* info, double shift, int64_t count,
                                 int64_t size, int64_t columns, cudaStream_t stream);

}  // namespace fu
