#include "attention_tiles.h"

#include <stdexcept>

#include "isa.h"

namespace fu {

FU_ISA_TABLES(AttentionKernels, attention_products)
FU_ISA_TABLES(SoftmaxKernels, attention_softmax)

template <>
AttentionKit<float>::AttentionKit(const std::string& isa)
    : products(attention_products_of(isa).products_f32), softmax(attention_softmax_of(isa).f32) {}
template <>
AttentionKit<double>::AttentionKit(const std::string& isa)
    : products(attention_products_of(isa).products_f64), softmax(attention_softmax_of(isa).f64) {}

void check_attention(const AttentionProblem& p, int threads) {
    if (threads < 1) throw std::invalid_argument("threads must be at least 1");
    if (p.dtype < kFloat32 || p.dtype > kFloat16) throw std::invalid_argument("unknown dtype");
    if (p.batch < 0 || p.queries < 0 || p.keys < 0 || p.size < 1 || p.value_size < 1)
        throw std::invalid_argument("sizes must not be negative, and heads need at least one column");
    if (p.groups < 1 || p.heads < 0 || p.heads % p.groups)
        throw std::invalid_argument("query heads must be a multiple of key heads");
    if (p.tangents < 0 || p.scores.window < 0) throw std::invalid_argument("tangents and window must not be negative");
}

namespace {

// How much of a part of the mask lets scores through as they are.
enum class Cover { kNone, kPart, kAll };

template <class M>
Cover cover(const M* mask, int64_t rows, int64_t columns, int64_t row_stride, int64_t column_stride, M none, M all) {
    bool any_none = false, any_all = false, any_other = false;
    for (int64_t r = 0; r < (row_stride ? rows : 1); ++r)
        for (int64_t c = 0; c < (column_stride ? columns : 1); ++c) {
            const M value = mask[r * row_stride + c * column_stride];
            any_none |= value == none;
            any_all |= value == all;
            any_other |= !(value == none || value == all);
        }
    return any_other || (any_none && any_all) ? Cover::kPart : any_none ? Cover::kNone : Cover::kAll;
}

int64_t mask_offset(const AttentionScores& s, const QueryBlock& block, int64_t key) {
    const int64_t* stride = s.mask_strides;
    return block.batch * stride[0] + block.head * stride[1] + block.first * stride[2] + key * stride[3];
}

}  // namespace

template <class T>
bool ScoreRule<T>::begin(const QueryBlock& block, int64_t key, int64_t keys) {
    if (!live(p_, block.first, block.rows, key, keys)) return false;
    use_bias_ = false;
    if (p_.mask == 0) return true;
    const int64_t offset = mask_offset(p_, block, key), *stride = p_.mask_strides;
    const Cover found = p_.mask == 1 ? cover<uint8_t>(static_cast<const uint8_t*>(p_.mask_data) + offset, block.rows,
                                                      keys, stride[2], stride[3], 0, 1)
                                     : cover<T>(static_cast<const T*>(p_.mask_data) + offset, block.rows, keys,
                                                stride[2], stride[3], -std::numeric_limits<T>::infinity(), 0);
    if (found == Cover::kNone) return false;
    use_bias_ = found == Cover::kPart;
    if (use_bias_) fill_bias(block, key, keys);
    return true;
}

template <class T>
void ScoreRule<T>::fill_bias(const QueryBlock& block, int64_t key, int64_t keys) const {
    const int64_t offset = mask_offset(p_, block, key), *stride = p_.mask_strides;
    constexpr T kMasked = -std::numeric_limits<T>::infinity();
    for (int64_t i = 0; i < block.rows; ++i)
        for (int64_t j = 0; j < keys; ++j) {
            const int64_t place = offset + i * stride[2] + j * stride[3];
            bias_[j * kTile + i] = p_.mask == 1 ? (static_cast<const uint8_t*>(p_.mask_data)[place] ? T(0) : kMasked)
                                                : static_cast<const T*>(p_.mask_data)[place];
        }
}

template <class T>
void ScoreRule<T>::apply(const AttentionSoftmax<T>& softmax, const QueryBlock& block, int64_t key, int64_t keys, T* s,
                         T* u) const {
    const T slope = p_.slopes ? static_cast<const T*>(p_.slopes)[block.head] : T(0);
    if (u || slope != 0 || use_bias_)
        softmax.shape({keys, block.rows}, s, u, T(p_.softcap), slope, key - block.first, use_bias_ ? bias_ : nullptr);
    const bool crosses_causal = p_.causal && key + keys - 1 > block.first;
    const bool crosses_window = p_.window && key <= block.first + block.rows - 1 - p_.window;
    if (!crosses_causal && !crosses_window) return;
    for (int64_t j = 0; j < keys; ++j) {
        const int64_t at = key + j - block.first;  // the query that stands where this key does
        T* row = s + j * kTile;
        const int64_t begin = p_.causal ? std::clamp<int64_t>(at, 0, block.rows) : 0;
        const int64_t end = p_.window ? std::clamp<int64_t>(at + p_.window, 0, block.rows) : block.rows;
        std::fill(row, row + begin, -std::numeric_limits<T>::infinity());
        std::fill(row + std::max(begin, end), row + block.rows, -std::numeric_limits<T>::infinity());
    }
}

template class ScoreRule<float>;
template class ScoreRule<double>;

}  // namespace fu
