#include <array>
#include <string>

#include "module.h"
#include "rope.h"

static const fu::Bindings bindings([](pybind11::module_& m) {
    m.def("rope", [](const std::string& isa, int dtype, const std::array<int64_t, 6>& sizes, std::uintptr_t x,
                     const std::array<int64_t, 4>& strides, std::uintptr_t cos, std::uintptr_t sin, int64_t table_batch,
                     std::uintptr_t y, bool interleaved, bool inverse, int threads) {
        const fu::RopeProblem p = {dtype,
                                   sizes[0],
                                   sizes[1],
                                   sizes[2],
                                   sizes[3],
                                   sizes[4],
                                   sizes[5],
                                   fu::at<const void>(x),
                                   {strides[0], strides[1], strides[2], strides[3]},
                                   fu::at<const void>(cos),
                                   fu::at<const void>(sin),
                                   table_batch,
                                   fu::at<void>(y),
                                   interleaved,
                                   inverse};
        pybind11::gil_scoped_release release;
        fu::rope(isa, p, threads);
    });
});
