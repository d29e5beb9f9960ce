// Python module fastunlearn._cpu. Tensors come as addresses, so no torch header is needed (and the module
// serves every torch version); shapes and dtypes were checked in Python, sizes are checked again here.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <string>
#include <tuple>

#include "ghost_gram.h"
#include "isa.h"
#include "null.h"

namespace py = pybind11;

namespace {

template <class T>
T* at(std::uintptr_t address) {
    return reinterpret_cast<T*>(address);
}

// (x address, x row stride, g address, g row stride, offsets address, samples, tokens)
using SideTuple = std::tuple<std::uintptr_t, int64_t, std::uintptr_t, int64_t, std::uintptr_t, int64_t, int64_t>;

fu::GramSide side_of(const SideTuple& s) {
    return {at<const void>(std::get<0>(s)), std::get<1>(s), at<const void>(std::get<2>(s)),
            std::get<3>(s), at<const int64_t>(std::get<4>(s)), std::get<5>(s), std::get<6>(s)};
}

}  // namespace

PYBIND11_MODULE(_cpu, m) {
    m.doc() = "CPU kernels of fastunlearn";
    m.def("live_isas", &fu::live_isas, "Instruction sets that this CPU runs, worst first");
    m.def("compiled_isas", &fu::compiled_isas, "Instruction sets that were compiled");
    m.def("openmp", [] {
#if defined(_OPENMP)
        return true;
#else
        return false;
#endif
    });
    m.def("null", [](std::uintptr_t from, std::uintptr_t to, int64_t count, int threads) {
        py::gil_scoped_release release;
        fu::null(at<const float>(from), at<float>(to), count, threads);
    });
    m.def("ghost_gram",
          [](const std::string& isa, int dtype, int64_t d_in, int64_t d_out, const SideTuple& first,
             const SideTuple& second, bool symmetric, bool bias, std::uintptr_t out, int64_t out_stride, int threads) {
              const fu::Kernels& kernels = fu::kernels_of(isa);
              const fu::GramProblem problem = {dtype, d_in, d_out, side_of(first), side_of(second), symmetric,
                                               bias, at<void>(out), out_stride};
              py::gil_scoped_release release;
              fu::ghost_gram(kernels, problem, threads);
          });
}
