// What the matrix products of isa/ have in common: the size of their micro-tile, and half types as float.
// For the files of isa/ only: everything has internal linkage (see simd.h).
#pragma once

#include "simd.h"

namespace fu {
namespace {

// Micro-tile: kRows x (kVectors vectors). 24 accumulators of 32 registers with AVX-512, 12 of 16 below it.
#if FU_BYTES == 64
constexpr int kRows = 12;
#elif FU_BYTES == 32
constexpr int kRows = 6;
#else
constexpr int kRows = 4;
#endif
constexpr int kVectors = 2;

[[maybe_unused]] inline float from_bits(uint32_t bits) {
    float value;
    __builtin_memcpy(&value, &bits, 4);
    return value;
}

[[maybe_unused]] inline float widen_bfloat16(uint16_t v) { return from_bits(uint32_t(v) << 16); }

[[maybe_unused]] inline float widen_half(uint16_t h) {
    const uint32_t sign = (h & 0x8000u) << 16, rest = h & 0x7fffu;
    if (rest >= 0x7c00u) return from_bits(sign | 0x7f800000u | (rest & 0x3ffu) << 13);  // infinity, NaN
    // Move exponent and fraction into place and repair the exponent by a multiplication: exact, subnormals too.
    const float magnitude = from_bits(rest << 13) * 0x1p112f;
    return sign ? -magnitude : magnitude;
}

}  // namespace
}  // namespace fu
