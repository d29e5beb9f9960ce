// The table of functions on tiles of logits that head_chunk.cpp drives (isa/cross_entropy_tiles.cpp).
#pragma once

#include <cstdint>

namespace fu {

constexpr int64_t kMostRows = 192;  // of a tile

// `rows` entries of the vocabulary by one panel of tokens: the tokens lie side by side, kPanel = 2 vectors of them.
template <class T>
struct LogitTile {
    T* z;   // a = W x, which becomes what the functions say
    T* zt;  // at, stream k at zt + k * stream_stride
    int64_t stream_stride;
    int streams;
    int64_t rows;
    const int64_t* labels;  // per token: the row of its label; outside [0, rows) where that is in another tile
    const T* bias;          // per row, or null
    const T* bias_t;        // stream k at bias_t + k * bias_stride, or null
    int64_t bias_stride;
    T softcap;  // 0: none
    T scale;
};

// Per token of the panel; those of streams have one line per stream, `stride` apart. Sums are over the tile's rows.
template <class T>
struct TileSums {
    T* largest;   // of z
    T* sum;       // of exp(z - largest)
    T* dots;      // of what the tile holds (see `soften`) times at
    T* chosen;    // z at the label, written where the label is in this tile
    T* chosen_t;  // its tangent, likewise
    int64_t stride;
};

template <class T>
struct TokenFactors {
    const T* largest;   // of z over the whole vocabulary (soft-cap only)
    const T* share;     // without a soft-cap: scale exp(largest of the tile - largest) / sum; with it 1 / sum
    const T* mean;      // <p, zt>, one line per stream
    const T* chosen_t;  // zt at the label, one line per stream
    T* label_share;     // scale p at the label: written where `fresh`, else read
    int64_t stride;
    bool fresh;     // z is as `soften` left it; else as an earlier call of `adjoints` did (no soft-cap)
    bool subtract;  // z becomes g, so that the label's 1 is subtracted; else scale p alone
    bool curved;    // h takes in the second derivative of the soft-cap
};

template <class T>
struct CrossEntropyTable {
    // z becomes exp(z - largest), or with a soft-cap its argument scale (a + bias) / softcap.
    void (*soften)(const LogitTile<T>& tile, const TileSums<T>& sums);

    // zt becomes at + bias_t. dots: of z (with a soft-cap: of exp(z - largest) phi') times at.
    void (*tangents)(const LogitTile<T>& tile, const TileSums<T>& sums);

    // z becomes g_a and zt becomes h_a, both without the tokens' weights.
    void (*adjoints)(const LogitTile<T>& tile, const TokenFactors<T>& factors);

    // to[r] += sum over the panel's tokens of weights * tile[r]
    void (*add_tokens)(const T* tile, int64_t rows, const T* weights, T* to);
};

struct CrossEntropyKernels {
    CrossEntropyTable<float> f32;
    CrossEntropyTable<double> f64;
};

}  // namespace fu
