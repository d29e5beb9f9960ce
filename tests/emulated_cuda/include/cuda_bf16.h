#pragma once

#include <cstdint>
#include <cstring>

// bfloat16: the upper half of a float, rounded to nearest, ties to even.
struct __nv_bfloat16 {
    uint16_t bits;
    __nv_bfloat16() = default;
    explicit __nv_bfloat16(float value) {
        uint32_t wide;
        std::memcpy(&wide, &value, 4);
        if (value != value) {
            bits = uint16_t(wide >> 16 | 64);
        } else {
            bits = uint16_t((wide + 0x7fff + (wide >> 16 & 1)) >> 16);
        }
    }
};
inline float __bfloat162float(__nv_bfloat16 value) {
    const uint32_t wide = uint32_t(value.bits) << 16;
    float out;
    std::memcpy(&out, &wide, 4);
    return out;
}
inline __nv_bfloat16 __float2bfloat16_rn(float value) { return __nv_bfloat16(value); }
