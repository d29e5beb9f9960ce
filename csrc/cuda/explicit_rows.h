// Products with explicit matrices of per-sample gradients G_b (m x P, one for each block b), read once, at the speed of
// memory.
#pragma once

#include "numbers.h"

namespace fu {

// All addresses on the device. dtype: float32, bfloat16 or int8. scales (blocks x m x ceil(P / group)), float32,
// contiguous: G_brc = scales[b][r][c / group] * rows[b][r][c]; null where there are none. group is a multiple of 16.
struct ExplicitRows {
    int dtype;
    const void* rows;
    int64_t stride;  // numbers from one row to the next
    int64_t count;   // m
    int64_t width;   // P
    const float* scales;
    int64_t group;
    int64_t blocks;
    int64_t block_stride;  // numbers from one block's first row to that of the next
};

// How many partial sums per row rows_times_vector needs: its scratch is blocks * parts * m floats.
int64_t rows_times_vector_parts(const ExplicitRows& g);

// out[b][r] = sum_c G_brc v[b][c]. v (blocks x P), out (blocks x m) and scratch are float32, contiguous; sums across
// parts are made in double, in order.
cudaError_t rows_times_vector(const ExplicitRows& g, const float* v, float* scratch, float* out, cudaStream_t stream);

// out[b][c] = sum_r c[b][r] G_brc, or with `add` that is added to out. coefficients (blocks x m), out (blocks x P) are
// float32, contiguous.
cudaError_t vector_times_rows(const ExplicitRows& g, const float* coefficients, float* out, bool add,
                              cudaStream_t stream);

}  // namespace fu
