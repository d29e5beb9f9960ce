// Softmax statistics and adjoints of tiles of logits. Compiled once per instruction set: see simd.h.
//
// A lane is a token, so sums over the vocabulary are sums of vectors.
#include "cross_entropy_kernels.h"
#include "micro_tile.h"
#include "simd_math.h"

namespace fu {
namespace {

template <class T>
constexpr int64_t kPanel = int64_t(kVectors) * FU_BYTES / int64_t(sizeof(T));

template <class T>
constexpr T kLowest = T(sizeof(T) == 4 ? -3.4028234663852886e38 : -1.7976931348623157e308);

// z = phi(a) and its first two derivatives in a.
template <class T>
struct Bent {
    typename Vector<T>::type z, slope, curve;
};

// From x = scale (a + bias) / cap: z = cap tanh(x), slope = scale / cosh(x)^2, curve = -2 tanh(x) slope scale / cap.
// With q = exp(-2 |x|): tanh = (1 - q) / (1 + q) and 1 / cosh^2 = 4 q / (1 + q)^2, without cancellation.
template <class T>
inline Bent<T> bend(typename Vector<T>::type x, const LogitTile<T>& tile) {
    using V = typename Vector<T>::type;
    // q and 1 - q each from the parts of the exponential: one taken from the other would have no digits at one end.
    const Power<T> p = power<T>(magnitude<T>(x) * T(-2));
    const V q = p.scale + p.scale * p.rest, falling = p.scale * p.rest + (p.scale - T(1)), share = T(1) / (q + T(1));
    const V height = -falling * share, t = x < 0 ? -height : height;
    const V slope = T(4) * tile.scale * q * share * share;
    return {t * tile.softcap, slope, t * slope * (T(-2) * tile.scale / tile.softcap)};
}

// scale (a + bias) in place, divided by the soft-cap where there is one.
template <class T>
void prepare(const LogitTile<T>& tile) {
    const T factor = tile.softcap > 0 ? tile.scale / tile.softcap : tile.scale;
    if (!tile.bias && factor == T(1)) return;
    for (int64_t r = 0; r < tile.rows; ++r)
        for (int64_t i = r * kPanel<T>; i < (r + 1) * kPanel<T>; i += lanes<T>())
            store(tile.z + i, (load(tile.z + i) + (tile.bias ? tile.bias[r] : T(0))) * factor);
}

template <class T>
inline bool here(const LogitTile<T>& tile, int64_t token) {
    return tile.labels[token] >= 0 && tile.labels[token] < tile.rows;
}

template <class T>
inline int64_t label_place(const LogitTile<T>& tile, int64_t token) {
    return tile.labels[token] * kPanel<T> + token;
}

// body(token, z, phi'(a)) for every token whose label is in this tile; z still holds what `prepare` left.
template <class T, class Body>
void at_labels(const LogitTile<T>& tile, Body body) {
    for (int64_t token = 0; token < kPanel<T>; ++token) {
        if (!here(tile, token)) continue;
        const T x = tile.z[label_place(tile, token)];
        if (tile.softcap > 0) {
            const Bent<T> bent = bend(splat<T>(x), tile);
            body(token, bent.z[0], bent.slope[0]);
        } else {
            body(token, x, tile.scale);
        }
    }
}

template <class T>
void soften(const LogitTile<T>& tile, const TileSums<T>& sums) {
    using V = typename Vector<T>::type;
    const bool capped = tile.softcap > 0;
    prepare(tile);
    at_labels(tile, [&](int64_t token, T z, T) { sums.chosen[token] = z; });
    for (int64_t v = 0; v < kPanel<T>; v += lanes<T>()) {
        T* const z = tile.z + v;
        V most = load(z), total = {};
        for (int64_t r = 1; r < tile.rows; ++r) {
            const V one = load(z + r * kPanel<T>);
            most = one > most ? one : most;
        }
        most = most > kLowest<T> ? most : splat<T>(kLowest<T>);  // where all are -infinity, exp is 0 and not NaN
        if (capped) {                                            // phi grows with its argument
            most = bend(most, tile).z;
            for (int64_t r = 0; r < tile.rows; ++r)
                total += exp_negative<T>(bend(load(z + r * kPanel<T>), tile).z - most);
        } else {
            for (int64_t r = 0; r < tile.rows; ++r) {
                const V e = exp_negative<T>(load(z + r * kPanel<T>) - most);
                store(z + r * kPanel<T>, e);
                total += e;
            }
        }
        store(sums.largest + v, most);
        store(sums.sum + v, total);
    }
}

template <class T>
void tangents(const LogitTile<T>& tile, const TileSums<T>& sums) {
    using V = typename Vector<T>::type;
    for (int k = 0; k < tile.streams; ++k) {
        T* const zt = tile.zt + k * tile.stream_stride;
        const T* const bias_t = tile.bias_t ? tile.bias_t + k * tile.bias_stride : nullptr;
        for (int64_t v = 0; v < kPanel<T>; v += lanes<T>()) {
            const V largest = load(sums.largest + v);
            V dot = {};
            for (int64_t r = 0; r < tile.rows; ++r) {
                T* const place = zt + r * kPanel<T> + v;
                V t = load(place), z = load(tile.z + r * kPanel<T> + v);
                if (bias_t) store(place, t += bias_t[r]);
                if (tile.softcap > 0) {
                    const Bent<T> bent = bend(z, tile);
                    z = exp_negative<T>(bent.z - largest) * bent.slope;
                }
                dot += z * t;
            }
            store(sums.dots + k * sums.stride + v, dot);
        }
    }
    at_labels(tile, [&](int64_t token, T, T slope) {
        for (int k = 0; k < tile.streams; ++k)
            sums.chosen_t[k * sums.stride + token] = slope * tile.zt[k * tile.stream_stride + label_place(tile, token)];
    });
}

template <class T>
void straight_adjoints(const LogitTile<T>& tile, const TokenFactors<T>& f) {
    using V = typename Vector<T>::type;
    for (int64_t v = 0; v < kPanel<T>; v += lanes<T>()) {
        T* const z = tile.z + v;
        if (f.fresh) {
            const V share = load(f.share + v);
            for (int64_t r = 0; r < tile.rows; ++r) store(z + r * kPanel<T>, load(z + r * kPanel<T>) * share);
        }
        for (int k = 0; k < tile.streams; ++k) {
            T* const zt = tile.zt + k * tile.stream_stride + v;
            const V mean = load(f.mean + k * f.stride + v);
            for (int64_t r = 0; r < tile.rows; ++r)
                store(zt + r * kPanel<T>, load(z + r * kPanel<T>) * (load(zt + r * kPanel<T>) * tile.scale - mean));
        }
    }
    for (int64_t token = 0; token < kPanel<T>; ++token) {
        if (!here(tile, token)) continue;
        const int64_t place = label_place(tile, token);
        if (f.fresh) {
            f.label_share[token] = tile.z[place];
            if (f.subtract) tile.z[place] -= tile.scale;
            continue;
        }
        for (int k = 0; k < tile.streams; ++k)  // z has lost its label's share to rounding
            tile.zt[k * tile.stream_stride + place] =
                f.label_share[token] * (f.chosen_t[k * f.stride + token] - f.mean[k * f.stride + token]);
    }
}

template <class T>
void bent_adjoints(const LogitTile<T>& tile, const TokenFactors<T>& f) {
    using V = typename Vector<T>::type;
    bool labelled[kMostRows] = {};
    for (int64_t token = 0; f.subtract && token < kPanel<T>; ++token)
        if (here(tile, token)) labelled[tile.labels[token]] = true;
    for (int64_t v = 0; v < kPanel<T>; v += lanes<T>()) {
        const V largest = load(f.largest + v), share = load(f.share + v);
        for (int64_t r = 0; r < tile.rows; ++r) {
            T* const place = tile.z + r * kPanel<T> + v;
            const Bent<T> bent = bend(load(place), tile);
            const V p = exp_negative<T>(bent.z - largest) * share;
            V g = p;
            for (int64_t l = 0; labelled[r] && l < lanes<T>(); ++l)
                if (tile.labels[v + l] == r) g[l] -= T(1);
            for (int k = 0; k < tile.streams; ++k) {
                T* const zt = tile.zt + k * tile.stream_stride + r * kPanel<T> + v;
                const V t = load(zt);
                V h = p * bent.slope * (bent.slope * t - load(f.mean + k * f.stride + v));
                if (f.curved) h += g * bent.curve * t;
                store(zt, h);
            }
            store(place, g * bent.slope);
        }
    }
}

template <class T>
void adjoints(const LogitTile<T>& tile, const TokenFactors<T>& factors) {
    if (tile.softcap > 0)
        bent_adjoints(tile, factors);
    else
        straight_adjoints(tile, factors);
}

template <class T>
void add_tokens(const T* tile, int64_t rows, const T* weights, T* to) {
    using V = typename Vector<T>::type;
    for (int64_t r = 0; r < rows; ++r) {
        V total = {};
        for (int64_t v = 0; v < kPanel<T>; v += lanes<T>()) total += load(weights + v) * load(tile + r * kPanel<T> + v);
        to[r] += sum<T>(total);
    }
}

}  // namespace

extern const CrossEntropyKernels FU_JOIN(cross_entropy_, FU_ISA);
constexpr CrossEntropyKernels FU_JOIN(cross_entropy_, FU_ISA) = {
    {soften<float>, tangents<float>, adjoints<float>, add_tokens<float>},
    {soften<double>, tangents<double>, adjoints<double>, add_tokens<double>},
};

}  // namespace fu
