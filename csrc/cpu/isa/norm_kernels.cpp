// RMSNorm and LayerNorm with tangents, and their dual backward, row by row. Compiled once per instruction set.
// Notation: fastunlearn/ops/norm/README.md.
#include "norm_kernels.h"
#include "simd_io.h"

namespace fu {
namespace {

template <class T>
using Vec = typename Vector<T>::type;

template <class S>
S* row_of(const NormStream& s, int64_t k, int64_t row) {
    return s.data ? static_cast<S*>(s.data) + k * s.tangent + row * s.row : nullptr;
}

template <class S, class Part>
inline Vec<typename Wide<S>::type> get_or_zero(const S* from, int64_t i, Part part) {
    return from ? get(from + i, part) : splat<typename Wide<S>::type>(0);
}

template <class T>
inline T square_root(T value) {
    return sizeof(T) == 4 ? T(__builtin_sqrtf(float(value))) : T(__builtin_sqrt(double(value)));
}

// Rows of d values in the accumulator type, padded to whole vectors, for one row of x.
template <class T>
struct Scratch {
    T *xh, *u, *v;
    Scratch(void* memory, int64_t d) {
        const int64_t stride = (d * int64_t(sizeof(T)) + 63) / 64 * (64 / int64_t(sizeof(T)));
        T* start = static_cast<T*>(memory);
        xh = start, u = start + stride, v = start + 2 * stride;
    }
};

// Several sums over a row at once; body(i, part) returns the terms of one vector. Lanes that are
// not there must be 0 in every term.
template <class T, int N, class Body>
inline void sums_of(int64_t d, T (&total)[N], Body body) {
    struct Terms {
        Vec<T> of[N];
    } sums = {};
    each_vector<T>(d, [&](int64_t i, auto part) { body(i, part, sums.of); });
    for (int j = 0; j < N; ++j) total[j] = sum<T>(sums.of[j]);
}

// xh into scratch (padding 0); returns r.
template <class S, class T>
inline T normalise(const NormCall& c, const S* x, T* xh) {
    const T count = T(c.d);
    T mean[1] = {0};
    if (c.center) {
        sums_of<T>(c.d, mean, [&](int64_t i, auto part, Vec<T>* sums) { sums[0] += get(x + i, part); });
        mean[0] /= count;
    }
    // Centred first, squared then: the other order would lose the digits that the mean takes up.
    each_vector<T>(c.d, [&](int64_t i, auto part) { store(xh + i, get(x + i, part) - mean[0]); });
    for (int64_t i = c.d; i % lanes<T>() != 0; ++i) xh[i] = 0;
    T sums_c[2];
    sums_of<T>(c.d, sums_c, [&](int64_t i, auto, Vec<T>* sums) {
        const Vec<T> value = load(xh + i);
        sums[0] += value * value, sums[1] += value;
    });
    // What rounding left of the mean: for rows far from 0 that is most of the error.
    const T rest = c.center ? sums_c[1] / count : T(0);
    const T r = T(1) / square_root(sums_c[0] / count - rest * rest + T(c.eps));
    each_vector<T>(c.d, [&](int64_t i, auto) { store(xh + i, (load(xh + i) - rest) * r); });
    for (int64_t i = c.d; i % lanes<T>() != 0; ++i) xh[i] = 0;
    return r;
}

template <class T, class Part>
inline Vec<T> scale_at(const void* scale, int64_t i, Part part) {
    return scale ? get(static_cast<const T*>(scale) + i, part) : splat<T>(1);
}

template <class T>
const T* per_channel(const void* values, int64_t k, int64_t d) {
    return values ? static_cast<const T*>(values) + k * d : nullptr;
}

template <class S>
void forward(const NormCall& c, const NormForward& to, int64_t begin, int64_t end, void* memory) {
    using T = typename Wide<S>::type;
    const Scratch<T> s(memory, c.d);
    const T* bias = static_cast<const T*>(c.bias);
    for (int64_t row = begin; row < end; ++row) {
        const T r = normalise(c, row_of<const S>(c.x, 0, row), s.xh);
        S* y = row_of<S>(to.y, 0, row);
        each_vector<T>(c.d, [&](int64_t i, auto part) {
            put(y + i, load(s.xh + i) * scale_at<T>(c.scale, i, part) + get_or_zero(bias, i, part), part);
        });
        for (int64_t k = 0; to.yt.data && k < c.k; ++k) {
            const S* xt = row_of<const S>(c.xt, k, row);
            const T *scale_t = per_channel<T>(c.scale_t, k, c.d), *bias_t = per_channel<T>(c.bias_t, k, c.d);
            S* yt = row_of<S>(to.yt, k, row);
            T means[2] = {0, 0};
            if (xt)
                sums_of<T>(c.d, means, [&](int64_t i, auto part, Vec<T>* sums) {
                    const Vec<T> t = get(xt + i, part);
                    sums[0] += load(s.xh + i) * t, sums[1] += t;
                });
            const T m = means[0] / T(c.d), shift = c.center ? means[1] / T(c.d) : T(0);
            each_vector<T>(c.d, [&](int64_t i, auto part) {
                const Vec<T> xh = load(s.xh + i);
                const Vec<T> xht = r * (get_or_zero(xt, i, part) - shift - m * xh);
                const Vec<T> moved = xh * get_or_zero(scale_t, i, part) + get_or_zero(bias_t, i, part);
                put(yt + i, xht * scale_at<T>(c.scale, i, part) + moved, part);
            });
        }
    }
}

template <class S>
void backward(const NormCall& c, const NormBackward& to, int64_t begin, int64_t end, void* memory) {
    using T = typename Wide<S>::type;
    const Scratch<T> s(memory, c.d);
    const T count = T(c.d);
    for (int64_t row = begin; row < end; ++row) {
        const T r = normalise(c, row_of<const S>(c.x, 0, row), s.xh);
        const S* g = row_of<const S>(to.g, 0, row);
        T first[2] = {0, 0};  // mean(xh u), mean(u)
        sums_of<T>(c.d, first, [&](int64_t i, auto part, Vec<T>* sums) {
            const Vec<T> u = get_or_zero(g, i, part) * scale_at<T>(c.scale, i, part);
            store(s.u + i, u);
            sums[0] += load(s.xh + i) * u, sums[1] += u;
        });
        const T cc = first[0] / count, u_mean = c.center ? first[1] / count : T(0);
        if (S* gx = row_of<S>(to.gx, 0, row))
            each_vector<T>(c.d, [&](int64_t i, auto part) {
                put(gx + i, r * (load(s.u + i) - u_mean - load(s.xh + i) * cc), part);
            });
        for (int64_t k = 0; k < c.k; ++k) {
            const S *xt = row_of<const S>(c.xt, k, row), *h = row_of<const S>(to.h, k, row);
            const T* scale_t = per_channel<T>(c.scale_t, k, c.d);
            T sums_k[5] = {0, 0, 0, 0, 0};  // sums of xh xt, xt, xt u, xh v, v
            sums_of<T>(c.d, sums_k, [&](int64_t i, auto part, Vec<T>* sums) {
                const Vec<T> t = get_or_zero(xt, i, part), xh = load(s.xh + i);
                const Vec<T> v = get_or_zero(h, i, part) * scale_at<T>(c.scale, i, part) +
                                 get_or_zero(g, i, part) * get_or_zero(scale_t, i, part);
                store(s.v + i, v);
                sums[0] += xh * t, sums[1] += t, sums[2] += t * load(s.u + i), sums[3] += xh * v, sums[4] += v;
            });
            const T m = sums_k[0] / count, shift = c.center ? sums_k[1] / count : T(0);
            const T v_mean = c.center ? sums_k[4] / count : T(0);
            const T mixed = sums_k[2] / count - shift * u_mean;
            const T along = T(3) * r * m * cc - r * mixed - sums_k[3] / count;
            if (S* hx = row_of<S>(to.hx, k, row))
                each_vector<T>(c.d, [&](int64_t i, auto part) {
                    const Vec<T> t = get_or_zero(xt, i, part) - shift, u = load(s.u + i) - u_mean;
                    const Vec<T> across = load(s.v + i) - v_mean - (r * m) * u - (r * cc) * t;
                    put(hx + i, r * (across + load(s.xh + i) * along), part);
                });
            if (to.weight_h) {
                T* sum_h = static_cast<T*>(to.weight_h) + k * c.d;
                each_vector<T>(c.d, [&](int64_t i, auto part) {
                    const Vec<T> xh = load(s.xh + i), xht = r * (get_or_zero(xt, i, part) - shift - m * xh);
                    const Vec<T> more = get_or_zero(h, i, part) * xh + get_or_zero(g, i, part) * xht;
                    put(sum_h + i, get(sum_h + i, part) + more, part);
                });
            }
            if (to.bias_h) {
                T* sum_h = static_cast<T*>(to.bias_h) + k * c.d;
                each_vector<T>(c.d, [&](int64_t i, auto part) {
                    put(sum_h + i, get(sum_h + i, part) + get_or_zero(h, i, part), part);
                });
            }
        }
    }
}

}  // namespace

extern const NormTable FU_JOIN(norm_, FU_ISA);
constexpr NormTable FU_JOIN(norm_, FU_ISA) = {{
    {forward<float>, backward<float>},
    {forward<double>, backward<double>},
    {forward<BFloat16>, backward<BFloat16>},
}};

}  // namespace fu
