// The table of small functions that gemm.cpp drives, one per instruction set (isa/gemm_kernels.cpp).
#pragma once

#include <cstdint>

namespace fu {

template <class T>
struct GemmTable {
    int mr;  // rows of one micro-tile
    int nr;  // columns of one micro-tile

    // Packs rows [0, rows) and depth [0, depth) of a matrix (strides and dtype of the elements) into panels of `panel`
    // rows, each of `panel` times `length` elements: panel after panel, within each depth-major. Missing rows of the
    // last panel are 0. May write up to kPackSlack elements past the end.
    void (*pack)(int dtype, const void* source, int64_t row_stride, int64_t depth_stride, int64_t rows, int64_t depth,
                 int64_t panel, T* packed);

    // c (+)= a b^T for `rows` packed rows (panels of mr) and `columns` packed columns (panels of nr).
    void (*product)(const T* a, int64_t rows, const T* b, int64_t columns, int64_t depth, T* c, int64_t ldc,
                    bool accumulate);

    // c += a b^T for one panel of b (`columns` <= nr of it), where a lies in tiles of nr depth: element (r, k) of a is
    // a[k / nr * tile_stride + r * nr + k % nr]. Whole panels of mr rows of a are read.
    void (*product_tiles)(const T* a, int64_t tile_stride, int64_t rows, const T* b, int64_t columns, int64_t depth,
                          T* c, int64_t ldc);

    // How many packed elements a row has for a depth: the depth itself, where T is what is multiplied.
    int64_t (*length)(int64_t depth);
};

constexpr int64_t kPackSlack = 16;

struct GemmKernels {
    GemmTable<float> f32;
    GemmTable<double> f64;
};

}  // namespace fu
