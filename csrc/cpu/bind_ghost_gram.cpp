#include <string>
#include <tuple>

#include "ghost_gram.h"
#include "module.h"

namespace {

using fu::at;

// (x address, x row stride, g address, g row stride, offsets address, samples, tokens)
using SideTuple = std::tuple<std::uintptr_t, int64_t, std::uintptr_t, int64_t, std::uintptr_t, int64_t, int64_t>;

fu::GramSide side_of(const SideTuple& s) {
    return {at<const void>(std::get<0>(s)),
            std::get<1>(s),
            at<const void>(std::get<2>(s)),
            std::get<3>(s),
            at<const int64_t>(std::get<4>(s)),
            std::get<5>(s),
            std::get<6>(s)};
}

const fu::Bindings bindings([](pybind11::module_& m) {
    m.def("ghost_gram",
          [](const std::string& isa, int dtype, int64_t d_in, int64_t d_out, const SideTuple& first,
             const SideTuple& second, bool symmetric, bool bias, std::uintptr_t out, int64_t out_stride, int threads) {
              const fu::GramProblem problem = {dtype,     d_in, d_out,         side_of(first), side_of(second),
                                               symmetric, bias, at<void>(out), out_stride};
              pybind11::gil_scoped_release release;
              fu::ghost_gram(isa, problem, threads);
          });
});

}  // namespace
