#include <string>
#include <tuple>

#include "gated_mlp.h"
#include "module.h"

namespace {

using StreamTuple = std::tuple<std::uintptr_t, int64_t, int64_t>;  // address (0: none), tangent stride, row stride
using Sizes = std::tuple<int64_t, int64_t, int64_t>;               // rows, columns, K

fu::RowStream stream(const StreamTuple& s) { return {fu::at<void>(std::get<0>(s)), std::get<1>(s), std::get<2>(s)}; }

using Inputs = std::tuple<StreamTuple, StreamTuple, StreamTuple, StreamTuple>;  // gate, up, gate_t, up_t

fu::GatedProblem problem(int dtype, int kind, const Sizes& sizes, const Inputs& in) {
    return {dtype,
            kind,
            std::get<0>(sizes),
            std::get<1>(sizes),
            std::get<2>(sizes),
            stream(std::get<0>(in)),
            stream(std::get<1>(in)),
            stream(std::get<2>(in)),
            stream(std::get<3>(in))};
}

const fu::Bindings bindings([](pybind11::module_& m) {
    m.def("gated_forward", [](const std::string& isa, int dtype, int kind, const Sizes& sizes, const Inputs& in,
                              const StreamTuple& y, const StreamTuple& yt, int threads) {
        pybind11::gil_scoped_release release;
        fu::gated_forward(isa, problem(dtype, kind, sizes, in), stream(y), stream(yt), threads);
    });
    m.def("gated_backward",
          [](const std::string& isa, int dtype, int kind, const Sizes& sizes, const Inputs& in, const StreamTuple& g,
             const StreamTuple& h, const StreamTuple& g_gate, const StreamTuple& g_up, const StreamTuple& h_gate,
             const StreamTuple& h_up, int threads) {
              pybind11::gil_scoped_release release;
              fu::gated_backward(isa, problem(dtype, kind, sizes, in), stream(g), stream(h), stream(g_gate),
                                 stream(g_up), stream(h_gate), stream(h_up), threads);
          });
});

}  // namespace
