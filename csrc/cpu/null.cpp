#include "null.h"

#include <stdexcept>

namespace fu {

void null(const float* from, float* to, int64_t count, int threads) {
    if (count < 0) throw std::invalid_argument("count must not be negative");
    if (count > 0 && (from == nullptr || to == nullptr)) throw std::invalid_argument("from and to must be given");
    if (threads < 1) throw std::invalid_argument("threads must be at least 1");
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t i = 0; i < count; ++i) to[i] = from[i];
}

}  // namespace fu
