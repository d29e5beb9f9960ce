// The tile product of the ghost Gram. Compiled once per instruction set: see simd.h.
#include "kernels.h"
#include "micro_tile.h"
#include "simd.h"

namespace fu {
namespace {

struct ReadFloat {
    using source = float;
    static float get(float v) { return v; }
};
struct ReadDouble {
    using source = double;
    static double get(double v) { return v; }
};
struct ReadBFloat16 {
    using source = uint16_t;
    static float get(uint16_t v) { return widen_bfloat16(v); }
};
struct ReadHalf {
    using source = uint16_t;
    static float get(uint16_t v) { return widen_half(v); }
};

template <class Read, class T>
void pack_from(const void* source, int64_t stride, int64_t rows, int64_t depth, int64_t panel, T* packed) {
    using S = typename Read::source;
    const S* from = static_cast<const S*>(source);
    constexpr int64_t kStrip = 16;  // one cache line of each row at a time, so that no line is fetched twice
    for (int64_t r0 = 0; r0 < rows; r0 += panel, packed += panel * depth) {
        const int64_t here = rows - r0 < panel ? rows - r0 : panel;
        for (int64_t k0 = 0; k0 < depth; k0 += kStrip) {
            const int64_t k1 = depth - k0 < kStrip ? depth : k0 + kStrip;
            for (int64_t r = 0; r < here; ++r) {
                const S* row = from + (r0 + r) * stride;
                for (int64_t k = k0; k < k1; ++k) packed[k * panel + r] = Read::get(row[k]);
            }
            for (int64_t r = here; r < panel; ++r)
                for (int64_t k = k0; k < k1; ++k) packed[k * panel + r] = 0;
        }
    }
}

void pack_f32(int dtype, const void* source, int64_t stride, int64_t rows, int64_t depth, int64_t panel, float* to) {
    if (dtype == kBFloat16) return pack_from<ReadBFloat16>(source, stride, rows, depth, panel, to);
    if (dtype == kFloat16) return pack_from<ReadHalf>(source, stride, rows, depth, panel, to);
    pack_from<ReadFloat>(source, stride, rows, depth, panel, to);
}

void pack_f64(int, const void* source, int64_t stride, int64_t rows, int64_t depth, int64_t panel, double* to) {
    pack_from<ReadDouble>(source, stride, rows, depth, panel, to);
}

template <class T>
inline void micro_tile(const T* a, const T* b, int64_t depth, T* c, int64_t ldc, bool accumulate) {
    using V = typename Vector<T>::type;
    constexpr int kLanes = FU_BYTES / int(sizeof(T));
    V sum[kRows][kVectors] = {};
    for (int64_t k = 0; k < depth; ++k) {
        V right[kVectors];
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v) right[v] = load(b + v * kLanes);
#pragma GCC unroll 16
        for (int r = 0; r < kRows; ++r) {
            const T left = a[r];
#pragma GCC unroll 4
            for (int v = 0; v < kVectors; ++v) sum[r][v] += left * right[v];
        }
        a += kRows;
        b += kVectors * kLanes;
    }
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v) {
            T* place = c + r * ldc + v * kLanes;
            store(place, accumulate ? load(place) + sum[r][v] : sum[r][v]);
        }
    }
}

template <class T>
void product(const T* a, int64_t panels_a, const T* b, int64_t panels_b, int64_t depth, T* c, int64_t ldc,
             bool accumulate) {
    constexpr int64_t kColumns = int64_t(kVectors) * FU_BYTES / int64_t(sizeof(T));
    for (int64_t j = 0; j < panels_b; ++j)  // a panel of b stays in the first cache while all of a passes by
        for (int64_t i = 0; i < panels_a; ++i)
            micro_tile(a + i * kRows * depth, b + j * kColumns * depth, depth, c + i * kRows * ldc + j * kColumns, ldc,
                       accumulate);
}

template <class T>
void multiply_sum(const T* p, const T* q, int64_t ld, int64_t rows, int64_t columns, T shift, T* sums) {
    using V = typename Vector<T>::type;
    constexpr int64_t kLanes = FU_BYTES / int64_t(sizeof(T));
    int64_t c = 0;
    for (; c + kLanes <= columns; c += kLanes) {
        V total = {};
        for (int64_t r = 0; r < rows; ++r) total += (load(p + r * ld + c) + shift) * load(q + r * ld + c);
        store(sums + c, total);
    }
    for (; c < columns; ++c) {
        T total = 0;
        for (int64_t r = 0; r < rows; ++r) total += (p[r * ld + c] + shift) * q[r * ld + c];
        sums[c] = total;
    }
}

constexpr int columns_of(int bytes) { return kVectors * FU_BYTES / bytes; }

}  // namespace

extern const Kernels FU_JOIN(kernels_, FU_ISA);
constexpr Kernels FU_JOIN(kernels_, FU_ISA) = {
    FU_TEXT(FU_ISA),
    {kRows, columns_of(4), pack_f32, product<float>, multiply_sum<float>},
    {kRows, columns_of(8), pack_f64, product<double>, multiply_sum<double>},
};

}  // namespace fu
