// Scores to probabilities, and their tangents and adjoints, on tiles. Compiled once per instruction set: see simd.h.
#include "attention_kernels.h"
#include "simd_math.h"

namespace fu {
namespace {

template <class T>
constexpr int64_t kLanes = FU_BYTES / int64_t(sizeof(T));
constexpr double kInfinity = __builtin_inf();

// From expm1, so that nothing cancels near 0.
template <class T>
inline typename Vector<T>::type hyperbolic_tangent(typename Vector<T>::type x) {
    const auto t = expm1_negative<T>(magnitude<T>(x) * T(-2));
    const typename Vector<T>::type value = t / (t + T(2));
    return x < T(0) ? value : -value;
}

template <class T>
void shape(TileSize size, T* s, T* u, T cap, T slope, int64_t first, const T* bias) {
    using V = typename Vector<T>::type;
    V lane;
    for (int64_t c = 0; c < kLanes<T>; ++c) lane[c] = T(c);
    for (int64_t r = 0; r < size.rows; ++r)
        for (int64_t c = 0; c < size.columns; c += kLanes<T>) {
            const int64_t place = r * kTile + c;
            V x = load(s + place);
            if (u) {
                const V t = hyperbolic_tangent<T>(x / cap);
                store(u + place, t);
                x = cap * t;
            }
            if (slope != 0) x += slope * (T(first + r - c) - lane);
            if (bias) x += load(bias + place);
            store(s + place, x);
        }
}

template <class T>
void online(TileSize size, T* s, T* maximum, T* total, T* correction, T* kept) {
    using V = typename Vector<T>::type;
    const V zero = {}, lowest = zero - T(kInfinity);
    for (int64_t c = 0; c < size.columns; c += kLanes<T>) {
        const V before = load(maximum + c);
        V most = before;
        for (int64_t r = 0; r < size.rows; ++r) {
            const V x = load(s + r * kTile + c);
            most = x > most ? x : most;
        }
        // Nothing to attend to so far: any finite maximum will do, since every p is exp(-inf).
        const V finite = most == lowest ? zero : most;
        const V factor = exp_negative<T>(before - finite);
        V sum = factor * load(total + c);
        store(kept + c, sum);
        for (int64_t r = 0; r < size.rows; ++r) {
            const V p = exp_negative<T>(load(s + r * kTile + c) - finite);
            sum += p;
            store(s + r * kTile + c, p);
        }
        store(maximum + c, most);
        store(total + c, sum);
        store(correction + c, factor);
    }
}

template <class T>
inline typename Vector<T>::type capped(typename Vector<T>::type z, const T* u) {
    if (!u) return z;
    const auto t = load(u);
    return z - t * t * z;
}

template <class T>
void online_tangent(TileSize size, T* z, const T* u, const T* p, const T* total, const T* correction, const T* kept,
                    T* mean, T* shift, T* rest) {
    using V = typename Vector<T>::type;
    const V zero = {};
    for (int64_t c = 0; c < size.columns; c += kLanes<T>) {
        const V old = load(mean + c), all = load(total + c), factor = load(correction + c);
        V sum = zero;
        for (int64_t r = 0; r < size.rows; ++r) {
            const int64_t place = r * kTile + c;
            const V st = capped(load(z + place), u ? u + place : nullptr), weight = load(p + place);
            store(z + place, st);
            sum += weight * (st - old);
        }
        const V moved = all == zero ? old : old + (factor * load(rest + c) + sum) / all;
        V left = factor * load(rest + c) - (moved - old) * load(kept + c);
        for (int64_t r = 0; r < size.rows; ++r) {
            const int64_t place = r * kTile + c;
            const V weighted = load(p + place) * (load(z + place) - moved);
            left += weighted;
            store(z + place, weighted);
        }
        store(mean + c, moved);
        store(shift + c, moved - old);
        store(rest + c, left);
    }
}

template <class T>
void probabilities(TileSize size, T* s, const T* lse, const T* rest) {
    for (int64_t r = 0; r < size.rows; ++r)
        for (int64_t c = 0; c < size.columns; c += kLanes<T>)
            store(s + r * kTile + c, exp_negative<T>((load(s + r * kTile + c) - load(lse + c)) - load(rest + c)));
}

template <class T>
void adjoint(TileSize size, const T* p, const T* u, T* y, T* e, const T* d) {
    using V = typename Vector<T>::type;
    for (int64_t r = 0; r < size.rows; ++r)
        for (int64_t c = 0; c < size.columns; c += kLanes<T>) {
            const int64_t place = r * kTile + c;
            const V value = load(p + place) * (load(y + place) - load(d + c));
            if (e) store(e + place, value);
            store(y + place, capped(value, u ? u + place : nullptr));
        }
}

template <class T>
void tangent_adjoint(TileSize size, const T* p, const T* u, T cap, const T* e, const T* mean, const T* d, T* z, T* y) {
    using V = typename Vector<T>::type;
    for (int64_t r = 0; r < size.rows; ++r)
        for (int64_t c = 0; c < size.columns; c += kLanes<T>) {
            const int64_t place = r * kTile + c;
            const V weight = load(p + place), value = load(e + place), zt = load(z + place);
            const V centred = capped(zt, u ? u + place : nullptr) - load(mean + c);
            V result = value * centred + weight * (load(y + place) - load(d + c));
            if (u) {
                const V t = load(u + place);
                result = (result - t * t * result) - T(2) / cap * t * (zt - t * t * zt) * value;
            }
            store(z + place, weight * centred);
            store(y + place, result);
        }
}

template <class T>
constexpr AttentionSoftmax<T> table() {
    return {shape<T>, online<T>, online_tangent<T>, probabilities<T>, adjoint<T>, tangent_adjoint<T>};
}

}  // namespace

extern const SoftmaxKernels FU_JOIN(attention_softmax_, FU_ISA);
constexpr SoftmaxKernels FU_JOIN(attention_softmax_, FU_ISA) = {table<float>(), table<double>()};

}  // namespace fu
