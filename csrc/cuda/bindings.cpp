// Python module fastunlearn._cuda: addresses on the current device and a stream, no torch header. The CUDA
// runtime is linked in, so the module imports on a machine without a driver; calls then raise RuntimeError.
#include <pybind11/pybind11.h>

#include <cstdint>
#include <stdexcept>
#include <string>
#include <tuple>

#include <pybind11/stl.h>

#include "ghost_gram.h"
#include "null.h"

namespace py = pybind11;

namespace {

template <class T>
T* at(std::uintptr_t address) {
    return reinterpret_cast<T*>(address);
}

void check(cudaError_t status, const char* what) {
    if (status != cudaSuccess) throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(status));
}

void require(bool condition, const char* message) {
    if (!condition) throw std::invalid_argument(message);
}

// (x address, x row stride, g address, g row stride, owner address, samples, tokens)
using SideTuple = std::tuple<std::uintptr_t, int64_t, std::uintptr_t, int64_t, std::uintptr_t, int64_t, int64_t>;

fu::GramSide side_of(const SideTuple& s) {
    return {at<const void>(std::get<0>(s)), std::get<1>(s), at<const void>(std::get<2>(s)),
            std::get<3>(s), at<const int32_t>(std::get<4>(s)), std::get<5>(s), std::get<6>(s)};
}

}  // namespace

PYBIND11_MODULE(_cuda, m) {
    m.doc() = "CUDA kernels of fastunlearn";
    m.def("runtime_version", [] {
        int version = 0;
        check(cudaRuntimeGetVersion(&version), "cudaRuntimeGetVersion");
        return version;
    });
    m.def("null", [](std::uintptr_t from, std::uintptr_t to, int64_t count, std::uintptr_t stream) {
        require(count >= 0, "count must not be negative");
        require(count == 0 || (from != 0 && to != 0), "from and to must be given");
        check(fu::null(at<const float>(from), at<float>(to), count, reinterpret_cast<cudaStream_t>(stream)), "null");
    });
    m.def("ghost_gram", [](int dtype, int64_t d_in, int64_t d_out, const SideTuple& first, const SideTuple& second,
                           bool symmetric, bool bias, std::uintptr_t out, std::uintptr_t stream) {
        const fu::GramProblem problem = {dtype,     d_in, d_out, side_of(first), side_of(second),
                                         symmetric, bias, at<double>(out)};
        require(d_in >= 1 && d_out >= 1, "x and g need at least one column");
        for (const fu::GramSide* side : {&problem.first, &problem.second}) {
            require(side->tokens >= 0 && side->samples >= 0, "tokens and samples must not be negative");
            require(side->tokens <= fu::ghost_gram_most_tokens(),
                    "too many tokens in one call: split the samples over several calls");
            require(side->tokens == 0 || (side->x && side->g && side->owner), "x, g and owner must be given");
        }
        check(fu::ghost_gram(problem, reinterpret_cast<cudaStream_t>(stream)), "ghost_gram");
    });
}
