// Driver of the streaming apply: cuts the work into pieces of at most kBytes of each row of one block. A piece is read
// from memory once, whatever the number of vectors: several of them meet it eight rows at a time. The pieces do not
// depend on the threads.
#include "low_rank_apply.h"

#include "isa.h"
#include "low_rank_apply_kernels.h"

#include <algorithm>
#include <stdexcept>
#include <vector>

namespace fu {

FU_ISA_TABLES(LowRankKernels, low_rank_kernels)
namespace {

constexpr int64_t kBytes = 16384;
constexpr int64_t kRows = 8;

int64_t size_of(int stored) { return stored == kStoredFloat32 ? 4 : stored == kStoredBFloat16 ? 2 : 1; }

void check(const LowRankProblem& p, int threads) {
    if (p.stored < kStoredFloat32 || p.stored > kStoredInt8)
        throw std::invalid_argument("unknown dtype of stored rows");
    if (p.blocks < 0 || p.rows < 0 || p.width < 0 || p.k < 1) throw std::invalid_argument("sizes must not be negative");
    if (threads < 1) throw std::invalid_argument("threads must be at least 1");
}

int64_t at_once(const LowRankProblem& p) { return p.k == 1 ? p.rows : kRows; }

const char* piece(const LowRankProblem& p, int64_t block, int64_t row, int64_t column) {
    return static_cast<const char*>(p.g) + ((block * p.rows + row) * p.width + column) * size_of(p.stored);
}

}  // namespace

void low_rank_dot(const std::string& isa, const LowRankProblem& p, const float* v, float* out, int threads) {
    check(p, threads);
    const LowRankKernels& kernels = low_rank_kernels_of(isa);
    const int64_t most = kBytes / size_of(p.stored), pieces = std::max<int64_t>(1, (p.width + most - 1) / most);
    // Sums of pieces, (blocks, pieces, k, rows), added up in order at the end. One piece: straight into the result.
    std::vector<float> parts(pieces > 1 ? size_t(p.blocks * pieces * p.k * p.rows) : 0);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t item = 0; item < p.blocks * pieces; ++item) {
        const int64_t block = item / pieces, column = item % pieces * most;
        const int64_t columns = std::min(most, p.width - column);
        for (int64_t row = 0; row < p.rows; row += at_once(p)) {
            const int64_t rows = std::min(at_once(p), p.rows - row);
            for (int64_t j = 0; j < p.k; ++j) {
                float* to = pieces > 1 ? parts.data() + (item * p.k + j) * p.rows + row
                                       : out + (j * p.blocks + block) * p.rows + row;
                kernels.dot(p.stored, piece(p, block, row, column), p.width, rows, columns,
                            v + (j * p.blocks + block) * p.width + column, to);
                const float* const scales = p.scales && pieces == 1 ? p.scales + block * p.rows + row : nullptr;
                for (int64_t r = 0; scales && r < rows; ++r) to[r] *= scales[r];
            }
        }
    }
    if (pieces == 1) return;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t block = 0; block < p.blocks; ++block)
        for (int64_t j = 0; j < p.k; ++j)
            for (int64_t row = 0; row < p.rows; ++row) {
                double total = 0;
                for (int64_t i = 0; i < pieces; ++i)
                    total += parts[size_t(((block * pieces + i) * p.k + j) * p.rows + row)];
                const float scale = p.scales ? p.scales[block * p.rows + row] : 1.0f;
                out[(j * p.blocks + block) * p.rows + row] = scale * float(total);
            }
}

void low_rank_combine(const std::string& isa, const LowRankProblem& p, const float* w, float* out, int threads) {
    check(p, threads);
    const LowRankKernels& kernels = low_rank_kernels_of(isa);
    const int64_t most = kBytes / size_of(p.stored), pieces = (p.width + most - 1) / most;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t item = 0; item < p.blocks * pieces; ++item) {
        const int64_t block = item / pieces, column = item % pieces * most;
        const int64_t columns = std::min(most, p.width - column);
        for (int64_t j = 0; j < p.k; ++j) std::fill_n(out + (j * p.blocks + block) * p.width + column, columns, 0.0f);
        std::vector<float> weights(size_t(at_once(p)));
        for (int64_t row = 0; row < p.rows; row += at_once(p)) {
            const int64_t rows = std::min(at_once(p), p.rows - row);
            for (int64_t j = 0; j < p.k; ++j) {
                for (int64_t r = 0; r < rows; ++r) {
                    weights[size_t(r)] = w[(j * p.blocks + block) * p.rows + row + r];
                    if (p.scales) weights[size_t(r)] *= p.scales[block * p.rows + row + r];
                }
                kernels.add(p.stored, piece(p, block, row, column), p.width, rows, columns, weights.data(),
                            out + (j * p.blocks + block) * p.width + column);
            }
        }
    }
}

}  // namespace fu
