// exp of what is not positive, the sigmoid, erfc and log1p for whole vectors. For the files of isa/ only (simd.h).
//
// Errors, relative, over all finite arguments, float / double: exp 2e-7 / 4e-16 where the result is normal (below
// 1e-37 / 1e-307 it is 0), sigmoid 3e-7 / 6e-16, log1p 2e-7 / 5e-16. tests/ops/test_gated_mlp.py holds them.
#pragma once

#include "simd_io.h"

namespace fu {
namespace {

template <class T>
struct Bits;
template <>
struct Bits<float> {
    typedef int32_t lane;
    typedef int32_t type __attribute__((vector_size(FU_BYTES)));
    static constexpr int kMantissa = 23;
    static constexpr int32_t kOne = 0x3f800000;            // the bits of 1
    static constexpr float kRound = 12582912.0f;           // 1.5 * 2^23: adding it rounds to a whole number
    static constexpr float kLowest = -87.3f;               // exp of it is still a normal number
    static constexpr float kLn2High = 0.693145751953125f;  // its low bits are 0: n * kLn2High is exact
    static constexpr float kLn2Low = 1.428606820309417e-6f;
    static constexpr int kExpTerms = 7;
    static constexpr int kLogTerms = 8;
};
template <>
struct Bits<double> {
    typedef int64_t lane;
    typedef int64_t type __attribute__((vector_size(FU_BYTES)));
    static constexpr int kMantissa = 52;
    static constexpr int64_t kOne = 0x3ff0000000000000;
    static constexpr double kRound = 6755399441055744.0;  // 1.5 * 2^52
    static constexpr double kLowest = -708.3;
    static constexpr double kLn2High = 6.93147180369123816490e-01;
    static constexpr double kLn2Low = 1.90821492927058770002e-10;
    static constexpr int kExpTerms = 13;
    static constexpr int kLogTerms = 17;
};

// c[0] + c[1] x + ... by Horner.
template <class T, int N>
[[maybe_unused]] inline typename Vector<T>::type polynomial(typename Vector<T>::type x, const T (&c)[N]) {
    typename Vector<T>::type value = splat<T>(c[N - 1]);
#pragma GCC unroll 32
    for (int i = N - 2; i >= 0; --i) value = value * x + c[i];
    return value;
}

// exp(y) = scale (1 + rest) with |rest| < 0.42, for y <= 0; NaN stays NaN.
template <class T>
struct Power {
    typename Vector<T>::type scale, rest;
};

template <class T>
[[maybe_unused]] inline Power<T> power(typename Vector<T>::type y) {
    using V = typename Vector<T>::type;
    using I = typename Bits<T>::type;
    using B = Bits<T>;
    const V in = y < B::kLowest ? splat<T>(B::kLowest) : y;
    const V shifted = in * T(1.4426950408889634) + B::kRound;
    const V n = shifted - B::kRound;
    const V r = (in - n * B::kLn2High) - n * B::kLn2Low;
    // The Taylor series of (exp(r) - 1) / r on |r| < 0.35.
    T c[B::kExpTerms];
    T inverse = 1;
#pragma GCC unroll 32
    for (int i = 0; i < B::kExpTerms; ++i) c[i] = inverse /= T(i + 1);
    const V scale = (V)(((I)shifted << B::kMantissa) + B::kOne);
    return {scale, r * polynomial<T>(r, c)};
}

// exp(y) for y <= 0.
template <class T>
[[maybe_unused]] inline typename Vector<T>::type exp_negative(typename Vector<T>::type y) {
    const Power<T> p = power<T>(y);
    const typename Vector<T>::type value = p.scale + p.scale * p.rest;
    return y < Bits<T>::kLowest ? splat<T>(0) : value;
}

// exp(y) - 1 for y <= 0, without cancellation near 0.
template <class T>
[[maybe_unused]] inline typename Vector<T>::type expm1_negative(typename Vector<T>::type y) {
    const Power<T> p = power<T>(y);
    return p.scale * p.rest + (p.scale - T(1));
}

template <class T>
[[maybe_unused]] inline typename Vector<T>::type magnitude(typename Vector<T>::type x) {
    using I = typename Bits<T>::type;
    return (typename Vector<T>::type)((I)x & ~((typename Bits<T>::lane)1 << (8 * sizeof(T) - 1)));
}

// sigmoid(x) and sigmoid(-x), both without cancellation.
template <class T>
struct Sigmoid {
    typename Vector<T>::type here, there;
};

template <class T>
[[maybe_unused]] inline Sigmoid<T> sigmoid(typename Vector<T>::type x) {
    using V = typename Vector<T>::type;
    const V e = exp_negative<T>(-magnitude<T>(x));
    const V large = T(1) / (T(1) + e), small = e * large;
    return {x < 0 ? small : large, x < 0 ? large : small};
}

// log(1 + e) for 0 <= e <= 1: 2 atanh(e / (2 + e)).
template <class T>
[[maybe_unused]] inline typename Vector<T>::type log1p_unit(typename Vector<T>::type e) {
    using V = typename Vector<T>::type;
    const V s = e / (e + T(2));
    T c[Bits<T>::kLogTerms];
#pragma GCC unroll 32
    for (int i = 0; i < Bits<T>::kLogTerms; ++i) c[i] = T(2) / T(2 * i + 1);
    return s * polynomial<T>(s * s, c);
}

// exp(t^2) erfc(t) for 0 <= t <= 1e4: (t + a) times it is smooth in s = (t - a) / (t + a) on [-1, 1]; the
// polynomials are Chebyshev fits of that function, converted to powers (their own error: 1.3e-8 and 1e-17).
[[maybe_unused]] inline Vector<float>::type scaled_erfc(Vector<float>::type t) {
    static constexpr float c[] = {1.021582714f,      -0.6871606374f,  0.279471467f,    -0.03644333886f,
                                  -0.02150325237f,   0.006486903836f, 0.003058314322f, -0.0008613409769f,
                                  -0.0005987654241f, 7.320375389e-5f, 8.432239439e-5f};
    const Vector<float>::type inverse = 1.0f / (t + 2.0f);
    return polynomial<float>((t - 2.0f) * inverse, c) * inverse;
}
[[maybe_unused]] inline Vector<double>::type scaled_erfc(Vector<double>::type t) {
    static constexpr double c[] = {
        1.0740069070883397,         -0.8833944531698834613,    0.5902283571041023341,     -0.3104672619005832225,
        0.1195277612872676707,      -0.02682723462405141569,   -0.001212416626845832022,  0.003034061996058138202,
        -0.000548309694376583631,   -0.0002767778140221409708, 0.0001075614957280027691,  0.00003039805158572680839,
        -0.00001747057989836711244, -4.749028276103575212e-6,  2.765393484358929164e-6,   9.988170142910974006e-7,
        -4.079558854637970061e-7,   -2.338536800914052436e-7,  4.60579001942485148e-8,    5.118242197012069813e-8,
        -9.818356605591901287e-10,  -8.693774269035828204e-9,  -9.783136387840650973e-10, 8.110687296189992939e-10,
        1.642114301694298555e-10};
    const Vector<double>::type inverse = 1.0 / (t + 3.0);
    return polynomial<double>((t - 3.0) * inverse, c) * inverse;
}

// The normal distribution Phi(x) and its density phi(x).
template <class T>
struct Normal {
    typename Vector<T>::type below, density;
};

template <class T>
[[maybe_unused]] inline Normal<T> normal(typename Vector<T>::type x) {
    using V = typename Vector<T>::type;
    const V a = magnitude<T>(x), near = a > T(100) ? splat<T>(100) : a;
    const V e = exp_negative<T>(near * near * T(-0.5));
    const V tail = e * scaled_erfc(near * T(0.70710678118654752440)) * T(0.5);
    return {x < 0 ? tail : T(1) - tail, e * T(0.39894228040143267794)};
}

}  // namespace
}  // namespace fu
