// The table of row functions that linear_cross_entropy.cpp drives (isa/cross_entropy_rows.cpp).
#pragma once

#include <cstdint>

namespace fu {

// A range of columns of one token's row: x W^T and its tangents, which become logits, then adjoints.
template <class T>
struct LogitRow {
    T* z;             // a = x W^T of the range
    T* zt;            // at of the range, stream k at zt + k * stream_stride
    int64_t stream_stride;
    int streams;
    int64_t columns;
    int64_t label;    // the label's place in this range; outside [0, columns) where it is in another one
    const T* bias;    // of the range, or null
    const T* bias_t;  // stream k at bias_t + k * bias_stride, or null
    int64_t bias_stride;
    T softcap;        // 0: none
    T scale;
};

// What one row has seen so far: a running softmax. `dots` has one entry per stream.
struct RowState {
    double largest;  // of z; starts at -infinity
    double sum;      // of exp(z - largest)
    double chosen;   // z at the label
    double* dots;    // sums of exp(z - largest) zt
    double* chosen_t;  // zt at the label
};

template <class T>
struct CrossEntropyTable {
    // Adds the range to the state. Afterwards z holds scale (a + bias) (divided by the soft-cap where there is one)
    // and zt holds at + bias_t.
    void (*add)(const LogitRow<T>& row, RowState& state);

    // Overwrites z with g_a = w (p - e) phi' and zt with h_a, where `second_order` adds w (p - e) phi'' at.
    void (*finish)(const LogitRow<T>& row, const RowState& state, T weight, bool second_order);

    // to[c] += sum over rows of from[r][c]
    void (*add_rows)(const T* from, int64_t stride, int64_t rows, int64_t columns, T* to);
};

struct CrossEntropyKernels {
    CrossEntropyTable<float> f32;
    CrossEntropyTable<double> f64;
};

}  // namespace fu
