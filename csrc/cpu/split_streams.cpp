// Reads every line of memory once: a piece that fits the first cache is read stream by stream.
#include "split_streams.h"

#include <algorithm>
#include <stdexcept>

namespace fu {
namespace {

constexpr int64_t kPieceBytes = 16 << 10;

template <class T>
void split(const T* from, int64_t count, int64_t stride, int streams, T* to, int threads) {
    const int64_t piece = std::max<int64_t>(16, kPieceBytes / (stride * int64_t(sizeof(T))) / 16 * 16);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t begin = 0; begin < count; begin += piece) {
        const int64_t end = std::min(count, begin + piece);
        for (int k = 0; k < streams; ++k) {
            const T* source = from + k;
            T* target = to + k * count;
            for (int64_t i = begin; i < end; ++i) target[i] = source[i * stride];
        }
    }
}

}  // namespace

void split_streams(const void* from, int64_t count, int64_t stride, int streams, int64_t bytes, void* to, int threads) {
    if (bytes == 2)
        split(static_cast<const uint16_t*>(from), count, stride, streams, static_cast<uint16_t*>(to), threads);
    else if (bytes == 4)
        split(static_cast<const uint32_t*>(from), count, stride, streams, static_cast<uint32_t*>(to), threads);
    else if (bytes == 8)
        split(static_cast<const uint64_t*>(from), count, stride, streams, static_cast<uint64_t*>(to), threads);
    else
        throw std::invalid_argument("elements of 2, 4 or 8 bytes");
}

}  // namespace fu
