// Driver of attention's backward and dual backward. The arithmetic is in isa/attention_*.cpp, the order of the work
// in attention_schedule.h. p is recomputed from lse, its tangent from mean_t, so one sweep over the tiles is enough.
#include "attention_schedule.h"
#include "attention_tiles.h"

namespace fu {
namespace {

template <class T>
class Backward {
   public:
    Backward(const AttentionKit<T>& kit, const AttentionProblem& problem, const AttentionBackward& io)
        : kit_(kit), p_(problem), io_(io), dual_(io.dual) {}

    void run(int threads) {
        AttentionSchedule schedule(p_);
        threads = int(std::min<int64_t>(threads, std::max<int64_t>(int64_t(schedule.pieces().size()), 1)));
        std::vector<std::unique_ptr<Work>> work;
        work.reserve(size_t(threads));
        for (int t = 0; t < threads; ++t) work.push_back(std::make_unique<Work>(p_, io_));
#pragma omp parallel num_threads(threads)
        {
            clear();
            for (int64_t n = schedule.take(); n >= 0; n = schedule.take()) {
                make_piece(schedule.pieces()[size_t(n)], *work[size_t(this_thread())]);
                schedule.finish(n);
            }
        }
    }

   private:
    // One input of queries, packed upright and transposed.
    struct Packed {
        Packed(bool there, int64_t columns, int64_t count, Scratch<T>& s)
            : rows(there ? s.take(matrix_size(columns) * count) : nullptr),
              transposed(there ? s.take(matrix_size(columns) * count) : nullptr) {}
        T *rows, *transposed;
    };

    struct Work {
        Work(const AttentionProblem& p, const AttentionBackward& io)
            : keys(p, scratch), rule(p, scratch), sum(std::max(p.size, p.value_size)), q(true, p.size, 1, scratch),
              qt(p.qt.data, p.size, p.tangents, scratch), g(io.dual, p.value_size, 1, scratch),
              h(io.h.data, p.value_size, p.tangents, scratch), o(scratch.take(matrix_size(p.value_size))),
              other(scratch.take(matrix_size(p.value_size))), gq(scratch.take(matrix_size(p.size))),
              hq(scratch.take(matrix_size(p.size) * p.tangents)), part(scratch.take(kTile * kChunk)),
              lse(scratch.take(kTile)), rest(scratch.take(kTile)), mean(scratch.take(kTile * p.tangents)),
              d(scratch.take(kTile)), dt(scratch.take(kTile * p.tangents)) {
            for (T** tile : {&s, &y, &z, &w}) *tile = scratch.take(kTile * kTile);
            if (p.scores.softcap > 0)
                for (T** tile : {&u, &e}) *tile = scratch.take(kTile * kTile);
        }
        Scratch<T> scratch;
        KeyTile<T> keys;
        ScoreRule<T> rule;
        ScoreSum<T> sum;
        Packed q, qt, g, h;
        T *o, *other, *gq, *hq, *part, *lse, *rest, *mean, *d, *dt;
        T *s, *y, *z, *w, *u = nullptr, *e = nullptr;  // tiles; u and e only with a cap
        bool triangle = false;                         // of the tile at hand
    };

    // The calling thread's share of setting the outputs to 0.
    void clear() const {
        const int64_t queries = p_.batch * p_.heads * p_.queries, keys = p_.batch * p_.groups * p_.keys;
        const int64_t k = p_.tangents;
        const std::pair<void*, int64_t> all[] = {{io_.gq, dual_ ? queries * p_.size : 0},
                                                 {io_.gk, dual_ ? keys * p_.size : 0},
                                                 {io_.gv, dual_ ? keys * p_.value_size : 0},
                                                 {io_.hq, k * queries * p_.size},
                                                 {io_.hk, k * keys * p_.size},
                                                 {io_.hv, k * keys * p_.value_size}};
        constexpr int64_t kPart = 1 << 16;
        for (const std::pair<void*, int64_t>& one : all) {
            T* const memory = static_cast<T*>(one.first);  // names of their own: clang captures no structured binding
            const int64_t count = one.second;
#pragma omp for schedule(static)
            for (int64_t at = 0; at < count; at += kPart) std::fill_n(memory + at, std::min(kPart, count - at), T(0));
        }
    }

    void make_piece(const AttentionPiece& piece, Work& w) const {
        const int64_t batch = piece.pair / p_.groups, group = piece.pair % p_.groups;
        const QueryBlock block(p_, batch, group, piece.block);
        bool packed = false;
        for (int64_t tile = piece.first; tile < piece.last; ++tile) {
            const int64_t key = tile * kTile;
            if (!w.rule.begin(block, key, std::min(kTile, p_.keys - key))) continue;
            if (!packed) load_queries(block, w);
            packed = true;
            w.keys.load(p_, kit_.products, batch, group, key);
            add_tile(block, piece.pair, w);
        }
        if (packed) add_queries(block, w);
    }

    void pack(const AttentionTensor& x, int64_t n, const QueryBlock& block, int64_t columns, T factor, T* to) const {
        kit_.products.pack(p_.dtype, row_of(x, p_.dtype, n, block.batch, block.head, block.first), x.row, block.rows,
                           columns, factor, to);
    }

    void pack_both(const AttentionTensor& x, int64_t count, const QueryBlock& block, int64_t columns, T factor,
                   const Packed& to) const {
        for (int64_t n = 0; n < count && to.rows; ++n) {
            const int64_t at = n * matrix_size(columns);
            pack(x, n, block, columns, factor, to.rows + at);
            kit_.products.transpose(to.rows + at, block.rows, columns, to.transposed + at);
        }
    }

    // Inputs of the block, its statistics, and the row sums D = g.o and D' = g.o' + h.o (README of the op).
    void load_queries(const QueryBlock& block, Work& w) const {
        const int64_t k = p_.tangents, columns = p_.value_size, all = p_.batch * p_.heads * p_.queries;
        const int64_t row = (block.batch * p_.heads + block.head) * p_.queries + block.first;
        pack_both(p_.q, 1, block, p_.size, T(p_.scores.scale), w.q);
        pack_both(p_.qt, k, block, p_.size, T(p_.scores.scale), w.qt);
        pack_both(io_.g, 1, block, columns, T(1), w.g);
        pack_both(io_.h, k, block, columns, T(1), w.h);
        std::fill_n(w.d, kTile, T(0));
        std::fill_n(w.dt, kTile * k, T(0));
        pack(io_.o, 0, block, columns, T(1), w.o);
        if (dual_) kit_.products.row_dots(w.g.rows, w.o, block.rows, columns, w.d);
        for (int64_t n = 0; n < k; ++n) {
            if (dual_) {
                pack(io_.ot, n, block, columns, T(1), w.other);
                kit_.products.row_dots(w.g.rows, w.other, block.rows, columns, w.dt + n * kTile);
                std::copy_n(static_cast<const T*>(io_.mean_t) + n * all + row, block.rows, w.mean + n * kTile);
            }
            if (w.h.rows)
                kit_.products.row_dots(w.h.rows + n * matrix_size(columns), w.o, block.rows, columns, w.dt + n * kTile);
        }
        for (int64_t r = 0; r < block.rows; ++r) {
            const T lse = static_cast<const T*>(io_.lse)[row + r];
            constexpr T kInfinity = std::numeric_limits<T>::infinity();
            w.rest[r] = io_.rest ? static_cast<const T*>(io_.rest)[row + r] : T(0);
            w.lse[r] = lse == -kInfinity ? kInfinity : lse;  // fully masked: p = exp(-inf)
        }
        std::fill_n(w.gq, matrix_size(p_.size), T(0));
        std::fill_n(w.hq, matrix_size(p_.size) * k, T(0));
    }

    // to[row + key] += the terms: tiles times rows of queries, `columns` wide.
    void add_keys(const Term<T>* terms, int64_t count, int64_t columns, void* to, int64_t row, Work& w) const {
        for (int64_t c = 0; c < columns; c += kChunk) {
            Term<T> shifted[2];
            for (int64_t t = 0; t < count; ++t) shifted[t] = {terms[t].a, terms[t].b + c * kTile, terms[t].depth};
            const int64_t here = std::min(kChunk, columns - c);
            kit_.products.by_keys(shifted, count, w.keys.rows, here, w.part, false, w.triangle);
            kit_.products.add(w.part, w.keys.rows, here, T(1), static_cast<T*>(to) + row * columns + c, columns);
        }
    }

    // sums[query] += the terms, tiles read transposed.
    void collect_queries(const Term<T>* terms, int64_t count, int64_t rows, T* sums, const Work& w) const {
        for (int64_t c = 0; c < p_.size; c += kChunk) {
            Term<T> shifted[2];
            for (int64_t t = 0; t < count; ++t) shifted[t] = {terms[t].a, terms[t].b + c * kTile, terms[t].depth};
            kit_.products.by_queries(shifted, count, rows, std::min(kChunk, p_.size - c), sums + c * kTile, true,
                                     w.triangle);
        }
    }

    // The ordinary backward of one stream x (g, or h_n): adds to the three outputs.
    void add_stream(const QueryBlock& block, const T* rows, const T* transposed, const T* d, T* sums, void* to_k,
                    void* to_v, int64_t key_row, Work& w) const {
        const TileSize size = {w.keys.rows, block.rows};
        w.sum.clear().add(w.keys.v, transposed, p_.value_size).run(kit_.products, size, w.y, w.triangle);
        kit_.softmax.adjoint(size, w.s, w.u, w.y, w.e, d);
        const Term<T> value = {w.s, rows, block.rows}, key = {w.y, w.q.rows, block.rows};
        const Term<T> query = {w.y, w.keys.k, w.keys.rows};
        add_keys(&value, 1, p_.value_size, to_v, key_row, w);
        add_keys(&key, 1, p_.size, to_k, key_row, w);
        collect_queries(&query, 1, block.rows, sums, w);
    }

    void add_tile(const QueryBlock& block, int64_t pair, Work& w) const {
        const TileSize size = {w.keys.rows, block.rows};
        const int64_t key_row = pair * p_.keys + w.keys.first, all = p_.batch * p_.groups * p_.keys;
        w.triangle = w.rule.triangle(block, w.keys.first);
        w.sum.clear().add(w.keys.k, w.q.transposed, p_.size).run(kit_.products, size, w.s, w.triangle);
        w.rule.apply(kit_.softmax, block, w.keys.first, w.keys.rows, w.s, w.u);
        kit_.softmax.probabilities(size, w.s, w.lse, w.rest);
        if (dual_) add_stream(block, w.g.rows, w.g.transposed, w.d, w.gq, io_.gk, io_.gv, key_row, w);
        for (int64_t n = 0; n < p_.tangents; ++n) {
            const int64_t at = n * matrix_size(p_.value_size);
            if (dual_)
                add_tangent(block, n, n * all + key_row, w);
            else
                add_stream(block, w.h.rows + at, w.h.transposed + at, w.dt + n * kTile, w.hq + n * matrix_size(p_.size),
                           io_.hk, io_.hv, n * all + key_row, w);
        }
    }

    void add_tangent(const QueryBlock& block, int64_t n, int64_t key_row, Work& w) const {
        const TileSize size = {w.keys.rows, block.rows};
        const int64_t at = n * matrix_size(p_.size), value_at = n * matrix_size(p_.value_size);
        const auto plus = [](T* x, int64_t offset) { return x ? x + offset : nullptr; };
        T *kt = plus(w.keys.kt, at), *vt = plus(w.keys.vt, value_at);
        T *qt = plus(w.qt.rows, at), *h = plus(w.h.rows, value_at);
        w.sum.clear().add(w.keys.k, plus(w.qt.transposed, at), p_.size).add(kt, w.q.transposed, p_.size);
        w.sum.run(kit_.products, size, w.z, w.triangle);
        w.sum.clear().add(w.keys.v, plus(w.h.transposed, value_at), p_.value_size);
        w.sum.add(vt, w.g.transposed, p_.value_size).run(kit_.products, size, w.w, w.triangle);
        kit_.softmax.tangent_adjoint(size, w.s, w.u, T(p_.scores.softcap), w.e ? w.e : w.y, w.mean + n * kTile,
                                     w.dt + n * kTile, w.z, w.w);
        const Term<T> value[2] = {{w.z, w.g.rows, block.rows}, {w.s, h, block.rows}};
        const Term<T> key[2] = {{w.w, w.q.rows, block.rows}, {w.y, qt, block.rows}};
        const Term<T> query[2] = {{w.w, w.keys.k, w.keys.rows}, {w.y, kt, w.keys.rows}};
        add_keys(value, h ? 2 : 1, p_.value_size, io_.hv, key_row, w);
        add_keys(key, qt ? 2 : 1, p_.size, io_.hk, key_row, w);
        collect_queries(query, kt ? 2 : 1, block.rows, w.hq + at, w);
    }

    // The block's sums over the piece's keys go to the outputs; q was packed times scale, k was not.
    void add_queries(const QueryBlock& block, Work& w) const {
        const int64_t row = (block.batch * p_.heads + block.head) * p_.queries + block.first;
        const int64_t all = p_.batch * p_.heads * p_.queries;
        const auto add = [&](const T* sums, void* to, int64_t at) {
            T* place = static_cast<T*>(to) + at * p_.size;
            kit_.products.add(sums, block.rows, p_.size, T(p_.scores.scale), place, p_.size);
        };
        if (dual_) add(w.gq, io_.gq, row);
        for (int64_t n = 0; n < p_.tangents; ++n) add(w.hq + n * matrix_size(p_.size), io_.hq, n * all + row);
    }

    const AttentionKit<T>& kit_;
    const AttentionProblem& p_;
    const AttentionBackward& io_;
    const bool dual_;
};

}  // namespace

void attention_backward(const std::string& isa, const AttentionProblem& problem, const AttentionBackward& io,
                        int threads) {
    check_attention(problem, threads);
    if (problem.dtype == kFloat64)
        Backward<double>(AttentionKit<double>(isa), problem, io).run(threads);
    else
        Backward<float>(AttentionKit<float>(isa), problem, io).run(threads);
}

}  // namespace fu
