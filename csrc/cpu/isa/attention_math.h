// exp and tanh of a vector, for the files of isa/. Internal linkage, as simd.h asks.
#pragma once

#include "simd.h"

namespace fu {
namespace {

template <class T>
struct Integers;
template <>
struct Integers<float> {
    typedef uint32_t type __attribute__((vector_size(FU_BYTES)));
};
template <>
struct Integers<double> {
    typedef uint64_t type __attribute__((vector_size(FU_BYTES)));
};

template <class V>
inline V at_least(V x, V bound) {
    return x < bound ? bound : x;  // NaN stays
}
template <class V>
inline V at_most(V x, V bound) {
    return x > bound ? bound : x;
}

// exp(x) = 2^n exp(r), r = x - n ln 2 in two steps; n comes out of the low bits of x / ln 2 + 1.5 * 2^mantissa.
// Below the least normal number (x < -87.3, -708) the result is 0; above the largest it is clamped, not infinite.
struct FloatExp {
    static constexpr float kLow = -87.3f, kHigh = 88.3f, kShift = 0x1.8p23f;
    static constexpr float kInverse = 1.44269504f, kLn2High = 0x1.62e4p-1f, kLn2Low = 0x1.7f7d1cp-20f;
    static constexpr int kMantissa = 23;
    template <class V>  // relative error 1.1e-8 on |r| <= 0.35 before rounding; our own fit
    static V tail(V r) {
        return 0.5f + r * (0.16666573f + r * (0.041666456f + r * (0.0083637768f + r * 0.0013934545f)));
    }
};
struct DoubleExp {
    static constexpr double kLow = -708.0, kHigh = 709.0, kShift = 0x1.8p52;
    static constexpr double kInverse = 1.4426950408889634, kLn2High = 0x1.62e42fefa0000p-1;
    static constexpr double kLn2Low = 0x1.cf79abc9e3b3ap-40;
    static constexpr int kMantissa = 52;
    template <class V>  // Taylor: the first term left out is 5e-18 of the result
    static V tail(V r) {
        V sum = r * (1.0 / 6227020800.0) + 1.0 / 479001600.0;
        sum = sum * r + 1.0 / 39916800.0;
        sum = sum * r + 1.0 / 3628800.0;
        sum = sum * r + 1.0 / 362880.0;
        sum = sum * r + 1.0 / 40320.0;
        sum = sum * r + 1.0 / 5040.0;
        sum = sum * r + 1.0 / 720.0;
        sum = sum * r + 1.0 / 120.0;
        sum = sum * r + 1.0 / 24.0;
        sum = sum * r + 1.0 / 6.0;
        return sum * r + 0.5;
    }
};
template <class T>
struct ExpOf;
template <>
struct ExpOf<float> {
    using type = FloatExp;
};
template <>
struct ExpOf<double> {
    using type = DoubleExp;
};

template <class T>
inline typename Vector<T>::type exponential(typename Vector<T>::type x) {
    using V = typename Vector<T>::type;
    using N = typename Integers<T>::type;
    using C = typename ExpOf<T>::type;
    const V zero = {}, shift = zero + C::kShift;
    const V inside = at_least(at_most(x, zero + C::kHigh), zero + C::kLow);
    const V shifted = inside * C::kInverse + shift;
    const V whole = shifted - shift;
    const V r = (inside - whole * C::kLn2High) - whole * C::kLn2Low;
    const V fraction = T(1) + (r + r * r * C::tail(r));
    const V result = (V)((N)fraction + ((N)shifted << C::kMantissa));
    return x < zero + C::kLow ? zero : result;
}

inline Vector<float>::type hyperbolic_tangent(Vector<float>::type x) {
    using V = Vector<float>::type;
    const V zero = {}, size = x < zero ? -x : x, t = x * x;
    // |x| <= 0.6: a polynomial of our own fit, relative error 5e-9 before rounding.
    V sum = t * 0.0023732344f - 0.0084122755f;
    sum = sum * t + 0.021789007f;
    sum = sum * t - 0.053961638f;
    sum = sum * t + 0.13333313f;
    sum = sum * t - 0.33333334f;
    const V small = x + x * t * sum;
    const V large = 1.0f - 2.0f / (exponential<float>(at_most(size + size, zero + 40.0f)) + 1.0f);
    return size <= zero + 0.6f ? small : (x < zero ? -large : large);
}

inline Vector<double>::type hyperbolic_tangent(Vector<double>::type x) {
    for (int lane = 0; lane < FU_BYTES / 8; ++lane) x[lane] = __builtin_tanh(x[lane]);
    return x;
}

}  // namespace
}  // namespace fu
