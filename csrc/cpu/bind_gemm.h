// Matrices as Python passes them: (address, row stride, depth stride, dtype).
#pragma once

#include <tuple>

#include "gemm.h"
#include "module.h"

namespace fu {

using MatrixTuple = std::tuple<std::uintptr_t, int64_t, int64_t, int>;

inline GemmMatrix matrix_of(const MatrixTuple& m) {
    return {at<const void>(std::get<0>(m)), std::get<1>(m), std::get<2>(m), std::get<3>(m)};
}

}  // namespace fu
