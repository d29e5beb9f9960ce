// Driver of attention's forward and dual forward. The arithmetic is in isa/attention_*.cpp.
//
// A piece of work is a run of query blocks that share their keys (one (b, g)): it goes over all tiles of keys once,
// packs each, and updates running maxima, sums and unnormalised outputs of every block. A row's sums run over the
// tiles in order, whoever computes it, so the result depends on nothing but the shapes.
#include <cmath>

#include "attention_tiles.h"

namespace fu {
namespace {

// Query blocks that share a packed tile of keys: more make packing cheaper, fewer keep more threads busy.
constexpr int64_t kMostBlocks = 4;
constexpr int64_t kEnoughPieces = 32;

template <class T>
class Forward {
   public:
    Forward(const AttentionKit<T>& kit, const AttentionProblem& problem, const AttentionForward& out)
        : kit_(kit), p_(problem), out_(out), tangents_(out.ot ? problem.tangents : 0) {}

    void run(int threads) {
        const int64_t pairs = p_.batch * p_.groups, blocks = p_.heads / p_.groups * tiles_of(p_.queries);
        const int64_t per_piece = std::clamp<int64_t>(pairs * blocks / kEnoughPieces, 1, kMostBlocks);
        const int64_t runs = (blocks + per_piece - 1) / per_piece, pieces = pairs * runs;
        threads = int(std::min<int64_t>(threads, std::max<int64_t>(pieces, 1)));
        std::vector<std::unique_ptr<Work>> work;
        work.reserve(size_t(threads));
        for (int t = 0; t < threads; ++t) work.push_back(std::make_unique<Work>(p_, tangents_, per_piece));
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1)
        for (int64_t piece = 0; piece < pieces; ++piece) {
            const int64_t pair = piece % pairs, first = (runs - 1 - piece / pairs) * per_piece;  // the longest first
            const int64_t count = std::min(per_piece, blocks - first);
            make_piece(pair / p_.groups, pair % p_.groups, first, count, *work[size_t(this_thread())]);
        }
    }

   private:
    // One block of queries and its running sums.
    struct State {
        State(const AttentionProblem& p, int64_t tangents, Scratch<T>& s)
            : q(s.take(matrix_size(p.size))),
              qt(p.qt.data && tangents ? s.take(matrix_size(p.size) * tangents) : nullptr),
              o(s.take(matrix_size(p.value_size))), ot(s.take(matrix_size(p.value_size) * tangents)),
              maximum(s.take(kTile)), total(s.take(kTile)), correction(s.take(kTile)), kept(s.take(kTile)),
              shift(s.take(kTile)), mean(s.take(kTile * tangents)), rest(s.take(kTile * tangents)) {}
        T *q, *qt, *o, *ot, *maximum, *total, *correction, *kept, *shift, *mean, *rest;
    };

    struct Work {
        Work(const AttentionProblem& p, int64_t tangents, int64_t blocks)
            : keys(p, scratch), rule(p, scratch), sum(p.size), rows(scratch.take(matrix_size(p.size))),
              s(scratch.take(kTile * kTile)), z(scratch.take(kTile * kTile)),
              u(p.scores.softcap > 0 ? scratch.take(kTile * kTile) : nullptr) {
            for (int64_t n = 0; n < blocks; ++n) states.emplace_back(p, tangents, scratch);
        }
        Scratch<T> scratch;
        KeyTile<T> keys;
        ScoreRule<T> rule;
        ScoreSum<T> sum;
        T *rows, *s, *z, *u;
        std::vector<State> states;
    };

    void make_piece(int64_t batch, int64_t group, int64_t first, int64_t count, Work& w) const {
        for (int64_t n = 0; n < count; ++n) start({p_, batch, group, first + n}, w.states[size_t(n)], w);
        for (int64_t key = 0; key < p_.keys; key += kTile) {
            const int64_t keys = std::min(kTile, p_.keys - key);
            bool packed = false;
            for (int64_t n = 0; n < count; ++n) {
                const QueryBlock block(p_, batch, group, first + n);
                if (!w.rule.begin(block, key, keys)) continue;
                if (!packed) w.keys.load(p_, kit_.products, batch, group, key);
                packed = true;
                add_tile(block, w.states[size_t(n)], w);
            }
        }
        for (int64_t n = 0; n < count; ++n) finish({p_, batch, group, first + n}, w.states[size_t(n)]);
    }

    void load_queries(const AttentionTensor& x, int64_t n, const QueryBlock& block, T* to, Work& w) const {
        kit_.products.pack(p_.dtype, row_of(x, p_.dtype, n, block.batch, block.head, block.first), x.row, block.rows,
                           p_.size, T(p_.scores.scale), w.rows);
        kit_.products.transpose(w.rows, block.rows, p_.size, to);
    }

    void start(const QueryBlock& block, State& s, Work& w) const {
        load_queries(p_.q, 0, block, s.q, w);
        for (int64_t n = 0; n < tangents_ && s.qt; ++n)
            load_queries(p_.qt, n, block, s.qt + n * matrix_size(p_.size), w);
        std::fill_n(s.maximum, kTile, -std::numeric_limits<T>::infinity());
        std::fill_n(s.o, matrix_size(p_.value_size), T(0));
        std::fill_n(s.ot, matrix_size(p_.value_size) * tangents_, T(0));
        std::fill_n(s.total, kTile, T(0));
        std::fill_n(s.mean, kTile * tangents_, T(0));
        std::fill_n(s.rest, kTile * tangents_, T(0));
    }

    // o += p^T v for p and v of one or two terms, chunk by chunk.
    void add_values(const Term<T>* terms, int64_t count, int64_t rows, bool triangle, T* o) const {
        for (int64_t c = 0; c < p_.value_size; c += kChunk) {
            Term<T> shifted[2];
            for (int64_t t = 0; t < count; ++t) shifted[t] = {terms[t].a, terms[t].b + c * kTile, terms[t].depth};
            kit_.products.by_queries(shifted, count, rows, std::min(kChunk, p_.value_size - c), o + c * kTile, true,
                                     triangle);
        }
    }

    void add_tile(const QueryBlock& block, State& s, Work& w) const {
        const KeyTile<T>& keys = w.keys;
        const TileSize size = {keys.rows, block.rows};
        const bool triangle = w.rule.triangle(block, keys.first);
        w.sum.clear().add(keys.k, s.q, p_.size).run(kit_.products, size, w.s, triangle);
        w.rule.apply(kit_.softmax, block, keys.first, keys.rows, w.s, w.u);
        kit_.softmax.online(size, w.s, s.maximum, s.total, s.correction, s.kept);
        kit_.products.rescale(s.o, s.correction, nullptr, nullptr, block.rows, p_.value_size);
        for (int64_t n = 0; n < tangents_; ++n) {
            const int64_t at = n * matrix_size(p_.size), value_at = n * matrix_size(p_.value_size);
            Term<T> terms[2];
            int64_t count = 0;
            if (s.qt || keys.kt) {
                w.sum.clear().add(keys.k, s.qt ? s.qt + at : nullptr, p_.size);
                w.sum.add(keys.kt ? keys.kt + at : nullptr, s.q, p_.size).run(kit_.products, size, w.z, triangle);
                kit_.softmax.online_tangent(size, w.z, w.u, w.s, s.total, s.correction, s.kept, s.mean + n * kTile,
                                            s.shift, s.rest + n * kTile);
                kit_.products.rescale(s.ot + value_at, s.correction, s.shift, s.o, block.rows, p_.value_size);
                terms[count++] = {w.z, keys.v, keys.rows};
            } else {
                kit_.products.rescale(s.ot + value_at, s.correction, nullptr, nullptr, block.rows, p_.value_size);
            }
            if (keys.vt) terms[count++] = {w.s, keys.vt + value_at, keys.rows};
            add_values(terms, count, block.rows, triangle, s.ot + value_at);
        }
        const Term<T> primal = {w.s, keys.v, keys.rows};
        add_values(&primal, 1, block.rows, triangle, s.o);
    }

    void finish(const QueryBlock& block, const State& s) const {
        const int64_t columns = p_.value_size, all = p_.batch * p_.heads * p_.queries;
        for (int64_t r = 0; r < block.rows; ++r) {
            const int64_t row = (block.batch * p_.heads + block.head) * p_.queries + block.first + r;
            const T inverse = s.total[r] == 0 ? T(0) : 1 / s.total[r];  // 0: fully masked
            const T log_total = std::log(s.total[r]), lse = s.maximum[r] + log_total;
            static_cast<T*>(out_.lse)[row] = lse;
            static_cast<T*>(out_.rest)[row] = s.total[r] == 0 ? T(0) : (s.maximum[r] - lse) + log_total;
            T* o = static_cast<T*>(out_.o) + row * columns;
            const auto place = [&](int64_t c) { return c / kChunk * kTile * kChunk + r * kChunk + c % kChunk; };
            for (int64_t c = 0; c < columns; ++c) o[c] = inverse * s.o[place(c)];
            for (int64_t n = 0; n < tangents_; ++n) {
                const T rest = inverse * s.rest[n * kTile + r];
                static_cast<T*>(out_.mean_t)[n * all + row] = s.mean[n * kTile + r] + rest;
                T* ot = static_cast<T*>(out_.ot) + (n * all + row) * columns;
                const T* sums = s.ot + n * matrix_size(columns);
                for (int64_t c = 0; c < columns; ++c) ot[c] = inverse * sums[place(c)] - rest * o[c];
            }
        }
    }

    const AttentionKit<T>& kit_;
    const AttentionProblem& p_;
    const AttentionForward& out_;
    const int64_t tangents_;
};

}  // namespace

void attention_forward(const std::string& isa, const AttentionProblem& problem, const AttentionForward& out,
                       int threads) {
    check_attention(problem, threads);
    if (problem.dtype == kFloat64)
        Forward<double>(AttentionKit<double>(isa), problem, out).run(threads);
    else
        Forward<float>(AttentionKit<float>(isa), problem, out).run(threads);
}

}  // namespace fu
