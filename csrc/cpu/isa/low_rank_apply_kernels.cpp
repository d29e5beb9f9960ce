// Dot products and weighted sums of stored gradient rows. Compiled once per instruction set: see simd.h.
#include "low_rank_apply_kernels.h"
#include "simd_io.h"

#if FU_BYTES > 16
#include <immintrin.h>
#endif

namespace fu {
namespace {

typedef int8_t Bytes __attribute__((vector_size(FU_BYTES / 4)));
typedef int32_t Integers __attribute__((vector_size(FU_BYTES)));
typedef float Four __attribute__((vector_size(16)));

struct Int8 {
    int8_t value;
};
inline Vector<float>::type wide(const float* from) { return load(from); }
inline Vector<float>::type wide(const BFloat16* from) { return get(from, Full()); }
inline Vector<float>::type wide(const Int8* from) {
    // Two instructions; the compiler's own conversion of a vector of bytes goes element by element.
#if FU_BYTES == 64
    return (Vector<float>::type)_mm512_cvtepi32_ps(
        _mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from))));
#elif FU_BYTES == 32
    return (Vector<float>::type)_mm256_cvtepi32_ps(
        _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from))));
#else
    Bytes bytes;
    __builtin_memcpy(&bytes, from, sizeof bytes);
    return __builtin_convertvector(__builtin_convertvector(bytes, Integers), Vector<float>::type);
#endif
}
inline float one(const float* from) { return *from; }
inline float one(const BFloat16* from) {
    const uint32_t bits = uint32_t(from->bits) << 16;
    float value;
    __builtin_memcpy(&value, &bits, 4);
    return value;
}
inline float one(const Int8* from) { return float(from->value); }

// How far ahead memory is asked for: a row is left and the next begun before its stream has been recognised.
constexpr int64_t kAhead = 1024;  // bytes

template <class S>
inline void ask(const S* at) {
    __builtin_prefetch(reinterpret_cast<const char*>(at) + kAhead);
}

inline float total_of(Vector<float>::type value) {
    Four parts[FU_BYTES / 16];
    __builtin_memcpy(parts, &value, sizeof value);
    Four total = parts[0];
    for (int i = 1; i < FU_BYTES / 16; ++i) total += parts[i];
    return (total[0] + total[1]) + (total[2] + total[3]);
}

// Elements in a cache line, and in a vector of the sums.
template <class S>
constexpr int64_t kLine = 64 / int64_t(sizeof(S));
constexpr int64_t kLanes = lanes<float>();

template <int kRows, class S>
void dot_rows(const S* g, int64_t stride, int64_t columns, const float* v, float* out) {
    using V = Vector<float>::type;
    V sums[kRows] = {};
    int64_t p = 0;
    for (; p + kLine<S> <= columns; p += kLine<S>) {
#pragma GCC unroll 8
        for (int r = 0; r < kRows; ++r) ask(g + r * stride + p);
#pragma GCC unroll 16
        for (int64_t q = 0; q < kLine<S>; q += kLanes) {
            const V right = load(v + p + q);
#pragma GCC unroll 8
            for (int r = 0; r < kRows; ++r) sums[r] += wide(g + r * stride + p + q) * right;
        }
    }
    for (; p + kLanes <= columns; p += kLanes)
        for (int r = 0; r < kRows; ++r) sums[r] += wide(g + r * stride + p) * load(v + p);
    for (int r = 0; r < kRows; ++r) {
        float total = total_of(sums[r]);
        for (int64_t q = p; q < columns; ++q) total += one(g + r * stride + q) * v[q];
        out[r] = total;
    }
}

template <int kRows, class S>
inline void add_vector(const S* g, int64_t stride, const float* w, float* out) {
    Vector<float>::type total = load(static_cast<const float*>(out));
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) total += w[r] * wide(g + r * stride);
    store(out, total);
}

template <int kRows, class S>
void add_rows(const S* g, int64_t stride, int64_t columns, const float* w, float* out) {
    int64_t p = 0;
    for (; p + kLine<S> <= columns; p += kLine<S>) {
#pragma GCC unroll 8
        for (int r = 0; r < kRows; ++r) ask(g + r * stride + p);
#pragma GCC unroll 16
        for (int64_t q = 0; q < kLine<S>; q += kLanes) add_vector<kRows>(g + p + q, stride, w, out + p + q);
    }
    for (; p + kLanes <= columns; p += kLanes) add_vector<kRows>(g + p, stride, w, out + p);
    for (; p < columns; ++p)
        for (int r = 0; r < kRows; ++r) out[p] += w[r] * one(g + r * stride + p);
}

template <class S>
void dot_of(const S* g, int64_t stride, int64_t rows, int64_t columns, const float* v, float* out) {
    if (rows == 8) return dot_rows<8>(g, stride, columns, v, out);
    for (int64_t r = 0; r < rows; ++r) dot_rows<1>(g + r * stride, stride, columns, v, out + r);
}

template <class S>
void add_of(const S* g, int64_t stride, int64_t rows, int64_t columns, const float* w, float* out) {
    if (rows == 8) return add_rows<8>(g, stride, columns, w, out);
    for (int64_t r = 0; r < rows; ++r) add_rows<1>(g + r * stride, stride, columns, w + r, out);
}

void dot(int stored, const void* g, int64_t stride, int64_t rows, int64_t columns, const float* v, float* out) {
    if (stored == kStoredFloat32) return dot_of(static_cast<const float*>(g), stride, rows, columns, v, out);
    if (stored == kStoredBFloat16) return dot_of(static_cast<const BFloat16*>(g), stride, rows, columns, v, out);
    dot_of(static_cast<const Int8*>(g), stride, rows, columns, v, out);
}

void add(int stored, const void* g, int64_t stride, int64_t rows, int64_t columns, const float* w, float* out) {
    if (stored == kStoredFloat32) return add_of(static_cast<const float*>(g), stride, rows, columns, w, out);
    if (stored == kStoredBFloat16) return add_of(static_cast<const BFloat16*>(g), stride, rows, columns, w, out);
    add_of(static_cast<const Int8*>(g), stride, rows, columns, w, out);
}

}  // namespace

extern const LowRankKernels FU_JOIN(low_rank_kernels_, FU_ISA);
const LowRankKernels FU_JOIN(low_rank_kernels_, FU_ISA) = {dot, add};

}  // namespace fu
