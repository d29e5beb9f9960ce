// The second sweep over the vocabulary: tiles become adjoints in place and go into weight_out, gx and hx.
//
// Within a super-block first every block's adjoints are made and multiplied with the inputs, while they are in the
// second cache, into the block's own rows of weight_out; then, from the third cache, they go into the inputs' adjoints,
// whose tasks are strips of the width. Nothing is added by two tasks to one place.
#include "head_chunk.h"
#include "threads.h"

namespace fu {

template <class T>
void HeadChunk<T>::second_sweep(const Group& group) {
    const bool inputs = (group.first && p_.gx) || p_.hx;
    const int64_t step = inputs ? plan_.super / plan_.block : blocks_;
    const int64_t strips = (p_.width + strip_ - 1) / strip_;
    const int64_t shares = std::min(panels_, (threads_ + strips - 1) / std::max<int64_t>(1, strips));
    for (int64_t begin = 0; begin < blocks_; begin += step) {
#pragma omp parallel num_threads(threads_)
        {
#pragma omp for schedule(dynamic, 1)
            for (int64_t block = begin; block < std::min(blocks_, begin + step); ++block) second_block(group, block);
#pragma omp for schedule(dynamic, 1)
            for (int64_t task = 0; task < (inputs ? strips * shares : 0); ++task) {
                const int64_t share = task / strips;
                add_inputs(group, begin * plan_.block, task % strips * strip_, share * panels_ / shares,
                           (share + 1) * panels_ / shares, left_.get() + this_thread() * left_size_);
            }
        }
    }
    if (inputs) write_inputs(group);
}

template <class T>
void HeadChunk<T>::second_block(const Group& group, int64_t block) {
    for (int64_t panel = 0; panel < panels_; ++panel) {
        int64_t labels[kMostPanel];
        const int64_t at = panel * g_.nr;
        const TokenFactors<T> factors = {top_.data() + at,
                                         (capped() ? share_.data() : line(largest_, block)) + at,
                                         mean_.data() + at,
                                         chosen_t_.data() + at,
                                         label_share_.data() + at,
                                         plan_.tokens,
                                         group.first,
                                         p_.mode != HeadMode::kGgn,
                                         second_order()};
        t_.adjoints(logit_tile(group, block, panel, labels, nullptr), factors);
    }
    const bool gradient = p_.mode == HeadMode::kGradient;
    for (int line = gradient ? 0 : 1; line <= group.count; ++line) {
        if (p_.weight_out) add_weights(group, block, line);
        const int64_t row = block * plan_.block, stream = gradient ? 0 : group.begin + line - 1;
        if (!p_.bias_out) continue;
        T* const sums = static_cast<T*>(p_.bias_out) + stream * p_.bias_out_stride + row;
        for (int64_t panel = 0; panel < panels_; ++panel)
            t_.add_tokens(tile(line, row, panel), rows_of(block), weights_.data() + panel * g_.nr, sums);
    }
}

// weight_out += h^T x + g^T xt for the block's rows; of a gradient, g^T x.
template <class T>
void HeadChunk<T>::add_weights(const Group& group, int64_t block, int line) {
    const int64_t row = block * plan_.block, stride = room(row) * g_.nr;
    const int64_t stream = line ? group.begin + line - 1 : 0;
    T* const out = static_cast<T*>(p_.weight_out) + stream * p_.weight_out_stride + row * p_.width;
    for (int64_t column = 0; column < p_.width; column += g_.nr)
        for (int term = 0; term < (crossed_inputs() ? 2 : 1); ++term)
            for (int64_t token = 0; token < tokens_; token += kDepth)
                g_.product_tiles(tile(term ? 0 : line, row, token / g_.nr), stride, rows_of(block),
                                 rows(term ? line : 0) + column * plan_.tokens + token * g_.nr,
                                 std::min<int64_t>(g_.nr, p_.width - column), std::min(kDepth, tokens_ - token),
                                 out + column, p_.width);
}

// gx += g W and hx += h W + g Wt over a super-block of the vocabulary: rows [strip, strip + strip_) of the width,
// panels [from, to) of the tokens.
template <class T>
void HeadChunk<T>::add_inputs(const Group& group, int64_t top, int64_t strip, int64_t from, int64_t to, T* left) {
    const int64_t count = std::min(strip_, p_.width - strip), size = strip_ * kDepth + kPackSlack;
    const int64_t end = std::min(p_.vocabulary, top + plan_.super);
    const int crossed = crossed_weights() && p_.hx ? group.count : 0;
    for (int64_t row = top; row < end; row += kDepth) {
        const int64_t depth = std::min(kDepth, end - row);
        for (int i = 0; i <= crossed; ++i) {
            const GemmMatrix& w = i ? weight_t_[size_t(i - 1)] : p_.weight;
            g_.pack(w.dtype, element(w, row, strip), w.depth_stride, w.row_stride, count, depth, g_.mr,
                    left + i * size);
        }
        for (int64_t panel = from; panel < to; ++panel) {
            const auto add = [&](int weight, int adjoint, int line, bool more) {
                g_.product(left + weight * size, count, tile(adjoint, row, panel), g_.nr, depth,
                           output(line, panel) + strip * g_.nr, g_.nr, more);
            };
            if (group.first && p_.gx) add(0, 0, 0, row > 0);
            for (int line = 1; p_.hx && line <= group.count; ++line) {
                add(0, line, line, row > 0);
                if (crossed) add(line, 0, line, true);
            }
        }
    }
}

// From tiles to rows, with the tokens' weights.
template <class T>
void HeadChunk<T>::write_inputs(const Group& group) {
    const int lines = p_.hx ? 1 + group.count : 1;
#pragma omp parallel for num_threads(threads_) schedule(static)
    for (int64_t task = 0; task < lines * panels_; ++task) {
        const int64_t line = task / panels_, begin = task % panels_ * g_.nr;
        T* const all = line          ? static_cast<T*>(p_.hx) + (group.begin + line - 1) * p_.tokens * p_.width
                       : group.first ? static_cast<T*>(p_.gx)
                                     : nullptr;
        const T* const from = output(int(line), task % panels_);
        for (int64_t n = begin; all && n < std::min(tokens_, begin + g_.nr); ++n)
            for (int64_t i = 0; i < p_.width; ++i)
                all[(first_ + n) * p_.width + i] = from[i * g_.nr + n - begin] * weights_[size_t(n)];
    }
}

template class HeadChunk<float>;
template class HeadChunk<double>;

}  // namespace fu
