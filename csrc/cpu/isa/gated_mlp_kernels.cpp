// act(gate) * up and its dual, for a run of elements. Compiled once per instruction set: see simd.h.
#include "gated_mlp_kernels.h"
#include "simd_math.h"

namespace fu {
namespace {

constexpr int64_t kChunk = 512;  // elements whose f, f', f'' wait in the first cache while the tangents pass by

template <class T>
struct Curve {
    typename Vector<T>::type f, f1, f2;
};

template <class T>
inline typename Vector<T>::type positive(typename Vector<T>::type x, T value) {
    return x > 0 ? splat<T>(value) : splat<T>(0);
}

// x sigmoid(slope x).
template <class T>
inline Curve<T> swish(typename Vector<T>::type x, T slope) {
    const auto z = x * slope;
    const Sigmoid<T> s = sigmoid<T>(z);
    return {x * s.here, s.here * (T(1) + z * s.there), slope * s.here * s.there * (T(2) + z * (s.there - s.here))};
}

struct Silu {
    template <class T>
    static Curve<T> at(typename Vector<T>::type x) {
        return swish<T>(x, T(1));
    }
};
struct QuickGelu {
    template <class T>
    static Curve<T> at(typename Vector<T>::type x) {
        return swish<T>(x, T(1.702));
    }
};
struct Gelu {
    template <class T>
    static Curve<T> at(typename Vector<T>::type x) {
        const Normal<T> n = normal<T>(x);
        // Far out the density is 0, and so must its products be, whatever x^2 is.
        const auto far = magnitude<T>(x) > T(100);
        const auto slope = far ? splat<T>(0) : x * n.density, bend = far ? splat<T>(0) : n.density * (T(2) - x * x);
        return {x * n.below, n.below + slope, bend};
    }
};
struct GeluTanh {
    template <class T>
    static Curve<T> at(typename Vector<T>::type x) {
        using V = typename Vector<T>::type;
        const T scale = T(1.5957691216057308), cubic = T(0.044715);  // 2 sqrt(2 / pi)
        V near = x < T(-20) ? splat<T>(-20) : x;
        near = near > T(20) ? splat<T>(20) : near;
        const V square = near * near;
        const V w = scale * near * (T(1) + cubic * square);
        const V w1 = scale * (T(1) + T(3) * cubic * square), w2 = T(6) * scale * cubic * near;
        const Sigmoid<T> s = sigmoid<T>(w);
        const V both = s.here * s.there, first = both * w1;
        return {x * s.here, s.here + near * first, T(2) * first + near * both * (w2 + (s.there - s.here) * w1 * w1)};
    }
};
struct Relu {
    template <class T>
    static Curve<T> at(typename Vector<T>::type x) {
        return {x < 0 ? splat<T>(0) : x, positive<T>(x, 1), splat<T>(0)};
    }
};
struct Relu2 {
    template <class T>
    static Curve<T> at(typename Vector<T>::type x) {
        const typename Vector<T>::type up = x < 0 ? splat<T>(0) : x;
        return {up * up, T(2) * up, positive<T>(x, 2)};
    }
};
struct Logistic {
    template <class T>
    static Curve<T> at(typename Vector<T>::type x) {
        const Sigmoid<T> s = sigmoid<T>(x);
        const auto first = s.here * s.there;
        return {s.here, first, first * (s.there - s.here)};
    }
};
struct Tanh {
    template <class T>
    static Curve<T> at(typename Vector<T>::type x) {
        const auto less = expm1_negative<T>(T(-2) * magnitude<T>(x));
        const auto size = -less / (T(2) + less), t = x < 0 ? -size : size;
        const Sigmoid<T> s = sigmoid<T>(T(2) * x);
        const auto first = T(4) * s.here * s.there;
        return {t, first, T(-2) * t * first};
    }
};
struct Softplus {
    template <class T>
    static Curve<T> at(typename Vector<T>::type x) {
        const Sigmoid<T> s = sigmoid<T>(x);
        const auto rest = log1p_unit<T>(exp_negative<T>(-magnitude<T>(x)));
        return {(x < 0 ? splat<T>(0) : x) + rest, s.here, s.here * s.there};
    }
};

// The curve of one chunk, in arrays whose length is rounded up to whole vectors.
template <class T>
struct Chunk {
    alignas(64) T f[kChunk], f1[kChunk], f2[kChunk], up[kChunk], g[kChunk];
};

template <class S, class T, class Kind>
void fill_kind(const S* gate, int64_t n, Chunk<T>& c) {
    each_vector<T>(n, [&](int64_t i, auto part) {
        const Curve<T> curve = Kind::template at<T>(get(gate + i, part));
        store(c.f + i, curve.f);
        store(c.f1 + i, curve.f1);
        store(c.f2 + i, curve.f2);
    });
}

template <class S, class T>
void fill_values(const S* from, int64_t n, T missing, T* to) {
    each_vector<T>(n, [&](int64_t i, auto part) { store(to + i, from ? get(from + i, part) : splat<T>(missing)); });
}

template <class S, class T>
void fill(int kind, const S* gate, const S* up, int64_t n, Chunk<T>& c) {
    using Fill = void (*)(const S*, int64_t, Chunk<T>&);
    static constexpr Fill kinds[] = {fill_kind<S, T, Silu>,      fill_kind<S, T, Gelu>, fill_kind<S, T, GeluTanh>,
                                     fill_kind<S, T, QuickGelu>, fill_kind<S, T, Relu>, fill_kind<S, T, Relu2>,
                                     fill_kind<S, T, Logistic>,  fill_kind<S, T, Tanh>, fill_kind<S, T, Softplus>};
    kinds[kind](gate, n, c);
    fill_values<S, T>(up, n, T(1), c.up);
}

template <class S>
S* at(const Stream& s, int64_t k, int64_t i) {
    return s.data ? static_cast<S*>(s.data) + k * s.tangent + i : nullptr;
}

template <class S, class Part>
inline auto get_or_zero(const S* from, int64_t i, Part part) {
    return from ? get(from + i, part) : splat<typename Wide<S>::type>(0);
}

template <class S>
void forward(const GatedForward& call, int64_t n) {
    using T = typename Wide<S>::type;
    Chunk<T> c;
    for (int64_t i0 = 0; i0 < n; i0 += kChunk) {
        const int64_t here = n - i0 < kChunk ? n - i0 : kChunk;
        fill<S, T>(call.kind, at<S>(call.gate, 0, i0), at<S>(call.up, 0, i0), here, c);
        if (S* y = at<S>(call.y, 0, i0))
            each_vector<T>(here, [&](int64_t i, auto part) { put(y + i, load(c.f + i) * load(c.up + i), part); });
        for (int64_t k = 0; k < call.k; ++k) {
            const S *gate_t = at<S>(call.gate_t, k, i0), *up_t = at<S>(call.up_t, k, i0);
            S* yt = at<S>(call.yt, k, i0);
            each_vector<T>(here, [&](int64_t i, auto part) {
                const auto by_gate = load(c.f1 + i) * load(c.up + i) * get_or_zero(gate_t, i, part);
                put(yt + i, by_gate + load(c.f + i) * get_or_zero(up_t, i, part), part);
            });
        }
    }
}

template <class S>
void backward(const GatedBackward& call, int64_t n) {
    using T = typename Wide<S>::type;
    Chunk<T> c;
    for (int64_t i0 = 0; i0 < n; i0 += kChunk) {
        const int64_t here = n - i0 < kChunk ? n - i0 : kChunk;
        fill<S, T>(call.kind, at<S>(call.gate, 0, i0), at<S>(call.up, 0, i0), here, c);
        fill_values<S, T>(at<S>(call.g, 0, i0), here, T(0), c.g);
        if (S* g_gate = at<S>(call.g_gate, 0, i0))
            each_vector<T>(here, [&](int64_t i, auto part) {
                put(g_gate + i, load(c.f1 + i) * load(c.up + i) * load(c.g + i), part);
            });
        if (S* g_up = at<S>(call.g_up, 0, i0))
            each_vector<T>(here, [&](int64_t i, auto part) { put(g_up + i, load(c.f + i) * load(c.g + i), part); });
        for (int64_t k = 0; k < call.k; ++k) {
            const S *gate_t = at<S>(call.gate_t, k, i0), *up_t = at<S>(call.up_t, k, i0), *h = at<S>(call.h, k, i0);
            S *h_gate = at<S>(call.h_gate, k, i0), *h_up = at<S>(call.h_up, k, i0);
            each_vector<T>(here, [&](int64_t i, auto part) {
                const auto a = get_or_zero(gate_t, i, part), b = get_or_zero(up_t, i, part);
                const auto v = get_or_zero(h, i, part);
                const auto f1 = load(c.f1 + i), up = load(c.up + i), g = load(c.g + i);
                if (h_gate) put(h_gate + i, f1 * (up * v + b * g) + load(c.f2 + i) * up * g * a, part);
                if (h_up) put(h_up + i, load(c.f + i) * v + f1 * a * g, part);
            });
        }
    }
}

}  // namespace

extern const GatedTable FU_JOIN(gated_, FU_ISA);
constexpr GatedTable FU_JOIN(gated_, FU_ISA) = {{
    {forward<float>, backward<float>},
    {forward<double>, backward<double>},
    {forward<BFloat16>, backward<BFloat16>},
}};

}  // namespace fu
