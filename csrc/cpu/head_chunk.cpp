// The first sweep over the vocabulary: logits and their tangents, and while they are in the cache their softmax.
//
// A task takes a block of the vocabulary for all tokens: it packs the block's rows of W and of every Wt, which serve
// all tokens, and meets right-hand sides that were packed once. Blocks leave their own sums behind, which are merged
// afterwards in a fixed order.
#include "head_chunk.h"

#include "split_streams.h"
#include "threads.h"

#include <cmath>
#include <limits>

namespace fu {
namespace {

constexpr int64_t kPackedDepth = 512;  // a block of W of it fits the second cache beside the block's logits

}  // namespace

template <class T>
HeadChunk<T>::HeadChunk(const HeadProblem& problem, const HeadPlan& plan, const GemmTable<T>& gemm,
                        const GemmTable<T>& forward, const CrossEntropyTable<T>& table, int threads)
    : p_(problem), plan_(plan), g_(gemm), f_(forward), t_(table), threads_(threads),
      blocks_((problem.vocabulary + plan.block - 1) / plan.block),
      wide_(std::max(whole(problem.width), (problem.width + gemm.nr - 1) / gemm.nr * gemm.nr)) {
    const int64_t lines = 1 + plan_.streams, tokens = plan_.tokens;
    const int64_t strips = std::max<int64_t>(1, (p_.width + 64) / 128);
    strip_ = whole(std::max<int64_t>(1, (p_.width + strips - 1) / strips));
    left_size_ = plan_.block * std::min(kPackedDepth, p_.width) + kPackSlack;
    if (values_only()) left_size_ += lines * tokens * plan_.block;
    if (p_.gx || p_.hx) left_size_ = std::max(left_size_, lines * (strip_ * kDepth + kPackSlack));
    left_size_ = (left_size_ + 15) / 16 * 16;
    left_ = scratch<T>(threads_ * left_size_);
    columns_ = scratch<T>(lines * tokens * p_.width);
    if (p_.weight_out) rows_ = scratch<T>(lines * tokens * wide_);
    if (p_.gx || p_.hx) outputs_ = scratch<T>(lines * tokens * wide_);
    if (!values_only()) logits_ = scratch<T>(lines * tokens * whole(p_.vocabulary));
    labels_.resize(size_t(tokens));
    largest_.resize(size_t(tokens * blocks_));
    sum_.resize(size_t(tokens * blocks_));
    dots_.resize(size_t(tokens * blocks_ * plan_.streams));
    merged_.resize(size_t(tokens * plan_.streams));
    for (std::vector<T>* all : {&weights_, &top_, &share_, &chosen_, &label_share_}) all->resize(size_t(tokens));
    for (std::vector<T>* all : {&mean_, &chosen_t_}) all->resize(size_t(tokens * plan_.streams));
}

template <class T>
void HeadChunk<T>::run(int64_t first, int64_t tokens) {
    first_ = first;
    tokens_ = tokens;
    panels_ = (tokens + g_.nr - 1) / g_.nr;
    std::copy_n(p_.labels + first, tokens, labels_.begin());
    std::fill(labels_.begin() + tokens, labels_.end(), int64_t(-1));
    if (p_.token_weights) std::copy_n(static_cast<const T*>(p_.token_weights) + first, tokens, weights_.begin());
    std::fill(weights_.begin() + tokens, weights_.end(), T(0));
    pack_inputs(0, 1, 0);
    int begin = 0;
    do {
        const Group group = {begin, std::min(plan_.streams, p_.streams - begin), begin == 0};
        split_tangents(group);
        if (!p_.xt.empty()) pack_inputs(1, 1 + group.count, group.begin);
#pragma omp parallel for num_threads(threads_) schedule(dynamic, 1)
        for (int64_t block = 0; block < blocks_; ++block)
            first_block(group, block, left_.get() + this_thread() * left_size_);
#pragma omp parallel for num_threads(threads_) schedule(static)
        for (int64_t panel = 0; panel < panels_; ++panel) merge(group, panel);
        if (!values_only()) second_sweep(group);
        begin += plan_.streams;
    } while (begin < p_.streams);
}

// The group's Wt, each in one piece: the columns of one matrix are taken apart once for all tokens of the chunk.
template <class T>
void HeadChunk<T>::split_tangents(const Group& group) {
    if (p_.weight_t.empty()) return;
    weight_t_.assign(p_.weight_t.begin() + group.begin, p_.weight_t.begin() + group.begin + group.count);
    const GemmMatrix first = weight_t_[0];
    const int64_t size = p_.vocabulary * p_.width, bytes = first.dtype == kFloat64   ? 8
                                                           : first.dtype == kFloat32 ? 4
                                                                                     : 2;
    bool beside =
        group.count > 1 && first.depth_stride >= group.count && first.row_stride == first.depth_stride * p_.width;
    for (int i = 0; i < group.count; ++i) {
        const GemmMatrix& one = weight_t_[size_t(i)];
        beside = beside && one.data == static_cast<const char*>(first.data) + i * bytes &&
                 one.row_stride == first.row_stride && one.depth_stride == first.depth_stride;
    }
    if (!beside) return;
    if (!tangents_) tangents_ = scratch<char>(plan_.streams * size * bytes);
    split_streams(first.data, size, first.depth_stride, group.count, bytes, tangents_.get(), threads_);
    for (int i = 0; i < group.count; ++i)
        weight_t_[size_t(i)] = {tangents_.get() + i * size * bytes, p_.width, 1, first.dtype};
}

// Lines [from, to) of the packed inputs: 0 is x, line i > 0 is xt of stream + i - 1.
template <class T>
void HeadChunk<T>::pack_inputs(int from, int to, int stream) {
    const int64_t panels = (p_.width + g_.nr - 1) / g_.nr;
    const auto source = [&](int line) { return line ? p_.xt[size_t(stream + line - 1)] : p_.x; };
#pragma omp parallel num_threads(threads_)
    {
#pragma omp for schedule(static)
        for (int64_t task = from * panels_; task < to * panels_; ++task) {
            const int64_t token = task % panels_ * g_.nr;
            const GemmMatrix& x = source(int(task / panels_));
            f_.pack(x.dtype, element(x, first_ + token, 0), x.row_stride, x.depth_stride,
                    std::min<int64_t>(g_.nr, tokens_ - token), p_.width, g_.nr,
                    columns(int(task / panels_), task % panels_));
        }
#pragma omp for schedule(static)
        for (int64_t task = from * panels; task < (p_.weight_out ? to * panels : 0); ++task) {
            const int64_t at = task % panels * g_.nr;
            const GemmMatrix& x = source(int(task / panels));
            T* packed = rows(int(task / panels)) + at * plan_.tokens;
            g_.pack(x.dtype, element(x, first_, at), x.depth_stride, x.row_stride,
                    std::min<int64_t>(g_.nr, p_.width - at), tokens_, g_.nr, packed);
            for (int64_t n = 0; n < tokens_; ++n)
                for (int64_t i = 0; i < g_.nr; ++i) *packed++ *= weights_[size_t(n)];
        }
    }
}

// Lines [from, to) of the block's tiles get the product of `weight` with their own inputs, or all with x.
template <class T>
void HeadChunk<T>::multiply(const GemmMatrix& weight, int64_t block, int from, int to, bool primal, bool add, T* left,
                            T* own) {
    const int64_t row = block * plan_.block, count = rows_of(block);
    for (int64_t k0 = 0; k0 < p_.width; k0 += kPackedDepth) {
        const int64_t k1 = std::min(p_.width, k0 + kPackedDepth);
        for (int64_t k = k0; k < k1; k += kDepth)
            f_.pack(weight.dtype, element(weight, row, k), weight.row_stride, weight.depth_stride, count,
                    std::min(kDepth, k1 - k), f_.mr, left + f_.length(k - k0) * whole(count));
        for (int64_t panel = 0; panel < panels_; ++panel)
            for (int line = from; line < to; ++line)
                for (int64_t k = k0; k < k1; k += kDepth)
                    f_.product(left + f_.length(k - k0) * whole(count), count,
                               columns(primal ? 0 : line, panel) + f_.length(k) * f_.nr, f_.nr,
                               std::min(kDepth, k1 - k), tile(line, row, panel, own), f_.nr, add || k > 0);
    }
}

template <class T>
LogitTile<T> HeadChunk<T>::logit_tile(const Group& group, int64_t block, int64_t panel, int64_t* labels, T* own) const {
    const int64_t row = block * plan_.block;
    for (int64_t n = 0; n < g_.nr; ++n) labels[n] = labels_[size_t(panel * g_.nr + n)] - row;
    T* const z = tile(0, row, panel, own);
    const T* const bias = static_cast<const T*>(p_.bias);
    const T* const bias_t = static_cast<const T*>(p_.bias_t);
    return {z,
            tile(1, row, panel, own),
            tile(1, row, panel, own) - z,
            group.count,
            rows_of(block),
            labels,
            bias ? bias + row : nullptr,
            bias_t ? bias_t + group.begin * p_.vocabulary + row : nullptr,
            p_.vocabulary,
            T(p_.softcap),
            T(p_.logit_scale)};
}

template <class T>
void HeadChunk<T>::first_block(const Group& group, int64_t block, T* left) {
    const int64_t row = block * plan_.block, count = rows_of(block);
    T* const own = values_only() ? left + plan_.block * std::min(kPackedDepth, p_.width) + kPackSlack : nullptr;
    const bool moved = !p_.xt.empty() && p_.width > 0, turned = !p_.weight_t.empty() && p_.width > 0;
    for (int line = group.first ? 0 : 1; line <= group.count; ++line)
        for (int64_t panel = 0; panel < panels_; ++panel) {
            T* const to = tile(line, row, panel, own);
            if (line ? !moved && !turned : p_.width == 0) std::fill_n(to, count * g_.nr, T(0));
            std::fill(to + count * g_.nr, to + whole(count) * g_.nr, T(0));  // read by whole micro-tiles, for nothing
        }
    multiply(p_.weight, block, group.first ? 0 : 1, moved ? 1 + group.count : 1, false, false, left, own);
    for (int i = 0; turned && i < group.count; ++i)
        multiply(weight_t_[size_t(i)], block, 1 + i, 2 + i, true, moved, left, own);
    for (int64_t panel = 0; panel < panels_; ++panel) {
        int64_t labels[kMostPanel];
        const LogitTile<T> logits = logit_tile(group, block, panel, labels, own);
        const int64_t at = panel * g_.nr;
        const TileSums<T> sums = {
            line(largest_, block) + at, line(sum_, block) + at, line(dots_, block * plan_.streams) + at,
            chosen_.data() + at,        chosen_t_.data() + at,  plan_.tokens};
        if (group.first) t_.soften(logits, sums);
        t_.tangents(logits, sums);
    }
}

// Softmax statistics of the panel's tokens over the whole vocabulary, and their values.
template <class T>
void HeadChunk<T>::merge(const Group& group, int64_t panel) {
    const int64_t begin = panel * g_.nr, end = begin + g_.nr;
    double most[kMostPanel], total[kMostPanel] = {};
    for (int i = 0; i < group.count; ++i) std::fill_n(merged_.data() + i * plan_.tokens + begin, g_.nr, 0.0);
    std::fill_n(most, g_.nr, -std::numeric_limits<double>::infinity());
    for (int64_t b = 0; group.first && b < blocks_; ++b)
        for (int64_t n = begin; n < end; ++n) most[n - begin] = std::max(most[n - begin], double(line(largest_, b)[n]));
    for (int64_t b = 0; b < blocks_; ++b)
        for (int64_t n = begin; n < end; ++n) {
            // Of a later group, z is g already, and the sum of g zt is what is looked for.
            const double factor = group.first ? std::exp(double(line(largest_, b)[n]) - most[n - begin]) : 1.0;
            if (group.first) total[n - begin] += factor * double(line(sum_, b)[n]);
            for (int i = 0; i < group.count; ++i)
                merged_[size_t(i * plan_.tokens + n)] += factor * double(line(dots_, b * plan_.streams + i)[n]);
            if (group.first) line(largest_, b)[n] = T(factor);
        }
    const double scale = capped() ? 1.0 : p_.logit_scale;
    for (int64_t n = begin; group.first && n < end; ++n) {
        top_[size_t(n)] = T(most[n - begin]);
        share_[size_t(n)] = T(1.0 / total[n - begin]);
        for (int64_t b = 0; b < blocks_; ++b) line(largest_, b)[n] *= T(scale / total[n - begin]);
        if (n < tokens_)
            static_cast<T*>(p_.nll)[first_ + n] =
                T(most[n - begin] - double(chosen_[size_t(n)]) + std::log(total[n - begin]));
    }
    for (int i = 0; i < group.count; ++i)
        for (int64_t n = begin; n < std::min(end, tokens_); ++n) {
            const double dot = merged_[size_t(i * plan_.tokens + n)] * (group.first ? scale / total[n - begin] : 1.0);
            const double chosen = line(chosen_t_, i)[n];
            const bool subtracted = !group.first && second_order();
            line(mean_, i)[n] = T(subtracted ? dot + chosen : dot);
            static_cast<T*>(p_.nll_t)[(group.begin + i) * p_.tokens + first_ + n] = T(subtracted ? dot : dot - chosen);
        }
}

template class HeadChunk<float>;
template class HeadChunk<double>;

}  // namespace fu
