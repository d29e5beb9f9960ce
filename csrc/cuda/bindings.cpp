// Python module fastunlearn._cuda: addresses on the current device and a stream, no torch header. The CUDA
// runtime is linked in, so the module imports on a machine without a driver; calls then raise RuntimeError.
#include <pybind11/pybind11.h>

#include <cstdint>
#include <stdexcept>
#include <string>
#include <tuple>

#include <pybind11/stl.h>

#include "explicit_rows.h"
#include "ghost_gram.h"
#include "null.h"
#include "small_cholesky.h"
#include "weighted_gradient.h"

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
    return {at<const void>(std::get<0>(s)),
            std::get<1>(s),
            at<const void>(std::get<2>(s)),
            std::get<3>(s),
            at<const int32_t>(std::get<4>(s)),
            std::get<5>(s),
            std::get<6>(s)};
}

cudaStream_t stream_at(std::uintptr_t address) { return reinterpret_cast<cudaStream_t>(address); }

// (dtype, address, row stride, rows, columns, scales address, group, blocks, block stride)
using RowsTuple = std::tuple<int, std::uintptr_t, int64_t, int64_t, int64_t, std::uintptr_t, int64_t, int64_t, int64_t>;

fu::ExplicitRows rows_of(const RowsTuple& t) {
    const fu::ExplicitRows g = {std::get<0>(t), at<const void>(std::get<1>(t)),  std::get<2>(t), std::get<3>(t),
                                std::get<4>(t), at<const float>(std::get<5>(t)), std::get<6>(t), std::get<7>(t),
                                std::get<8>(t)};
    require(g.count >= 0 && g.width >= 0 && g.blocks >= 0, "rows, columns and blocks must not be negative");
    require(g.rows || g.count == 0 || g.width == 0 || g.blocks == 0, "rows must be given");
    require(!g.scales || (g.group >= 16 && g.group % 16 == 0), "group must be a multiple of 16");
    return g;
}

void define_explicit_rows(py::module_& m) {
    m.def("rows_times_vector_parts", [](const RowsTuple& rows) { return fu::rows_times_vector_parts(rows_of(rows)); });
    m.def("rows_times_vector", [](const RowsTuple& rows, std::uintptr_t v, std::uintptr_t scratch, std::uintptr_t out,
                                  std::uintptr_t stream) {
        check(fu::rows_times_vector(rows_of(rows), at<const float>(v), at<float>(scratch), at<float>(out),
                                    stream_at(stream)),
              "rows_times_vector");
    });
    m.def("vector_times_rows",
          [](const RowsTuple& rows, std::uintptr_t coefficients, std::uintptr_t out, bool add, std::uintptr_t stream) {
              check(fu::vector_times_rows(rows_of(rows), at<const float>(coefficients), at<float>(out), add,
                                          stream_at(stream)),
                    "vector_times_rows");
          });
}

void define_small_cholesky(py::module_& m) {
    m.def("small_cholesky_most", &fu::small_cholesky_most);
    m.def("small_cholesky_solve", [](int dtype, std::uintptr_t a, std::uintptr_t rhs, std::uintptr_t info, double shift,
                                     int64_t count, int64_t size, int64_t columns, std::uintptr_t stream) {
        require(count >= 0 && size >= 1 && columns >= 1, "count, size and columns are out of range");
        require(count < (int64_t(1) << 31), "too many systems in one call");
        require(size <= fu::small_cholesky_most(dtype), "the systems are too large for shared memory");
        require(count == 0 || (a && rhs && info), "a, rhs and info must be given");
        check(fu::small_cholesky_solve(dtype, at<const void>(a), at<void>(rhs), at<int32_t>(info), shift, count, size,
                                       columns, stream_at(stream)),
              "small_cholesky_solve");
    });
}

void define_weighted_gradient(py::module_& m) {
    m.def("weighted_gradient", [](int dtype, std::uintptr_t x, int64_t x_stride, std::uintptr_t g, int64_t g_stride,
                                  std::uintptr_t weights, std::uintptr_t unit, std::uintptr_t out, int64_t out_stride,
                                  int64_t tokens, int64_t d_in, int64_t d_out, std::uintptr_t stream) {
        require(tokens >= 0 && d_in >= 0 && d_out >= 0, "tokens and widths must not be negative");
        require(tokens == 0 || d_in == 0 || d_out == 0 || (x && g && out), "x, g and out must be given");
        const fu::WeightedGradient problem = {dtype,
                                              at<const void>(x),
                                              x_stride,
                                              at<const void>(g),
                                              g_stride,
                                              at<const void>(weights),
                                              at<const float>(unit),
                                              at<void>(out),
                                              out_stride,
                                              tokens,
                                              d_in,
                                              d_out};
        check(fu::weighted_gradient(problem, stream_at(stream)), "weighted_gradient");
    });
}

}  // namespace

PYBIND11_MODULE(_cuda, m) {
    m.doc() = "CUDA kernels of fastunlearn";
    m.def("runtime_version", [] {
        int version = 0;
        check(cudaRuntimeGetVersion(&version), "cudaRuntimeGetVersion");
        return version;
    });
    // "" where there is a device; else why not, in CUDA's words: a driver that is older than this runtime, say.
    m.def("why_no_device", [] {
        int count = 0;
        const cudaError_t status = cudaGetDeviceCount(&count);
        return std::string(status == cudaSuccess ? "" : cudaGetErrorString(status));
    });
    m.def("null", [](std::uintptr_t from, std::uintptr_t to, int64_t count, std::uintptr_t stream) {
        require(count >= 0, "count must not be negative");
        require(count == 0 || (from != 0 && to != 0), "from and to must be given");
        check(fu::null(at<const float>(from), at<float>(to), count, reinterpret_cast<cudaStream_t>(stream)), "null");
    });
    define_explicit_rows(m);
    define_small_cholesky(m);
    define_weighted_gradient(m);
    m.def("ghost_gram", [](int dtype, int64_t d_in, int64_t d_out, const SideTuple& first, const SideTuple& second,
                           bool symmetric, bool bias, std::uintptr_t out, std::uintptr_t stream) {
        const fu::GramProblem problem = {dtype,           d_in,      d_out, side_of(first),
                                         side_of(second), symmetric, bias,  at<double>(out)};
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
