// Driver of the output layer with cross-entropy: chunks of tokens, and blocks of the vocabulary within a chunk.
//
// First sweep over the blocks: logits and their tangents (gemm.cpp) into the chunk's buffer, and at once, while they
// are in the cache, the running softmax of every row. Second sweep: the rows of a block become adjoints in place, and
// at once go into gx and hx and into the block's rows of weight_out. Values alone need no second sweep, and no more
// of the buffer than one block.
#include "linear_cross_entropy.h"

#include "cross_entropy_kernels.h"
#include "isa.h"
#include "kernels.h"
#include "scratch.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>

namespace fu {

FU_ISA_TABLES(CrossEntropyKernels, cross_entropy)
namespace {

template <class T>
const CrossEntropyTable<T>& table_of(const CrossEntropyKernels& k);
template <>
const CrossEntropyTable<float>& table_of<float>(const CrossEntropyKernels& k) {
    return k.f32;
}
template <>
const CrossEntropyTable<double>& table_of<double>(const CrossEntropyKernels& k) {
    return k.f64;
}

constexpr int64_t kVocabularyBlock = 2048;
constexpr int64_t kTokenStep = 48;  // chunks are multiples of it: whole micro-tiles of every instruction set

template <class T>
class Head {
   public:
    Head(const std::string& isa, const HeadProblem& problem, int threads)
        : isa_(isa), t_(table_of<T>(cross_entropy_of(isa))), p_(problem), threads_(threads),
          block_(std::min(kVocabularyBlock, problem.vocabulary)),
          columns_(problem.mode == HeadMode::kValues ? block_ : problem.vocabulary),
          chunk_(chunk_of(problem, columns_)) {}

    void run() {
        const int64_t streams = 1 + p_.streams;
        logits_ = scratch<T>(streams * chunk_ * columns_);
        sums_.resize(size_t(chunk_ * 2 * p_.streams));
        states_.resize(size_t(chunk_));
        for (int64_t token = 0; token < p_.tokens; token += chunk_) {
            first_ = token;
            rows_ = std::min(chunk_, p_.tokens - token);
            run_chunk();
        }
    }

   private:
    static int64_t chunk_of(const HeadProblem& problem, int64_t columns) {
        const int64_t row_bytes = (1 + problem.streams) * columns * int64_t(sizeof(T));
        const int64_t most = std::max<int64_t>(kTokenStep, problem.logit_bytes / row_bytes / kTokenStep * kTokenStep);
        // Chunks of about equal length: a short last one would read the weight for little.
        const int64_t chunks = std::max<int64_t>(1, (problem.tokens + most - 1) / most);
        const int64_t even = (problem.tokens + chunks - 1) / chunks;
        return std::max<int64_t>(1, std::min(most, even));
    }

    T* stream(int64_t k, int64_t column) const {
        return logits_.get() + k * chunk_ * columns_ + (columns_ == block_ ? 0 : column);
    }
    GemmMatrix at(const GemmMatrix& matrix, int64_t row, int64_t depth) const {
        const int64_t size = matrix.dtype == kFloat64 ? 8 : matrix.dtype == kFloat32 ? 4 : 2;
        const int64_t offset = (row * matrix.row_stride + depth * matrix.depth_stride) * size;
        return {static_cast<const char*>(matrix.data) + offset, matrix.row_stride, matrix.depth_stride, matrix.dtype};
    }
    static GemmMatrix turned(const GemmMatrix& m) { return {m.data, m.depth_stride, m.row_stride, m.dtype}; }
    // Stream k of the chunk's buffer as a matrix of tokens x vocabulary.
    GemmMatrix adjoint(int64_t k, int64_t column) const {
        return {stream(k, column), columns_, 1, std::is_same<T, double>::value ? kFloat64 : kFloat32};
    }
    bool second_order() const { return p_.mode == HeadMode::kHessian; }
    bool one_stream() const { return p_.mode == HeadMode::kGgn; }

    void run_chunk() {
        for (int64_t r = 0; r < rows_; ++r) {
            double* dots = sums_.data() + r * 2 * p_.streams;
            std::fill_n(dots, 2 * p_.streams, 0.0);
            states_[size_t(r)] = {-std::numeric_limits<double>::infinity(), 0, 0, dots, dots + p_.streams};
        }
        for (int64_t column = 0; column < p_.vocabulary; column += block_) {
            multiply(column);
            each_row(column, [&](const LogitRow<T>& row, int64_t r) { t_.add(row, states_[size_t(r)]); });
        }
        write_values();
        if (p_.mode == HeadMode::kValues) return;
        for (int64_t column = 0; column < p_.vocabulary; column += block_) {
            each_row(column, [&](const LogitRow<T>& row, int64_t r) {
                t_.finish(row, states_[size_t(r)], static_cast<const T*>(p_.token_weights)[first_ + r], second_order());
            });
            if (p_.gx || p_.hx) add_inputs(column);
            if (p_.weight_out) add_weights(column);
            if (p_.bias_out) add_biases(column);
        }
    }

    int64_t width_of(int64_t column) const { return std::min(block_, p_.vocabulary - column); }

    // z = x W^T and zt = xt W^T + x Wt^T for a block of the vocabulary.
    void multiply(int64_t column) {
        GemmProblem g = {std::is_same<T, double>::value, width_of(column), {{at(p_.weight, column, 0), p_.width}}, {}};
        const GemmMatrix x = at(p_.x, first_, 0);
        g.outputs.push_back({stream(0, column), rows_, columns_, false, {{x, 0}}});
        for (int k = 0; k < p_.streams; ++k) {
            GemmOutput output = {stream(1 + k, column), rows_, columns_, false, {}};
            if (!p_.xt.empty()) output.terms.push_back({at(p_.xt[size_t(k)], first_, 0), 0});
            if (!p_.weight_t.empty()) {
                output.terms.push_back({x, int(g.rights.size())});
                g.rights.push_back({at(p_.weight_t[size_t(k)], column, 0), p_.width});
            }
            g.outputs.push_back(output);
        }
        gemm(isa_, g, threads_);
    }

    template <class Body>
    void each_row(int64_t column, Body body) {
        const int64_t width = width_of(column);
#pragma omp parallel for num_threads(threads_) schedule(static)
        for (int64_t r = 0; r < rows_; ++r) {
            LogitRow<T> row = {};
            row.z = stream(0, column) + r * columns_;
            row.zt = p_.streams ? stream(1, column) + r * columns_ : nullptr;
            row.stream_stride = chunk_ * columns_;
            row.streams = p_.streams;
            row.columns = width;
            row.label = p_.labels[first_ + r] - column;
            row.bias = p_.bias ? static_cast<const T*>(p_.bias) + column : nullptr;
            row.bias_t = p_.bias_t ? static_cast<const T*>(p_.bias_t) + column : nullptr;
            row.bias_stride = p_.vocabulary;
            row.softcap = T(p_.softcap);
            row.scale = T(p_.logit_scale);
            body(row, r);
        }
    }

    void write_values() {
        for (int64_t r = 0; r < rows_; ++r) {
            const RowState& state = states_[size_t(r)];
            static_cast<T*>(p_.nll)[first_ + r] = T(state.largest - state.chosen + std::log(state.sum));
            for (int k = 0; k < p_.streams; ++k)
                static_cast<T*>(p_.nll_t)[k * p_.tokens + first_ + r] = T(state.dots[k] / state.sum - state.chosen_t[k]);
        }
    }

    // gx += g W and hx += h W + g Wt over a block of the vocabulary.
    void add_inputs(int64_t column) {
        const int64_t depth = width_of(column);
        const bool more = column > 0;
        GemmProblem g = {std::is_same<T, double>::value, p_.width, {{turned(at(p_.weight, column, 0)), depth}}, {}};
        if (p_.gx) {
            T* to = static_cast<T*>(p_.gx) + first_ * p_.width;
            g.outputs.push_back({to, rows_, p_.width, more, {{adjoint(0, column), 0}}});
        }
        for (int k = 0; p_.hx && k < p_.streams; ++k) {
            T* to = static_cast<T*>(p_.hx) + (k * p_.tokens + first_) * p_.width;
            GemmOutput output = {to, rows_, p_.width, more, {{adjoint(1 + k, column), 0}}};
            if (second_order() && !p_.weight_t.empty()) {
                output.terms.push_back({adjoint(0, column), int(g.rights.size())});
                g.rights.push_back({turned(at(p_.weight_t[size_t(k)], column, 0)), depth});
            }
            g.outputs.push_back(output);
        }
        gemm(isa_, g, threads_);
    }

    // weight_out += h^T x + g^T xt for the rows of a block of the vocabulary.
    void add_weights(int64_t column) {
        const int64_t rows = width_of(column);
        GemmProblem g = {std::is_same<T, double>::value, p_.width, {{turned(at(p_.x, first_, 0)), rows_}}, {}};
        for (int k = 0; k < std::max(1, p_.streams); ++k) {
            T* to = static_cast<T*>(p_.weight_out) + (k * p_.vocabulary + column) * p_.width;
            const int64_t h = p_.mode == HeadMode::kGradient ? 0 : 1 + k;
            GemmOutput output = {to, rows, p_.width, true, {{turned(adjoint(h, column)), 0}}};
            if (second_order() && !p_.xt.empty()) {
                output.terms.push_back({turned(adjoint(0, column)), int(g.rights.size())});
                g.rights.push_back({turned(at(p_.xt[size_t(k)], first_, 0)), rows_});
            }
            g.outputs.push_back(output);
        }
        gemm(isa_, g, threads_);
    }

    void add_biases(int64_t column) {
        constexpr int64_t kStrip = 256;
        const int64_t width = width_of(column), strips = (width + kStrip - 1) / kStrip;
        const int64_t streams = std::max(1, p_.streams);
#pragma omp parallel for num_threads(threads_) schedule(static)
        for (int64_t task = 0; task < streams * strips; ++task) {
            const int64_t k = task / strips, begin = task % strips * kStrip;
            const T* from = stream(p_.mode == HeadMode::kGradient ? 0 : 1 + k, column) + begin;
            T* to = static_cast<T*>(p_.bias_out) + k * p_.vocabulary + column + begin;
            t_.add_rows(from, columns_, rows_, std::min(kStrip, width - begin), to);
        }
    }

    const std::string& isa_;
    const CrossEntropyTable<T>& t_;
    const HeadProblem& p_;
    const int threads_;
    const int64_t block_, columns_, chunk_;
    int64_t first_ = 0, rows_ = 0;
    Scratch<T> logits_;
    std::vector<double> sums_;
    std::vector<RowState> states_;
};

}  // namespace

void linear_cross_entropy(const std::string& isa, const HeadProblem& problem, int threads) {
    if (threads < 1) throw std::invalid_argument("threads must be at least 1");
    if (problem.tokens < 0 || problem.width < 0 || problem.vocabulary < 1 || problem.streams < 0)
        throw std::invalid_argument("a size is negative, or the vocabulary is empty");
    const size_t streams = size_t(problem.streams);
    if ((!problem.xt.empty() && problem.xt.size() != streams) ||
        (!problem.weight_t.empty() && problem.weight_t.size() != streams))
        throw std::invalid_argument("one tangent per stream");
    if (problem.tokens == 0) return;
    if (problem.mode != HeadMode::kValues && !problem.token_weights)
        throw std::invalid_argument("token_weights are needed");
    if (problem.wide)
        Head<double>(isa, problem, threads).run();
    else
        Head<float>(isa, problem, threads).run();
}

}  // namespace fu
