// Streams that lie element by element beside each other, as the columns of a matrix do, taken apart.
#pragma once

#include <cstdint>

namespace fu {

// to[k * count + i] = from[i * stride + k] for i < count and k < streams; elements of 2, 4 or 8 bytes.
// Throws std::invalid_argument on another size.
void split_streams(const void* from, int64_t count, int64_t stride, int streams, int64_t bytes, void* to, int threads);

}  // namespace fu
