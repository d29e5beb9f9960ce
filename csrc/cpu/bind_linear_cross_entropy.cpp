#include <string>
#include <vector>

#include "bind_gemm.h"
#include "linear_cross_entropy.h"

namespace {

using fu::at;
using fu::MatrixTuple;

std::vector<fu::GemmMatrix> matrices_of(const std::vector<MatrixTuple>& all) {
    std::vector<fu::GemmMatrix> found;
    found.reserve(all.size());
    for (const MatrixTuple& one : all) found.push_back(fu::matrix_of(one));
    return found;
}

const fu::Bindings bindings([](pybind11::module_& m) {
    m.def("linear_cross_entropy",
          [](const std::string& isa, int mode, bool wide, int64_t tokens, int64_t width, int64_t vocabulary,
             int streams, const MatrixTuple& x, const std::vector<MatrixTuple>& xt, const MatrixTuple& weight,
             const std::vector<MatrixTuple>& weight_t, std::uintptr_t labels, std::uintptr_t token_weights,
             std::uintptr_t bias, std::uintptr_t bias_t, double softcap, double logit_scale, std::uintptr_t nll,
             std::uintptr_t nll_t, std::uintptr_t gx, std::uintptr_t hx, std::uintptr_t weight_out,
             int64_t weight_out_stride, std::uintptr_t bias_out, int64_t bias_out_stride, int64_t logit_bytes,
             int threads) {
              const fu::HeadProblem problem = {fu::HeadMode(mode),
                                               wide,
                                               tokens,
                                               width,
                                               vocabulary,
                                               streams,
                                               fu::matrix_of(x),
                                               matrices_of(xt),
                                               fu::matrix_of(weight),
                                               matrices_of(weight_t),
                                               at<const int64_t>(labels),
                                               at<const void>(token_weights),
                                               at<const void>(bias),
                                               at<const void>(bias_t),
                                               softcap,
                                               logit_scale,
                                               at<void>(nll),
                                               at<void>(nll_t),
                                               at<void>(gx),
                                               at<void>(hx),
                                               at<void>(weight_out),
                                               weight_out_stride,
                                               at<void>(bias_out),
                                               bias_out_stride,
                                               logit_bytes};
              pybind11::gil_scoped_release release;
              fu::linear_cross_entropy(isa, problem, threads);
          });
});

}  // namespace
