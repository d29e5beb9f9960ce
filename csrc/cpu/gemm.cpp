// Driver of the matrix products: blocks, packing, threads. The arithmetic is in isa/gemm_kernels.cpp.
//
// Columns are taken kColumnBlock at a time. The right-hand sides of a column block are packed once, for all threads,
// as far as kRightBytes reach; then blocks of kRowBlock rows of the outputs are shared out among the threads, each of
// which packs its left-hand sides, kPieces slabs of kDepth at a time, and meets them panel of columns by panel: a
// panel's slab stays in the first cache while all rows pass by, and its part of C until the slabs are through. An
// element of C is summed slab by slab in an order that depends on the shapes alone.
#include "gemm.h"

#include "gemm_bfloat16.h"
#include "gemm_kernels.h"
#include "isa.h"
#include "scratch.h"
#include "threads.h"

#include <algorithm>
#include <stdexcept>

namespace fu {

FU_ISA_TABLES(GemmKernels, gemm_kernels)
FU_ISA_TABLES(GemmBFloat16, gemm_bfloat16)
namespace {

constexpr int64_t kRowBlock = 144;  // a multiple of every micro-tile's rows (4, 6, 12)
constexpr int64_t kColumnBlock = 1024;
constexpr int64_t kDepth = 256;
constexpr int kPieces = 4;
constexpr int64_t kRightBytes = 8 << 20;
constexpr int64_t kPiece = kRowBlock * kDepth;            // a packed slab of a left-hand side
constexpr int64_t kLeft = kPieces * kPiece + kPackSlack;  // those of one thread

int64_t round_up(int64_t value, int64_t to) { return (value + to - 1) / to * to; }

// Depth [k, k + depth) of one right-hand side, packed in rows of `length` elements, `before` of which lie before it.
struct Slab {
    int right;
    int64_t k, depth, length, before;
};

template <class T>
class Gemm {
   public:
    Gemm(const GemmTable<T>& table, const GemmProblem& problem, int threads)
        : t_(table), p_(problem), threads_(threads) {
        for (const GemmOutput& output : p_.outputs) {  // blocks of about equal height
            const int64_t count = (output.rows + kRowBlock - 1) / kRowBlock;
            const int64_t rows = count ? round_up((output.rows + count - 1) / count, t_.mr) : 0;
            for (int64_t row = 0; row < output.rows; row += rows)
                blocks_.push_back({&output, row, std::min(rows, output.rows - row)});
        }
        // The longest first, so that the threads end together.
        std::stable_sort(blocks_.begin(), blocks_.end(), [](const Block& a, const Block& b) {
            return int64_t(a.output->terms.size()) * a.rows > int64_t(b.output->terms.size()) * b.rows;
        });
    }

    void run() {
        if (p_.columns == 0 || blocks_.empty()) return;
        const int64_t width = std::min(kColumnBlock, round_up(p_.columns, t_.nr));
        const int64_t longest = plan(std::max(kDepth, kRightBytes / int64_t(sizeof(T)) / width / kDepth * kDepth));
        static thread_local KeptScratch<T> kept;  // at most kRightBytes, and kLeft for every thread
        const int64_t right = round_up(width * longest + kPackSlack, 16);
        right_ = kept.at_least(right + threads_ * kLeft);
        left_ = right_ + right;
        width_ = width;
        for (int64_t column = 0; column < p_.columns; column += width)
            for (size_t round = 0; round < rounds_.size(); ++round)
                add_round(column, std::min(width, p_.columns - column), rounds_[round], round == 0);
        if (rounds_.empty()) clear();
    }

   private:
    struct Block {
        const GemmOutput* output;
        int64_t row, rows;
    };
    using Round = std::vector<Slab>;

    // The slabs of all right-hand sides, in rounds of at most `most` packed elements per row; returns the longest.
    int64_t plan(int64_t most) {
        int64_t used = most, longest = 0;
        for (size_t right = 0; right < p_.rights.size(); ++right)
            for (int64_t k = 0; k < p_.rights[right].depth; k += kDepth) {
                const int64_t depth = std::min(kDepth, p_.rights[right].depth - k);
                const int64_t length = t_.length(depth);
                if (used + length > most) {
                    rounds_.emplace_back();
                    used = 0;
                }
                rounds_.back().push_back({int(right), k, depth, length, used});
                longest = std::max(longest, used += length);
            }
        return longest;
    }

    // The packed columns of a slab from column `at` of the column block on.
    T* packed(const Slab& slab, int64_t at) const { return right_ + slab.before * width_ + at * slab.length; }

    void add_round(int64_t column, int64_t columns, const Round& round, bool first) {
        const int64_t strips = (columns + kStrip - 1) / kStrip;
#pragma omp parallel num_threads(threads_)
        {
#pragma omp for schedule(static)
            for (int64_t task = 0; task < strips * int64_t(round.size()); ++task) {
                const Slab& slab = round[size_t(task / strips)];
                const int64_t at = task % strips * kStrip;
                const GemmMatrix& b = p_.rights[size_t(slab.right)].b;
                t_.pack(b.dtype, element(b, column + at, slab.k), b.row_stride, b.depth_stride,
                        std::min(kStrip, columns - at), slab.depth, t_.nr, packed(slab, at));
            }
#pragma omp for schedule(dynamic, 1)
            for (int64_t task = 0; task < int64_t(blocks_.size()); ++task)
                add_block(blocks_[size_t(task)], column, columns, round, first, left_ + this_thread() * kLeft);
        }
    }

    void add_block(const Block& block, int64_t column, int64_t columns, const Round& round, bool first, T* left) const {
        const GemmOutput& output = *block.output;
        const int64_t rows = block.rows, row_stride = output.row_stride;
        T* c = static_cast<T*>(output.c) + block.row * row_stride + column;
        const Slab* pieces[kPieces];
        int count = 0;
        bool accumulate = output.accumulate || !first;
        const auto multiply = [&] {
            for (int64_t at = 0; at < columns; at += t_.nr)
                for (int i = 0; i < count; ++i)
                    t_.product(left + i * kPiece, rows, packed(*pieces[i], at), std::min<int64_t>(t_.nr, columns - at),
                               pieces[i]->depth, c + at, row_stride, accumulate || i > 0);
            accumulate = accumulate || count > 0;
            count = 0;
        };
        for (const Slab& slab : round)
            for (const GemmTerm& term : output.terms) {
                if (term.right != slab.right) continue;
                t_.pack(term.a.dtype, element(term.a, block.row, slab.k), term.a.row_stride, term.a.depth_stride, rows,
                        slab.depth, t_.mr, left + count * kPiece);
                pieces[count++] = &slab;
                if (count == kPieces) multiply();
            }
        multiply();
        if (!accumulate)  // nothing of this output in the first round: later ones add
            for (int64_t r = 0; r < rows; ++r) std::fill_n(c + r * row_stride, columns, T(0));
    }

    void clear() const {
        for (const GemmOutput& output : p_.outputs)
            for (int64_t r = 0; r < output.rows && !output.accumulate; ++r)
                std::fill_n(static_cast<T*>(output.c) + r * output.row_stride, p_.columns, T(0));
    }

    static constexpr int64_t kStrip = 256;  // columns packed by one task: a multiple of every nr (4 .. 32)
    const GemmTable<T>& t_;
    const GemmProblem& p_;
    const int threads_;
    std::vector<Block> blocks_;
    std::vector<Round> rounds_;
    int64_t width_ = 0;  // of a column block
    T* right_ = nullptr;
    T* left_ = nullptr;
};

}  // namespace

void gemm(const std::string& isa, const GemmProblem& problem, int threads) {
    const GemmKernels& kernels = gemm_kernels_of(isa);
    if (threads < 1) throw std::invalid_argument("threads must be at least 1");
    if (problem.columns < 0) throw std::invalid_argument("columns must not be negative");
    const auto known = [&](const GemmMatrix& matrix) {
        const int dtype = matrix.dtype;
        if (problem.wide ? dtype != kFloat64 : dtype != kFloat32 && dtype != kBFloat16)
            throw std::invalid_argument("a matrix has a dtype that does not go with the result");
    };
    for (const GemmRight& right : problem.rights) {
        if (right.depth < 0) throw std::invalid_argument("a depth must not be negative");
        known(right.b);
    }
    for (const GemmOutput& output : problem.outputs) {
        if (output.rows < 0) throw std::invalid_argument("rows must not be negative");
        for (const GemmTerm& term : output.terms) {
            if (term.right < 0 || term.right >= int(problem.rights.size()))
                throw std::invalid_argument("a term names a right-hand side that is not there");
            known(term.a);
        }
    }
    if (problem.wide) return Gemm<double>(kernels.f64, problem, threads).run();
    if (problem.mode == GemmMode::kExact) return Gemm<float>(kernels.f32, problem, threads).run();
    if (!has_bfloat16_products(isa)) throw std::invalid_argument("no bfloat16 products here with " + isa);
    const GemmBFloat16& tables = gemm_bfloat16_of(isa);
    Gemm<float>(problem.mode == GemmMode::kSplit ? tables.split : tables.rounded, problem, threads).run();
}

bool has_bfloat16_products(const std::string& isa) {
    if (!gemm_bfloat16_of(isa).rounded.pack) return false;
#if defined(__x86_64__)
    return __builtin_cpu_supports("avx512bf16");
#else
    return false;
#endif
}

}  // namespace fu
