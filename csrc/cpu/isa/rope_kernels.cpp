// Rotary embedding of the rows of one head. Compiled once per instruction set: see simd.h.
#include "rope_kernels.h"
#include "simd_io.h"

namespace fu {
namespace {

inline float widen(float v) { return v; }
inline double widen(double v) { return v; }
inline float widen(BFloat16 v) {
    const uint32_t bits = uint32_t(v.bits) << 16;
    float value;
    __builtin_memcpy(&value, &bits, 4);
    return value;
}
inline void narrow(float v, float* to) { *to = v; }
inline void narrow(double v, double* to) { *to = v; }
inline void narrow(float v, BFloat16* to) { put(to, splat<float>(v), Part{1}); }

// Channels (i, i + width / 2). For the transpose the sines change places and signs.
template <class S, class T>
void halves(const RopeCall& c, const S* x, const T* cosine, const T* sine, S* y) {
    const int64_t half = c.width / 2;
    const T sign = c.inverse ? T(-1) : T(1);
    const T *sine_p = c.inverse ? sine + half : sine, *sine_q = c.inverse ? sine : sine + half;
    each_vector<T>(half, [&](int64_t i, auto part) {
        const auto p = get(x + i, part), q = get(x + half + i, part);
        put(y + i, p * get(cosine + i, part) - sign * q * get(sine_p + i, part), part);
        put(y + half + i, q * get(cosine + half + i, part) + sign * p * get(sine_q + i, part), part);
    });
}

// Channels (2 i, 2 i + 1).
template <class S, class T>
void pairs(const RopeCall& c, const S* x, const T* cosine, const T* sine, S* y) {
    const T sign = c.inverse ? T(-1) : T(1);
    const int64_t other = c.inverse ? 1 : 0;
    for (int64_t i = 0; i < c.width; i += 2) {
        const T p = widen(x[i]), q = widen(x[i + 1]);
        narrow(p * cosine[i] - sign * q * sine[i + other], y + i);
        narrow(q * cosine[i + 1] + sign * p * sine[i + 1 - other], y + i + 1);
    }
}

template <class S>
void apply(const RopeCall& c) {
    using T = typename Wide<S>::type;
    for (int64_t row = 0; row < c.rows; ++row) {
        const S* x = static_cast<const S*>(c.x) + row * c.x_row;
        S* y = static_cast<S*>(c.y) + row * c.y_row;
        const T* cosine = static_cast<const T*>(c.cos) + row * c.table_row;
        const T* sine = static_cast<const T*>(c.sin) + row * c.table_row;
        if (c.interleaved)
            pairs(c, x, cosine, sine, y);
        else
            halves(c, x, cosine, sine, y);
        if (c.d > c.width) __builtin_memcpy(y + c.width, x + c.width, (c.d - c.width) * int64_t(sizeof(S)));
    }
}

}  // namespace

extern const RopeTable FU_JOIN(rope_, FU_ISA);
constexpr RopeTable FU_JOIN(rope_, FU_ISA) = {{apply<float>, apply<double>, apply<BFloat16>}};

}  // namespace fu
