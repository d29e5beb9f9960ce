// Softmax attention and its dual (derivation: fastunlearn/ops/attention/README.md), tile by tile: no S x T matrix.
#pragma once

#include <cstdint>
#include <string>

namespace fu {

// An input of four or five axes (K, batch, head, row, column). Columns are contiguous; strides are in elements.
// data is null where a tangent is zero.
struct AttentionTensor {
    const void* data;
    int64_t tangent, batch, head, row;  // strides
};

// s = softcap(scale q.k) + slope (j - i) + mask, then -inf where causal or window say so.
struct AttentionScores {
    double scale;
    double softcap;  // 0: none
    bool causal;     // only j <= i
    int64_t window;  // only j > i - window; 0: none
    int mask;        // 0: none; 1: bool, 0 is masked; 2: added, float (double for float64 problems)
    const void* mask_data;
    int64_t mask_strides[4];  // batch, head, query, key; 0 where it broadcasts
    const void* slopes;       // one per head, float (double for float64 problems), or null
};

struct AttentionProblem {
    int dtype;  // of all inputs: kFloat32, kFloat64, kBFloat16, kFloat16
    int64_t batch, heads, groups, queries, keys, size, value_size;
    int64_t tangents;  // K
    AttentionTensor q, k, v, qt, kt, vt;
    AttentionScores scores;
};

// Outputs are contiguous, float (double for float64 problems), and are overwritten.
struct AttentionForward {
    void* o;       // (batch, heads, queries, value_size)
    void* ot;      // (K, ...) as o; null for the primal alone
    void* lse;     // (batch, heads, queries)
    void* mean_t;  // (K, batch, heads, queries); null for the primal alone
    void* rest;    // as lse: what rounding took from it
};

// The dual backward; or else K ordinary backwards, of h: then tangents, ot, g, mean_t, gq, gk and gv are not used.
struct AttentionBackward {
    bool dual;
    AttentionTensor o, ot, g, h;
    const void* lse;
    const void* mean_t;
    const void* rest;    // null: taken as 0
    void *gq, *gk, *gv;  // like q, k, v
    void *hq, *hk, *hv;  // the same with K in front
};

// Results do not depend on the number of threads. Both throw std::invalid_argument on impossible sizes and on an
// instruction set that is not live.
void attention_forward(const std::string& isa, const AttentionProblem& problem, const AttentionForward& out,
                       int threads);
void attention_backward(const std::string& isa, const AttentionProblem& problem, const AttentionBackward& io,
                        int threads);

}  // namespace fu
