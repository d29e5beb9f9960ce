#include <string>
#include <tuple>

#include "module.h"
#include "norm.h"

namespace {

using Address = std::uintptr_t;
using StreamTuple = std::tuple<Address, int64_t, int64_t>;  // address (0: none), tangent stride, row stride

fu::NormStream stream(const StreamTuple& s) { return {fu::at<void>(std::get<0>(s)), std::get<1>(s), std::get<2>(s)}; }

fu::NormProblem problem(int dtype, const std::tuple<int64_t, int64_t, int64_t>& sizes, bool center, double eps,
                        const std::tuple<Address, Address, Address, Address>& channels, const StreamTuple& x,
                        const StreamTuple& xt) {
    const auto [rows, d, k] = sizes;
    const auto [scale, scale_t, bias, bias_t] = channels;
    return {dtype,
            rows,
            {center, eps, d, k, fu::at<const void>(scale), fu::at<const void>(scale_t), fu::at<const void>(bias),
             fu::at<const void>(bias_t), stream(x), stream(xt)}};
}

const fu::Bindings bindings([](pybind11::module_& m) {
    m.def("norm_forward",
          [](const std::string& isa, int dtype, const std::tuple<int64_t, int64_t, int64_t>& sizes, bool center,
             double eps, const std::tuple<Address, Address, Address, Address>& channels, const StreamTuple& x,
             const StreamTuple& xt, const StreamTuple& y, const StreamTuple& yt, int threads) {
              pybind11::gil_scoped_release release;
              const fu::NormProblem p = problem(dtype, sizes, center, eps, channels, x, xt);
              fu::norm_forward(isa, p, {stream(y), stream(yt)}, threads);
          });
    m.def("norm_backward", [](const std::string& isa, int dtype, const std::tuple<int64_t, int64_t, int64_t>& sizes,
                              bool center, double eps, const std::tuple<Address, Address, Address, Address>& channels,
                              const StreamTuple& x, const StreamTuple& xt, const StreamTuple& g, const StreamTuple& h,
                              const StreamTuple& gx, const StreamTuple& hx, Address weight_h, Address bias_h,
                              int threads) {
        pybind11::gil_scoped_release release;
        const fu::NormProblem p = problem(dtype, sizes, center, eps, channels, x, xt);
        fu::norm_backward(isa, p,
                          {stream(g), stream(h), stream(gx), stream(hx), fu::at<void>(weight_h), fu::at<void>(bias_h)},
                          threads);
    });
});

}  // namespace
