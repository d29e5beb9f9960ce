// The op that does nothing: copy null.h and null.cpp to start a CPU op (csrc/README.md).
#pragma once

#include <cstdint>

namespace fu {

// to[i] = from[i] for i in [0, count). Throws std::invalid_argument on a negative count or a missing pointer.
void null(const float* from, float* to, int64_t count, int threads);

}  // namespace fu
