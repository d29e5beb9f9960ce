// Packing and the micro-kernel of products by bfloat16 dot products (AVX512-BF16), with float sums.
#include "gemm_bfloat16.h"
#include "kernels.h"
#include "micro_tile.h"
#include "simd.h"

#if FU_BYTES == 64 && defined(__x86_64__)
#include <immintrin.h>  // its functions are always inlined: the linker sees none of them

namespace fu {

extern const GemmKernels FU_JOIN(gemm_kernels_, FU_ISA);

namespace {

typedef uint32_t Words __attribute__((vector_size(64)));
typedef float Floats __attribute__((vector_size(64)));

constexpr int64_t kLanes = 16, kColumns = kVectors * kLanes;

// The nearest bfloat16 (ties to even) in the upper halves; NaN stays NaN.
inline Words round_up_half(Floats value) {
    const Words bits = (Words)value;
    const Words rounded = bits + 0x7fffu + ((bits >> 16) & 1u);
    const Words number = (Words)(value == value);
    return ((number & rounded) | (~number & (bits | 0x400000u))) & 0xffff0000u;
}

// What bfloat16 leaves of a number; 0 where that is infinite.
inline Floats remainder(Floats value, Words high) {
    const Words finite = (Words)((high & 0x7f800000u) != 0x7f800000u);
    return (Floats)((Words)(value - (Floats)high) & finite);
}

int64_t length_rounded(int64_t depth) { return (depth + 1) / 2; }
int64_t length_split(int64_t depth) { return (depth + 1) / 2 * 2; }

// A panel's pair of the depth: its high parts, and where it is `split` its low parts after them.
template <bool kSplit>
void pack(int dtype, const void* source, int64_t row_stride, int64_t depth_stride, int64_t rows, int64_t depth,
          int64_t panel, float* packed) {
    constexpr int64_t kStep = 64;
    const int64_t size = dtype == kBFloat16 ? 2 : 4;
    float wide[(kStep + 1) * kColumns + kPackSlack] = {};
    auto* to = reinterpret_cast<uint32_t*>(packed);
    for (int64_t row = 0; row < rows; row += panel)
        for (int64_t k = 0; k < depth; k += kStep) {
            const int64_t some = depth - k < kStep ? depth - k : kStep;
            const char* from = static_cast<const char*>(source) + (row * row_stride + k * depth_stride) * size;
            FU_JOIN(gemm_kernels_, FU_ISA)
                .f32.pack(dtype, from, row_stride, depth_stride, rows - row < panel ? rows - row : panel, some, panel,
                          wide);
            for (int64_t i = some * panel; i < (some + 1) * panel; ++i) wide[i] = 0;  // an odd depth ends with 0
            for (int64_t i = 0; i < some; i += 2) {
                for (int part = 0; part < (kSplit ? 2 : 1); ++part, to += panel)
                    for (int64_t r = 0; r < panel; r += kLanes) {
                        Floats one = load(wide + i * panel + r), two = load(wide + (i + 1) * panel + r);
                        if (part) one = remainder(one, round_up_half(one)), two = remainder(two, round_up_half(two));
                        const Words pair = (round_up_half(one) >> 16) | round_up_half(two);
                        __builtin_memcpy(to + r, &pair, sizeof pair);  // past the panel: written over by what follows
                    }
            }
        }
}

struct Sums {
    __m512 at[kRows][kVectors];
};

template <bool kSplit>
__attribute__((target("avx512bf16"))) inline void add_pairs(const float* a, const float* b, int64_t pairs, Sums& sums) {
    constexpr int64_t kParts = kSplit ? 2 : 1;
    for (; pairs > 0; --pairs, a += kRows * kParts, b += kColumns * kParts) {
        __m512bh high[kVectors], low[kVectors];
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v) {
            high[v] = (__m512bh)_mm512_loadu_ps(b + int64_t(v) * kLanes);
            if (kSplit) low[v] = (__m512bh)_mm512_loadu_ps(b + kColumns + v * kLanes);
        }
#pragma GCC unroll 16
        for (int r = 0; r < kRows; ++r) {
            const __m512bh left = (__m512bh)_mm512_set1_ps(a[r]);
#pragma GCC unroll 4
            for (int v = 0; v < kVectors; ++v) {
                if (kSplit) sums.at[r][v] = _mm512_dpbf16_ps(sums.at[r][v], left, low[v]);
                sums.at[r][v] = _mm512_dpbf16_ps(sums.at[r][v], left, high[v]);
            }
            if (!kSplit) continue;
            const __m512bh rest = (__m512bh)_mm512_set1_ps(a[kRows + r]);
#pragma GCC unroll 4
            for (int v = 0; v < kVectors; ++v) sums.at[r][v] = _mm512_dpbf16_ps(sums.at[r][v], rest, high[v]);
        }
    }
}

template <bool kSplit>
__attribute__((target("avx512bf16"))) void product(const float* a, int64_t rows, const float* b, int64_t columns,
                                                   int64_t depth, float* c, int64_t ldc, bool accumulate) {
    const int64_t length = kSplit ? length_split(depth) : length_rounded(depth);
    for (int64_t j = 0; j < columns; j += kColumns)
        for (int64_t i = 0; i < rows; i += kRows) {
            Sums sums = {};
            add_pairs<kSplit>(a + i * length, b + j * length, (depth + 1) / 2, sums);
            alignas(64) float all[kRows * kColumns];
            for (int r = 0; r < kRows; ++r)
                for (int v = 0; v < kVectors; ++v) _mm512_store_ps(all + r * kColumns + v * kLanes, sums.at[r][v]);
            const int64_t height = rows - i < kRows ? rows - i : kRows,
                          width = columns - j < kColumns ? columns - j : kColumns;
            for (int64_t r = 0; r < height; ++r) {
                float* const to = c + (i + r) * ldc + j;
                for (int64_t s = 0; s < width; ++s) to[s] = (accumulate ? to[s] : 0.0f) + all[r * kColumns + s];
            }
        }
}

}  // namespace

extern const GemmBFloat16 FU_JOIN(gemm_bfloat16_, FU_ISA);
constexpr GemmBFloat16 FU_JOIN(gemm_bfloat16_, FU_ISA) = {
    {kRows, int(kColumns), pack<false>, product<false>, nullptr, length_rounded},
    {kRows, int(kColumns), pack<true>, product<true>, nullptr, length_split},
};

}  // namespace fu

#else

namespace fu {

extern const GemmBFloat16 FU_JOIN(gemm_bfloat16_, FU_ISA);
constexpr GemmBFloat16 FU_JOIN(gemm_bfloat16_, FU_ISA) = {};

}  // namespace fu

#endif
