// The small functions that are compiled once per instruction set, as a table of pointers.
//
// Everything that is compiled for a wider instruction set than the rest must stay behind such a table:
// an inline function or a template of the standard library in that file could be merged by the linker
// with the copy of a portable file, and then run on a CPU that does not have the instructions.
#pragma once

#include <cstdint>

namespace fu {

// Dtypes of the inputs; the numbers are those of fastunlearn/ops/ghost_gram/cpu.py.
enum Dtype : int { kFloat32 = 0, kFloat64 = 1, kBFloat16 = 2, kFloat16 = 3 };

// Kernels for one accumulator type T (float or double).
template <class T>
struct TileKernels {
    int mr;  // rows of one micro-tile
    int nr;  // columns of one micro-tile

    // Packs rows [0, rows) and columns [0, depth) of `source` (row stride `stride`, elements of `dtype`) into
    // panels of `panel` rows: panel after panel, within each depth-major. Missing rows of the last panel are 0.
    void (*pack)(int dtype, const void* source, int64_t stride, int64_t rows, int64_t depth, int64_t panel, T* packed);

    // c (+)= a b^T for `panels_a` packed panels of mr rows and `panels_b` of nr rows; c has row stride ldc.
    void (*product)(const T* a, int64_t panels_a, const T* b, int64_t panels_b, int64_t depth, T* c, int64_t ldc,
                    bool accumulate);

    // sums[c] = sum over rows of (p + shift) * q, for `columns` columns of two matrices of row stride ld.
    void (*multiply_sum)(const T* p, const T* q, int64_t ld, int64_t rows, int64_t columns, T shift, T* sums);
};

struct Kernels {
    const char* name;
    TileKernels<float> f32;
    TileKernels<double> f64;
};

template <class T>
const TileKernels<T>& tile_kernels(const Kernels& k);
template <>
inline const TileKernels<float>& tile_kernels<float>(const Kernels& k) {
    return k.f32;
}
template <>
inline const TileKernels<double>& tile_kernels<double>(const Kernels& k) {
    return k.f64;
}

}  // namespace fu
