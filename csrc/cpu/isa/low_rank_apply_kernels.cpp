// Dot products and weighted sums of stored gradient rows. Compiled once per instruction set: see simd.h.
#include "low_rank_apply_kernels.h"
#include "simd_io.h"

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
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
    constexpr __mmask16 kAll = __mmask16(-1);  // GCC 12 warns of its unmasked intrinsics
    return (Vector<float>::type)_mm512_maskz_cvtepi32_ps(kAll, _mm512_maskz_cvtepi8_epi32(kAll, bytes));
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

// Memory is asked for ahead of its use: in long rows a little further in the row, and near its end at the beginning of
// the rows whose turn is next. In short ones that lie one after the other that would be the next row, which is in use
// already; there a later group of eight rows is asked for, line by line.
constexpr int64_t kAhead = 2048, kShort = 16384, kFar = 12288;  // bytes

template <int kRows, bool short_rows, class S>
inline void ask(const S* g, int64_t stride, int64_t columns, int64_t p, const char* far) {
    int64_t ahead = p + kAhead / int64_t(sizeof(S));
    if (!short_rows && ahead >= columns) ahead += kRows * stride - columns;
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r)
        __builtin_prefetch(short_rows ? far + int64_t(64) * r : reinterpret_cast<const char*>(g + r * stride + ahead));
}

// Bytes of a group of eight rows, where it is a short one, else 0; and where the group to be asked for begins.
template <class S>
inline int64_t short_group(int64_t stride, int64_t columns) {
    const int64_t group = 8 * columns * int64_t(sizeof(S));
    return stride == columns && group <= kShort ? group : 0;
}
template <class S>
inline const char* far_of(const S* g, int64_t group) {
    return reinterpret_cast<const char*>(g) + (group ? (kFar + group - 1) / group * group : 0);
}

inline float total_of(Vector<float>::type value) {
    Four parts[FU_BYTES / 16];
    __builtin_memcpy(parts, &value, sizeof value);
    Four total = parts[0];
    for (int i = 1; i < FU_BYTES / 16; ++i) total += parts[i];
    return (total[0] + total[1]) + (total[2] + total[3]);
}

// The sums of the lanes of eight vectors, by a tree of shuffles that halves their number at each step.
inline void totals_of(const Vector<float>::type* v, float* out) {
#if defined(__clang__) || __GNUC__ >= 12
    using V = Vector<float>::type;
#if FU_BYTES == 64
#define FU_FOLD1(a, b)                                                                          \
    (__builtin_shufflevector(a, b, 0, 16, 2, 18, 4, 20, 6, 22, 8, 24, 10, 26, 12, 28, 14, 30) + \
     __builtin_shufflevector(a, b, 1, 17, 3, 19, 5, 21, 7, 23, 9, 25, 11, 27, 13, 29, 15, 31))
#define FU_FOLD2(a, b)                                                                         \
    (__builtin_shufflevector(a, b, 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29) + \
     __builtin_shufflevector(a, b, 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31))
#elif FU_BYTES == 32
#define FU_FOLD1(a, b)                                          \
    (__builtin_shufflevector(a, b, 0, 8, 2, 10, 4, 12, 6, 14) + \
     __builtin_shufflevector(a, b, 1, 9, 3, 11, 5, 13, 7, 15))
#define FU_FOLD2(a, b)                                         \
    (__builtin_shufflevector(a, b, 0, 1, 8, 9, 4, 5, 12, 13) + \
     __builtin_shufflevector(a, b, 2, 3, 10, 11, 6, 7, 14, 15))
#else
#define FU_FOLD1(a, b) (__builtin_shufflevector(a, b, 0, 4, 2, 6) + __builtin_shufflevector(a, b, 1, 5, 3, 7))
#define FU_FOLD2(a, b) (__builtin_shufflevector(a, b, 0, 1, 4, 5) + __builtin_shufflevector(a, b, 2, 3, 6, 7))
#endif
    const V ab = FU_FOLD1(v[0], v[1]), cd = FU_FOLD1(v[2], v[3]), ef = FU_FOLD1(v[4], v[5]), gh = FU_FOLD1(v[6], v[7]);
    const V low = FU_FOLD2(ab, cd), high = FU_FOLD2(ef, gh);  // sums of rows 0 to 3 and 4 to 7, in groups of four lanes
#undef FU_FOLD1
#undef FU_FOLD2
    Four parts[2][FU_BYTES / 16];
    __builtin_memcpy(parts[0], &low, sizeof low);
    __builtin_memcpy(parts[1], &high, sizeof high);
    for (int i = 0; i < 2; ++i) {
        Four total = parts[i][0];
        for (int j = 1; j < FU_BYTES / 16; ++j) total += parts[i][j];
        __builtin_memcpy(out + int64_t(4) * i, &total, sizeof total);
    }
#else
    for (int r = 0; r < 8; ++r) out[r] = total_of(v[r]);
#endif
}

// Elements in a cache line, and in a vector of the sums.
template <class S>
constexpr int64_t kLine = 64 / int64_t(sizeof(S));
constexpr int64_t kLanes = lanes<float>();

template <int kRows, bool short_rows, class S>
void dot_rows(const S* g, int64_t stride, int64_t columns, const float* v, float* out) {
    using V = Vector<float>::type;
    V sums[kRows] = {};
    int64_t p = 0;
    const char* far = short_rows ? far_of(g, short_group<S>(stride, columns)) : nullptr;
    for (; p + kLine<S> <= columns; p += kLine<S>) {
        ask<kRows, short_rows>(g, stride, columns, p, far);
        far += short_rows ? 64 * kRows : 0;
#pragma GCC unroll 16
        for (int64_t q = 0; q < kLine<S>; q += kLanes) {
            const V right = load(v + p + q);
#pragma GCC unroll 8
            for (int r = 0; r < kRows; ++r) sums[r] += wide(g + r * stride + p + q) * right;
        }
    }
    for (; p + kLanes <= columns; p += kLanes)
        for (int r = 0; r < kRows; ++r) sums[r] += wide(g + r * stride + p) * load(v + p);
    if (kRows == 8)
        totals_of(sums, out);
    else
        for (int r = 0; r < kRows; ++r) out[r] = total_of(sums[r]);
    for (; p < columns; ++p)
        for (int r = 0; r < kRows; ++r) out[r] += one(g + r * stride + p) * v[p];
}

template <int kRows, class S>
inline void add_vector(const S* g, int64_t stride, const float* w, float* out) {
    Vector<float>::type total = load(static_cast<const float*>(out));
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) total += w[r] * wide(g + r * stride);
    store(out, total);
}

template <int kRows, bool short_rows, class S>
void add_rows(const S* g, int64_t stride, int64_t columns, const float* w, float* out) {
    int64_t p = 0;
    const char* far = short_rows ? far_of(g, short_group<S>(stride, columns)) : nullptr;
    for (; p + kLine<S> <= columns; p += kLine<S>) {
        ask<kRows, short_rows>(g, stride, columns, p, far);
        far += short_rows ? 64 * kRows : 0;
#pragma GCC unroll 16
        for (int64_t q = 0; q < kLine<S>; q += kLanes) add_vector<kRows>(g + p + q, stride, w, out + p + q);
    }
    for (; p + kLanes <= columns; p += kLanes) add_vector<kRows>(g + p, stride, w, out + p);
    for (; p < columns; ++p)
        for (int r = 0; r < kRows; ++r) out[p] += w[r] * one(g + r * stride + p);
}

// Eight rows at a time, then one by one.
template <class S>
void dot_of(const S* g, int64_t stride, int64_t rows, int64_t columns, const float* v, float* out) {
    const bool is_short = short_group<S>(stride, columns) != 0;
    int64_t r = 0;
    for (; is_short && r + 8 <= rows; r += 8) dot_rows<8, true>(g + r * stride, stride, columns, v, out + r);
    for (; r + 8 <= rows; r += 8) dot_rows<8, false>(g + r * stride, stride, columns, v, out + r);
    for (; r < rows; ++r) dot_rows<1, false>(g + r * stride, stride, columns, v, out + r);
}

template <class S>
void add_of(const S* g, int64_t stride, int64_t rows, int64_t columns, const float* w, float* out) {
    const bool is_short = short_group<S>(stride, columns) != 0;
    int64_t r = 0;
    for (; is_short && r + 8 <= rows; r += 8) add_rows<8, true>(g + r * stride, stride, columns, w + r, out);
    for (; r + 8 <= rows; r += 8) add_rows<8, false>(g + r * stride, stride, columns, w + r, out);
    for (; r < rows; ++r) add_rows<1, false>(g + r * stride, stride, columns, w + r, out);
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
constexpr LowRankKernels FU_JOIN(low_rank_kernels_, FU_ISA) = {dot, add};

}  // namespace fu
