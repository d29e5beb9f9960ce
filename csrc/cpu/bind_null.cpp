#include "module.h"
#include "null.h"

static const fu::Bindings bindings([](pybind11::module_& m) {
    m.def("null", [](std::uintptr_t from, std::uintptr_t to, int64_t count, int threads) {
        pybind11::gil_scoped_release release;
        fu::null(fu::at<const float>(from), fu::at<float>(to), count, threads);
    });
});
