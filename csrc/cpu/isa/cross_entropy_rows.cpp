// Softmax statistics and adjoints of rows of logits. Compiled once per instruction set: see simd.h.
#include "cross_entropy_kernels.h"
#include "simd_math.h"

namespace fu {
namespace {

constexpr int64_t kBlock = 512;  // columns at a time: sums of a block are kept in T, of blocks in double

// The logits of a block and what the chain rule needs of z = phi(a): slope = dz/da, curve = d2z/da2.
template <class T>
struct Block {
    alignas(64) T z[kBlock];
    alignas(64) T slope[kBlock];
    alignas(64) T curve[kBlock];
    alignas(64) T p[kBlock];
};

// From x = scale (a + bias) / cap: z = cap tanh(x), slope = scale / cosh(x)^2, curve = -2 tanh(x) slope scale / cap.
// With q = exp(-2 |x|): tanh = (1 - q) / (1 + q) and 1 / cosh^2 = 4 q / (1 + q)^2, without cancellation.
template <class T>
void bend(const T* x, int64_t columns, T cap, T scale, Block<T>& block) {
    using V = typename Vector<T>::type;
    each_vector<T>(columns, [&](int64_t i, auto part) {
        const V in = get(x + i, part), a = magnitude<T>(in);
        const V falling = expm1_negative<T>(a * T(-2)), q = falling + T(1), share = T(1) / (q + T(1));
        const V height = -falling * share, t = in < 0 ? -height : height;
        const V slope = T(4) * scale * q * share * share;
        put(block.z + i, t * cap, Full());
        put(block.slope + i, slope, Full());
        put(block.curve + i, t * slope * (T(-2) * scale / cap), Full());
    });
}

template <class T>
void straight(const T* x, int64_t columns, Block<T>& block) {
    each_vector<T>(columns, [&](int64_t i, auto part) { put(block.z + i, get(x + i, part), Full()); });
}

// x in place of a, and its largest element.
template <class T>
void prepare(T* z, const T* bias, int64_t columns, T factor) {
    if (bias)
        each_vector<T>(columns, [&](int64_t i, auto part) {
            put(z + i, (get(z + i, part) + get(bias + i, part)) * factor, part);
        });
    else if (factor != T(1))
        each_vector<T>(columns, [&](int64_t i, auto part) { put(z + i, get(z + i, part) * factor, part); });
}

template <class T>
T largest_of(const T* z, int64_t columns) {
    using V = typename Vector<T>::type;
    V most = splat<T>(z[0]);
    int64_t i = 0;
    for (; i + lanes<T>() <= columns; i += lanes<T>()) {
        const V v = get(z + i, Full());
        most = v > most ? v : most;
    }
    T value = z[0];
    for (int64_t l = 0; l < lanes<T>(); ++l) value = most[l] > value ? most[l] : value;
    for (; i < columns; ++i) value = z[i] > value ? z[i] : value;
    return value;
}

// block.p = exp(z - largest), 0 past the end; returns its sum.
template <class T>
double exponentials(Block<T>& block, int64_t columns, T largest) {
    using V = typename Vector<T>::type;
    V total = {};
    each_vector<T>(columns, [&](int64_t i, auto part) {
        put(block.p + i, exp_negative<T>(get(block.z + i, Full()) - largest), Full());
        total += get(block.p + i, part);
    });
    return double(sum<T>(total));
}

template <class T>
void read(const T* x, int64_t columns, const LogitRow<T>& row, Block<T>& block) {
    if (row.softcap > 0)
        bend(x, columns, row.softcap, row.scale, block);
    else
        straight(x, columns, block);
}

template <class T>
void add(const LogitRow<T>& row, RowState& state) {
    using V = typename Vector<T>::type;
    const bool capped = row.softcap > 0;
    Block<T> block;
    for (int64_t begin = 0; begin < row.columns; begin += kBlock) {
        const int64_t columns = row.columns - begin < kBlock ? row.columns - begin : kBlock;
        const bool labelled = row.label >= begin && row.label < begin + columns;
        T* x = row.z + begin;
        prepare(x, row.bias ? row.bias + begin : nullptr, columns, capped ? row.scale / row.softcap : row.scale);
        read(x, columns, row, block);
        const double highest = double(largest_of(block.z, columns));
        if (highest > state.largest) {
            const double shrink = __builtin_exp(state.largest - highest);
            state.sum *= shrink;
            for (int k = 0; k < row.streams; ++k) state.dots[k] *= shrink;
            state.largest = highest;
        }
        state.sum += exponentials(block, columns, T(state.largest));
        if (labelled) state.chosen = double(block.z[row.label - begin]);
        for (int k = 0; k < row.streams; ++k) {
            T* at = row.zt + k * row.stream_stride + begin;
            if (row.bias_t) prepare(at, row.bias_t + k * row.bias_stride + begin, columns, T(1));
            V dot = {};
            if (capped)
                each_vector<T>(columns, [&](int64_t i, auto part) {
                    dot += get(block.p + i, part) * get(block.slope + i, part) * get(at + i, part);
                });
            else
                each_vector<T>(columns, [&](int64_t i, auto part) { dot += get(block.p + i, part) * get(at + i, part); });
            state.dots[k] += double(sum<T>(dot)) * (capped ? 1.0 : double(row.scale));
            if (labelled) {
                const int64_t y = row.label - begin;
                state.chosen_t[k] = double(at[y]) * double(capped ? block.slope[y] : row.scale);
            }
        }
    }
}

template <class T>
void finish(const LogitRow<T>& row, const RowState& state, T weight, bool second_order) {
    const bool capped = row.softcap > 0;
    const T share = T(double(weight) / state.sum);
    Block<T> block;
    for (int64_t begin = 0; begin < row.columns; begin += kBlock) {
        const int64_t columns = row.columns - begin < kBlock ? row.columns - begin : kBlock;
        T* z = row.z + begin;
        read(z, columns, row, block);
        exponentials(block, columns, T(state.largest));
        const int64_t y = row.label >= begin && row.label < begin + columns ? row.label - begin : -1;
        for (int k = 0; k < row.streams; ++k) {
            T* at = row.zt + k * row.stream_stride + begin;
            const T mean = T(state.dots[k] / state.sum);
            const T label_t = y < 0 ? T(0) : at[y];
            if (!capped)
                each_vector<T>(columns, [&](int64_t i, auto part) {
                    put(at + i, get(block.p + i, Full()) * (share * row.scale) * (get(at + i, part) * row.scale - mean), part);
                });
            else
                each_vector<T>(columns, [&](int64_t i, auto part) {
                    const auto t = get(at + i, part), slope = get(block.slope + i, Full());
                    const auto p = get(block.p + i, Full()) * share;
                    auto h = p * slope * (slope * t - mean);
                    if (second_order) h += p * get(block.curve + i, Full()) * t;
                    put(at + i, h, part);
                });
            if (capped && second_order && y >= 0) at[y] -= weight * block.curve[y] * label_t;
        }
        if (!capped)
            each_vector<T>(columns,
                           [&](int64_t i, auto part) { put(z + i, get(block.p + i, Full()) * (share * row.scale), part); });
        else
            each_vector<T>(columns, [&](int64_t i, auto part) {
                put(z + i, get(block.p + i, Full()) * share * get(block.slope + i, Full()), part);
            });
        if (y >= 0) z[y] -= weight * (capped ? block.slope[y] : row.scale);
    }
}

template <class T>
void add_rows(const T* from, int64_t stride, int64_t rows, int64_t columns, T* to) {
    each_vector<T>(columns, [&](int64_t i, auto part) {
        typename Vector<T>::type total = {};
        for (int64_t r = 0; r < rows; ++r) total += get(from + r * stride + i, part);
        put(to + i, get(to + i, part) + total, part);
    });
}

}  // namespace

extern const CrossEntropyKernels FU_JOIN(cross_entropy_, FU_ISA);
const CrossEntropyKernels FU_JOIN(cross_entropy_, FU_ISA) = {
    {add<float>, finish<float>, add_rows<float>},
    {add<double>, finish<double>, add_rows<double>},
};

}  // namespace fu
