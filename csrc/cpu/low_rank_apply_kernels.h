// The arithmetic of low_rank_apply, as a table of pointers per instruction set (see kernels.h for why).
#pragma once

#include <cstdint>

namespace fu {

// Dtypes of stored gradients; the numbers are those of fastunlearn/ops/low_rank_apply/cpu.py.
enum Stored : int { kStoredFloat32 = 0, kStoredBFloat16 = 1, kStoredInt8 = 2 };

struct LowRankKernels {
    // out[r] = sum over columns of g[r][p] v[p], for `rows` rows that lie `stride` elements apart.
    void (*dot)(int stored, const void* g, int64_t stride, int64_t rows, int64_t columns, const float* v, float* out);

    // out[p] += sum over rows of w[r] g[r][p].
    void (*add)(int stored, const void* g, int64_t stride, int64_t rows, int64_t columns, const float* w, float* out);
};

}  // namespace fu
