#include <array>
#include <string>

#include "low_rank_apply.h"
#include "module.h"

namespace {

using fu::at;

template <void (*kApply)(const std::string&, const fu::LowRankProblem&, const float*, float*, int)>
void apply(const std::string& isa, int stored, std::uintptr_t g, std::uintptr_t scales,
           const std::array<int64_t, 4>& sizes, std::uintptr_t from, std::uintptr_t to, int threads) {
    const fu::LowRankProblem problem = {stored,   at<const void>(g), at<const float>(scales), sizes[0], sizes[1],
                                        sizes[2], sizes[3]};
    pybind11::gil_scoped_release release;
    kApply(isa, problem, at<const float>(from), at<float>(to), threads);
}

const fu::Bindings bindings([](pybind11::module_& m) {
    m.def("low_rank_dot", &apply<fu::low_rank_dot>);
    m.def("low_rank_combine", &apply<fu::low_rank_combine>);
});

}  // namespace
