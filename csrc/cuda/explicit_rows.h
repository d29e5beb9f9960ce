// Products with an explicit matrix of per-sample gradients G (m x P), read once, at the speed of memory.
#pragma once

#include "numbers.h"

namespace fu {

// All addresses on the device. dtype: float32, bfloat16 or int8. scales (m x ceil(P / group)), float32, contiguous:
// G_rc = scales[r][c / group] * rows[r][c]; null where there are none. group is a multiple of 16.
struct ExplicitRows {
    int dtype;
    const void* rows;
    int64_t stride;  // numbers from one row to the next
    int64_t count;   // m
    int64_t width;   // P
    const float* scales;
    int64_t group;
};

// How many partial sums per row rows_times_vector needs: its scratch is parts * m floats.
int64_t rows_times_vector_parts(const ExplicitRows& g);

// out[r] = sum_c G_rc v[c]. v (P), out (m) and scratch are float32; sums across parts are made in double, in order.
cudaError_t rows_times_vector(const ExplicitRows& g, const float* v, float* scratch, float* out, cudaStream_t stream);

// out[c] = sum_r c[r] G_rc, or with `add` that is added to out. coefficients (m), out (P) are float32.
cudaError_t vector_times_rows(const ExplicitRows& g, const float* coefficients, float* out, bool add,
                              cudaStream_t stream);

}  // namespace fu
