// Sums of a tile of token pairs by sample on both sides, and their addition to the Gram matrix.
#pragma once

#include "ghost_gram.h"

namespace fu {

// Sums down each column over the rows of one sample: the sum is left in the sample's first row of the tile.
template <int kPitch, class T>
__device__ inline void sum_rows(T* tile, const int32_t* owner, int rows, int columns) {
    const int c = threadIdx.x;
    if (c >= columns) return;
    for (int r = 0; r < rows;) {
        const int start = r;
        T total = 0;
        do total += tile[r++ * kPitch + c];
        while (r < rows && owner[r] == owner[start]);
        tile[start * kPitch + c] = total;
    }
}

// Sums the first row of each sample over the columns of one sample, and adds that to the result.
template <int kPitch, class T>
__device__ inline void add_columns(const T* tile, const GramProblem& p, const int32_t* row_owner, int rows,
                                   const int32_t* column_owner, int columns, bool diagonal) {
    const int r = threadIdx.x;
    if (r >= rows || (r > 0 && row_owner[r] == row_owner[r - 1])) return;
    const int32_t i = row_owner[r];
    for (int c = 0; c < columns;) {
        const int32_t j = column_owner[c];
        double total = 0;
        do total += double(tile[r * kPitch + c++]);
        while (c < columns && column_owner[c] == j);
        if (p.symmetric && j < i) continue;                      // the mirror is there
        if (p.symmetric && j == i && !diagonal) total += total;  // the tile left of the diagonal is skipped
        atomicAdd(p.out + int64_t(i) * p.second.samples + j, total);
    }
}

}  // namespace fu
