// Driver of the ghost Gram: blocks, packing, sums by sample. The arithmetic is in isa/tile_kernels.cpp.
//
// A block of kRowBlock tokens of the first side is packed once and meets all tokens of the second side in
// blocks of kColumnBlock. For each pair of blocks two small matrices P = X1 X2^T and Q = G1 G2^T are made in
// the second cache, multiplied, and summed by sample at once. The second side is packed once for all threads,
// in stripes of kStripeBytes, so the price of packing is small.
#include "ghost_gram.h"

#include "isa.h"
#include "kernels.h"
#include "threads.h"

#include <algorithm>
#include <memory>
#include <new>
#include <stdexcept>
#include <vector>

namespace fu {

FU_ISA_TABLES(Kernels, kernels)
namespace {

// Multiples of every micro-tile's rows (4, 6, 12) and columns (4 .. 32).
constexpr int64_t kRowBlock = 96;
constexpr int64_t kColumnBlock = 192;
constexpr int64_t kDepth = 256;  // part of d at a time: a panel of it fits the first cache
constexpr int64_t kStripeBytes = 32 << 20;

int64_t round_up(int64_t value, int64_t to) { return (value + to - 1) / to * to; }

// A run of rows of one block that belong to one sample.
struct Run {
    int64_t begin, end, sample;
};

// The runs of tokens [begin, end), as positions relative to begin.
void find_runs(const GramSide& side, int64_t begin, int64_t end, std::vector<Run>& runs) {
    runs.clear();
    const int64_t* offsets = side.offsets;
    int64_t sample = std::upper_bound(offsets, offsets + side.samples + 1, begin) - offsets - 1;
    for (int64_t at = begin; at < end; ++sample) {
        const int64_t stop = std::min(end, offsets[sample + 1]);
        if (stop > at) runs.push_back({at - begin, stop - begin, sample});
        at = std::max(at, stop);
    }
}

template <class T>
struct Aligned {  // 64-byte aligned scratch memory
    explicit Aligned(int64_t count)
        : memory(
              static_cast<T*>(::operator new(size_t(std::max<int64_t>(count, 1)) * sizeof(T), std::align_val_t(64)))) {}
    ~Aligned() { ::operator delete(memory, std::align_val_t(64)); }
    Aligned(const Aligned&) = delete;
    Aligned& operator=(const Aligned&) = delete;
    T* memory;
};

// Packs tokens [row, row + rows), depth slab by depth slab; slab k0 starts at round_up(rows, panel) * k0.
template <class T>
void pack_rows(const TileKernels<T>& k, int dtype, const void* base, int64_t stride, int64_t row, int64_t rows,
               int64_t width, int64_t panel, T* packed) {
    const int64_t size = dtype == kFloat64 ? 8 : dtype == kFloat32 ? 4 : 2;
    const char* from = static_cast<const char*>(base) + row * stride * size;
    for (int64_t k0 = 0; k0 < width; k0 += kDepth)
        k.pack(dtype, from + k0 * size, stride, rows, std::min(kDepth, width - k0), panel,
               packed + round_up(rows, panel) * k0);
}

// A sample that a row block shares with the block before or after: its row of partial sums.
struct Edge {
    int64_t sample;
    int64_t slot;
};

template <class T>
class Gram {
   public:
    Gram(const Kernels& kernels, const GramProblem& problem, int threads)
        : k_(tile_kernels<T>(kernels)), p_(problem), threads_(threads),
          blocks_((p_.first.tokens + kRowBlock - 1) / kRowBlock) {}

    void run() {
        clear();
        plan_edges();
        const int64_t width = p_.d_in + p_.d_out;
        const int64_t stripe =
            std::max(kColumnBlock, kStripeBytes / int64_t(sizeof(T)) / width / kColumnBlock * kColumnBlock);
        const int64_t most = std::min(round_up(p_.second.tokens, k_.nr), stripe);
        Aligned<T> x(most * p_.d_in), g(most * p_.d_out);
        for (int t = 0; t < threads_; ++t) scratch_.push_back(std::make_unique<Scratch>(p_.d_in, p_.d_out));
        for (int64_t begin = 0; begin < p_.second.tokens; begin += stripe)
            add_stripe(begin, std::min(p_.second.tokens, begin + stripe), x.memory, g.memory);
        add_edges();
        if (p_.symmetric) mirror();
    }

   private:
    T* out_row(int64_t i) const { return static_cast<T*>(p_.out) + i * p_.out_stride; }

    void clear() {
        for (int64_t i = 0; i < p_.first.samples; ++i) std::fill_n(out_row(i), p_.second.samples, T(0));
    }

    // A sample cut by a block boundary gets one row of partial sums per block, added up in order at the end:
    // no two threads write one place, and the order of the sums does not depend on the threads.
    void plan_edges() {
        edges_of_.assign(size_t(blocks_), {-1, -1, -1, -1});
        std::vector<Run> runs;
        for (int64_t block = 0; block < blocks_; ++block) {
            const int64_t begin = block * kRowBlock, end = std::min(p_.first.tokens, begin + kRowBlock);
            find_runs(p_.first, begin, end, runs);
            auto& own = edges_of_[size_t(block)];
            const auto cut = [&](const Run& run) {
                return p_.first.offsets[run.sample] < begin || p_.first.offsets[run.sample + 1] > end;
            };
            if (cut(runs.front())) own.first = {runs.front().sample, slots_++};
            if (runs.size() > 1 && cut(runs.back())) own.last = {runs.back().sample, slots_++};
        }
        edge_sums_.assign(size_t(slots_ * p_.second.samples), 0.0);
    }

    void add_stripe(int64_t begin, int64_t end, T* x, T* g) {
        const int64_t panels = (end - begin + kColumnBlock - 1) / kColumnBlock;
        // In a symmetric product a row block meets only what comes after its own start.
        const int64_t live = p_.symmetric ? std::min(blocks_, (end + kRowBlock - 1) / kRowBlock) : blocks_;
#pragma omp parallel num_threads(threads_)
        {
#pragma omp for schedule(static)
            for (int64_t panel = 0; panel < panels; ++panel) {
                const int64_t row = begin + panel * kColumnBlock, rows = std::min(kColumnBlock, end - row);
                pack_rows(k_, p_.dtype, p_.second.x, p_.second.x_stride, row, rows, p_.d_in, k_.nr,
                          x + panel * kColumnBlock * p_.d_in);
                pack_rows(k_, p_.dtype, p_.second.g, p_.second.g_stride, row, rows, p_.d_out, k_.nr,
                          g + panel * kColumnBlock * p_.d_out);
            }
#pragma omp for schedule(dynamic, 1)
            for (int64_t block = 0; block < live; ++block)
                add_row_block(block, begin, end, x, g, *scratch_[size_t(this_thread())]);
        }
    }

    // One per thread, made before the threads start: an exception must not leave a parallel region.
    struct Scratch {
        Scratch(int64_t d_in, int64_t d_out)
            : x(kRowBlock * d_in), g(kRowBlock * d_out), p(kRowBlock * kColumnBlock), q(kRowBlock * kColumnBlock),
              sums(kColumnBlock) {
            rows.reserve(kRowBlock);
            columns.reserve(kColumnBlock);
        }
        Aligned<T> x, g, p, q, sums;
        std::vector<Run> rows, columns;
    };

    void add_row_block(int64_t block, int64_t begin, int64_t end, const T* x, const T* g, Scratch& s) {
        const int64_t row = block * kRowBlock, rows = std::min(kRowBlock, p_.first.tokens - row);
        pack_rows(k_, p_.dtype, p_.first.x, p_.first.x_stride, row, rows, p_.d_in, k_.mr, s.x.memory);
        pack_rows(k_, p_.dtype, p_.first.g, p_.first.g_stride, row, rows, p_.d_out, k_.mr, s.g.memory);
        find_runs(p_.first, row, row + rows, s.rows);
        for (int64_t column = begin; column < end; column += kColumnBlock) {
            const int64_t columns = std::min(end, column + kColumnBlock) - column;
            const int64_t skip = p_.symmetric ? std::max<int64_t>(0, row - column) : 0;
            if (skip >= columns) continue;
            const Packed packed_x = {x + (column - begin) * p_.d_in, round_up(columns, k_.nr), skip};
            const Packed packed_g = {g + (column - begin) * p_.d_out, round_up(columns, k_.nr), skip};
            add_tile(block, row, rows, column + skip, columns - skip, packed_x, packed_g, s);
        }
    }

    // A packed column block: `height` columns in each depth slab, of which the first `skip` are not wanted
    // (a multiple of kRowBlock, so of whole panels).
    struct Packed {
        const T* memory;
        int64_t height, skip;
    };

    void multiply(const T* a, int64_t rows, const Packed& b, int64_t width, T* c) const {
        const int64_t padded = round_up(rows, k_.mr);
        for (int64_t k0 = 0; k0 < width; k0 += kDepth) {
            const int64_t depth = std::min(kDepth, width - k0);
            k_.product(a + padded * k0, padded / k_.mr, b.memory + b.height * k0 + b.skip * depth,
                       (b.height - b.skip) / k_.nr, depth, c, kColumnBlock, k0 > 0);
        }
    }

    void add_tile(int64_t block, int64_t row, int64_t rows, int64_t column, int64_t columns, const Packed& x,
                  const Packed& g, Scratch& s) {
        multiply(s.x.memory, rows, x, p_.d_in, s.p.memory);
        multiply(s.g.memory, rows, g, p_.d_out, s.q.memory);
        find_runs(p_.second, column, column + columns, s.columns);
        for (const Run& a : s.rows) {
            const T* p = s.p.memory + a.begin * kColumnBlock;
            const T* q = s.q.memory + a.begin * kColumnBlock;
            k_.multiply_sum(p, q, kColumnBlock, a.end - a.begin, columns, T(p_.bias ? 1 : 0), s.sums.memory);
            for (const Run& b : s.columns) add_runs(block, row, rows, column, a, b, s.sums.memory);
        }
    }

    // Adds the sums of one run of columns. In a symmetric product only pairs (i, j) with j >= i are kept; a token
    // pair of one sample counts twice where its mirror lies in a block that is skipped (left of this row block).
    void add_runs(int64_t block, int64_t row, int64_t rows, int64_t column, const Run& a, const Run& b, const T* sums) {
        double total = 0;
        if (!p_.symmetric || b.sample > a.sample) {
            for (int64_t c = b.begin; c < b.end; ++c) total += double(sums[c]);
        } else if (b.sample == a.sample) {
            for (int64_t c = b.begin; c < b.end; ++c) {
                total += (column + c < row + rows ? 1.0 : 2.0) * double(sums[c]);
            }
        } else {
            return;
        }
        const auto& own = edges_of_[size_t(block)];
        const int64_t slot = own.first.sample == a.sample  ? own.first.slot
                             : own.last.sample == a.sample ? own.last.slot
                                                           : -1;
        if (slot >= 0)
            edge_sums_[size_t(slot * p_.second.samples + b.sample)] += total;
        else
            out_row(a.sample)[b.sample] += T(total);
    }

    void add_edges() {
        std::vector<double> total(slots_ ? size_t(p_.second.samples) : 0);
        int64_t open = -1;
        const auto flush = [&] {
            for (int64_t j = 0; open >= 0 && j < p_.second.samples; ++j) out_row(open)[j] += T(total[size_t(j)]);
        };
        for (const auto& own : edges_of_)
            for (const Edge& edge : {own.first, own.last}) {
                if (edge.slot < 0) continue;
                if (edge.sample != open) {
                    flush();
                    std::fill(total.begin(), total.end(), 0.0);
                    open = edge.sample;
                }
                for (int64_t j = 0; j < p_.second.samples; ++j)
                    total[size_t(j)] += edge_sums_[size_t(edge.slot * p_.second.samples + j)];
            }
        flush();
    }

    void mirror() {
        constexpr int64_t kTile = 64;  // both sides of a tile stay in the cache
        const int64_t m = p_.first.samples;
        for (int64_t i0 = 0; i0 < m; i0 += kTile)
            for (int64_t j0 = i0; j0 < m; j0 += kTile)
                for (int64_t i = i0; i < std::min(m, i0 + kTile); ++i)
                    for (int64_t j = std::max(i + 1, j0); j < std::min(m, j0 + kTile); ++j)
                        out_row(j)[i] = out_row(i)[j];
    }

    struct BlockEdges {
        Edge first, last;
    };

    const TileKernels<T>& k_;
    const GramProblem& p_;
    const int threads_;
    const int64_t blocks_;
    int64_t slots_ = 0;
    std::vector<BlockEdges> edges_of_;
    std::vector<double> edge_sums_;
    std::vector<std::unique_ptr<Scratch>> scratch_;
};

}  // namespace

void ghost_gram(const std::string& isa, const GramProblem& problem, int threads) {
    const Kernels& kernels = kernels_of(isa);
    if (problem.d_in < 1 || problem.d_out < 1) throw std::invalid_argument("x and g need at least one column");
    if (threads < 1) throw std::invalid_argument("threads must be at least 1");
    for (const GramSide* side : {&problem.first, &problem.second})
        if (side->offsets[0] != 0 || side->offsets[side->samples] != side->tokens)
            throw std::invalid_argument("offsets must run from 0 to the number of tokens");
    if (problem.dtype == kFloat64)
        Gram<double>(kernels, problem, threads).run();
    else if (problem.dtype == kFloat32 || problem.dtype == kBFloat16 || problem.dtype == kFloat16)
        Gram<float>(kernels, problem, threads).run();
    else
        throw std::invalid_argument("unknown dtype");
}

}  // namespace fu
