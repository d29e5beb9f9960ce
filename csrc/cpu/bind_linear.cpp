#include <string>
#include <tuple>
#include <vector>

#include "bind_gemm.h"

namespace {

using fu::at;
using fu::MatrixTuple;

using TermTuple = std::tuple<MatrixTuple, int>;       // matrix, which right-hand side
using RightTuple = std::tuple<MatrixTuple, int64_t>;  // matrix, depth
// address, rows, row stride, accumulate, terms
using OutputTuple = std::tuple<std::uintptr_t, int64_t, int64_t, bool, std::vector<TermTuple>>;

const fu::Bindings bindings([](pybind11::module_& m) {
    m.def("gemm", [](const std::string& isa, bool wide, int64_t columns, const std::vector<RightTuple>& rights,
                     const std::vector<OutputTuple>& outputs, int mode, int threads) {
        fu::GemmProblem problem = {wide, columns, {}, {}, fu::GemmMode(mode)};
        for (const RightTuple& right : rights)
            problem.rights.push_back({fu::matrix_of(std::get<0>(right)), std::get<1>(right)});
        for (const OutputTuple& output : outputs) {
            fu::GemmOutput one = {
                at<void>(std::get<0>(output)), std::get<1>(output), std::get<2>(output), std::get<3>(output), {}};
            for (const TermTuple& term : std::get<4>(output))
                one.terms.push_back({fu::matrix_of(std::get<0>(term)), std::get<1>(term)});
            problem.outputs.push_back(one);
        }
        pybind11::gil_scoped_release release;
        fu::gemm(isa, problem, threads);
    });
    m.def("has_bfloat16_products", &fu::has_bfloat16_products);
});

}  // namespace
