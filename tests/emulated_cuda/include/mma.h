// nvcuda::wmma for 16 x 16 x 16 products of half precision with float32 sums. Which thread holds which number is left
// open by CUDA; here it is scattered on purpose, so that code that relies on a layout fails.
#pragma once

#include "cuda_bf16.h"
#include "cuda_fp16.h"
#include "emulated.h"

namespace nvcuda {
namespace wmma {

struct matrix_a;
struct matrix_b;
struct accumulator;
struct row_major;
struct col_major;
enum layout_t { mem_row_major, mem_col_major };

template <class Use, int M, int N, int K, class T, class Layout = void>
struct fragment {
    static_assert(M == 16 && N == 16 && K == 16, "only 16 x 16 x 16 is emulated");
    static constexpr int num_elements = 8;
    T x[8];
};

namespace detail {
inline float wide(float v) { return v; }
inline float wide(__nv_bfloat16 v) { return __bfloat162float(v); }
inline float wide(__half v) { return __half2float(v); }

// Row * 16 + column of the thread's number n.
inline int cell(int n) { return (emulated::place().lane * 8 + n) * 37 % 256; }

// The whole warp must come with the same address and distance.
inline void all_alike(const void* pointer, unsigned distance, const char* what) {
    const emulated::Place& here = emulated::place();
    if (here.lane == 0) {
        here.warp->pointer = pointer;
        here.warp->number = distance;
    }
    emulated::wait_for_warp(what);
    emulated::require(here.warp->pointer == pointer && here.warp->number == distance,
                      "threads of one warp load or store a fragment at different addresses");
    emulated::wait_for_warp("a fragment, checked");
}

template <class T>
void check(const T* pointer, unsigned distance, const char* what) {
    emulated::require(std::uintptr_t(pointer) % 32 == 0, "the address of a fragment must be a multiple of 32 bytes");
    emulated::require(distance * sizeof(T) % 16 == 0, "the rows of a fragment must be a multiple of 16 bytes apart");
    all_alike(pointer, distance, what);
}
}  // namespace detail

template <class F>
void fill_fragment(F& to, float value) {
    for (int n = 0; n < F::num_elements; ++n) to.x[n] = value;
}

template <class Use, class T, class Layout>
void load_matrix_sync(fragment<Use, 16, 16, 16, T, Layout>& to, const T* from, unsigned distance) {
    detail::check(from, distance, "load_matrix_sync");
    constexpr bool by_rows = std::is_same<Layout, row_major>::value;
    for (int n = 0; n < 8; ++n) {
        const int r = detail::cell(n) / 16, c = detail::cell(n) % 16;
        to.x[n] = by_rows ? from[r * distance + c] : from[c * distance + r];
    }
}

template <class T, class A, class B>
void mma_sync(fragment<accumulator, 16, 16, 16, float>& to, const fragment<matrix_a, 16, 16, 16, T, A>& a,
              const fragment<matrix_b, 16, 16, 16, T, B>& b, const fragment<accumulator, 16, 16, 16, float>& c) {
    emulated::Warp& warp = *emulated::place().warp;
    for (int n = 0; n < 8; ++n) {
        warp.a[detail::cell(n)] = detail::wide(a.x[n]);
        warp.b[detail::cell(n)] = detail::wide(b.x[n]);
    }
    emulated::wait_for_warp("mma_sync");
    for (int n = 0; n < 8; ++n) {
        const int row = detail::cell(n) / 16, column = detail::cell(n) % 16;
        float sum = c.x[n];
        for (int k = 0; k < 16; ++k) sum += warp.a[row * 16 + k] * warp.b[k * 16 + column];
        to.x[n] = sum;
    }
    emulated::wait_for_warp("mma_sync, read");
}

inline void store_matrix_sync(float* to, const fragment<accumulator, 16, 16, 16, float>& from, unsigned distance,
                              layout_t layout) {
    detail::check(to, distance, "store_matrix_sync");
    for (int n = 0; n < 8; ++n) {
        const int r = detail::cell(n) / 16, c = detail::cell(n) % 16;
        to[layout == mem_row_major ? r * distance + c : c * distance + r] = from.x[n];
    }
}

}  // namespace wmma
}  // namespace nvcuda
