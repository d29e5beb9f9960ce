// Loads and stores of whole and partial vectors in float, double and bfloat16, and the loop over a row.
// For the files of isa/ only: everything has internal linkage (see simd.h).
#pragma once

#include "simd.h"

#if FU_BYTES > 16
#include <immintrin.h>
#endif

namespace fu {
namespace {

// bfloat16: the upper half of a float.
struct BFloat16 {
    uint16_t bits;
};

// What an element type is computed in.
template <class S>
struct Wide {
    typedef S type;
};
template <>
struct Wide<BFloat16> {
    typedef float type;
};

template <class T>
constexpr int64_t lanes() {
    return FU_BYTES / int64_t(sizeof(T));
}

// How much of a vector is there: all of it, or the first `count` lanes (the others read as 0 and are not written).
struct Full {};
struct Part {
    int64_t count;
};

template <class T>
[[maybe_unused]] inline typename Vector<T>::type splat(T value) {
    return value - typename Vector<T>::type{};
}

template <class T>
[[maybe_unused]] inline typename Vector<T>::type get(const T* from, Full) {
    return load(from);
}
template <class T>
[[maybe_unused]] inline void put(T* to, typename Vector<T>::type value, Full) {
    store(to, value);
}

typedef uint16_t Halves __attribute__((vector_size(FU_BYTES / 2)));
typedef uint32_t Words __attribute__((vector_size(FU_BYTES)));

[[maybe_unused]] inline Vector<float>::type get(const BFloat16* from, Full) {
    // Widened in one instruction; GCC 12 makes four of its own conversion. (Its unmasked intrinsics warn.)
#if FU_BYTES == 64
    const __m256i halves = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
    return (Vector<float>::type)((Words)_mm512_maskz_cvtepu16_epi32(__mmask16(-1), halves) << 16);
#elif FU_BYTES == 32
    const __m128i halves = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
    return (Vector<float>::type)((Words)_mm256_cvtepu16_epi32(halves) << 16);
#else
    Halves halves;
    __builtin_memcpy(&halves, from, sizeof halves);
    return (Vector<float>::type)(__builtin_convertvector(halves, Words) << 16);
#endif
}
[[maybe_unused]] inline void put(BFloat16* to, Vector<float>::type value, Full) {
    const Words bits = (Words)value;
    // To the nearest, ties to even; a NaN must not round to infinity.
    const Words rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    const Words safe = (Words)(value == value) & rounded;
    const Words quiet = ~(Words)(value == value) & ((bits >> 16) | 0x40u);
    const Halves halves = __builtin_convertvector(safe | quiet, Halves);
    __builtin_memcpy(to, &halves, sizeof halves);
}

template <class S>
[[maybe_unused]] inline typename Vector<typename Wide<S>::type>::type get(const S* from, Part part) {
    S all[lanes<typename Wide<S>::type>()] = {};
    __builtin_memcpy(all, from, part.count * int64_t(sizeof(S)));
    return get(static_cast<const S*>(all), Full());
}
template <class S>
[[maybe_unused]] inline void put(S* to, typename Vector<typename Wide<S>::type>::type value, Part part) {
    S all[lanes<typename Wide<S>::type>()];
    put(static_cast<S*>(all), value, Full());
    __builtin_memcpy(to, all, part.count * int64_t(sizeof(S)));
}

// body(i, how much) for every vector of a row of n elements.
template <class T, class Body>
[[maybe_unused]] inline void each_vector(int64_t n, Body body) {
    int64_t i = 0;
    for (; i + lanes<T>() <= n; i += lanes<T>()) body(i, Full());
    if (i < n) body(i, Part{n - i});
}

// The sum of the lanes, pair by pair.
template <class T>
[[maybe_unused]] inline T sum(typename Vector<T>::type value) {
    T part[lanes<T>()];
    __builtin_memcpy(part, &value, sizeof part);
    for (int64_t width = lanes<T>() / 2; width > 0; width /= 2)
        for (int64_t i = 0; i < width; ++i) part[i] += part[i + width];
    return part[0];
}

}  // namespace
}  // namespace fu
