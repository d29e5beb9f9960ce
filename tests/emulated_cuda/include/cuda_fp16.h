#pragma once

struct __half {
    _Float16 value;
    __half() = default;
    explicit __half(float wide) : value(static_cast<_Float16>(wide)) {}
};
inline float __half2float(__half narrow) { return static_cast<float>(narrow.value); }
inline __half __float2half_rn(float wide) { return __half(wide); }
