// Driver of the rotary embedding: (a, b, head, stretch of rows) to threads.
#include "rope.h"

#include <algorithm>
#include <stdexcept>

#include "isa.h"
#include "kernels.h"
#include "rope_kernels.h"

namespace fu {

FU_ISA_TABLES(RopeTable, rope)
namespace {

constexpr int64_t kRows = 64;  // of one head, for one thread at a time

}  // namespace

void rope(const std::string& isa, const RopeProblem& p, int threads) {
    if (p.dtype < kFloat32 || p.dtype > kBFloat16) throw std::invalid_argument("dtype is not one of the kernels'");
    if (p.a < 0 || p.b < 0 || p.heads < 0 || p.rows < 0) throw std::invalid_argument("a size is negative");
    if (p.width < 2 || p.width % 2 || p.width > p.d) throw std::invalid_argument("width must be even and at most d");
    if (threads < 1) throw std::invalid_argument("threads must be at least 1");
    const auto kernel = rope_of(isa).of[p.dtype];
    const int64_t sizes[] = {4, 8, 2}, size = sizes[p.dtype], table_size = p.dtype == kFloat64 ? 8 : 4;
    const int64_t stretches = (p.rows + kRows - 1) / kRows, items = p.a * p.b * p.heads * stretches;
    const auto move = [](const void* from, int64_t bytes) { return static_cast<const char*>(from) + bytes; };
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t item = 0; item < items; ++item) {
        const int64_t row = item % stretches * kRows, outer = item / stretches, head = outer % p.heads;
        const int64_t b = outer / p.heads % p.b, a = outer / p.heads / p.b;
        const int64_t from = a * p.strides[0] + b * p.strides[1] + head * p.strides[2] + row * p.strides[3];
        const int64_t table = b * p.table_batch + row * p.width;
        kernel({move(p.x, from * size), p.strides[3], move(p.cos, table * table_size), move(p.sin, table * table_size),
                p.width, static_cast<char*>(p.y) + (outer * p.rows + row) * p.d * size, p.d,
                std::min(kRows, p.rows - row), p.width, p.d, p.interleaved, p.inverse});
    }
}

}  // namespace fu
