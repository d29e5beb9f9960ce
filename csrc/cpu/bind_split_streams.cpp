#include "module.h"
#include "split_streams.h"

namespace {

using fu::at;

const fu::Bindings bindings([](pybind11::module_& m) {
    m.def("split_streams", [](std::uintptr_t from, int64_t count, int64_t stride, int streams, int64_t bytes,
                              std::uintptr_t to, int threads) {
        pybind11::gil_scoped_release release;
        fu::split_streams(at<const void>(from), count, stride, streams, bytes, at<void>(to), threads);
    });
});

}  // namespace
