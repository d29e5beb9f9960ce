#include <array>
#include <string>
#include <tuple>

#include "attention.h"
#include "module.h"

namespace {

using fu::at;

// Address (0: none) and the strides of K, batch, head and row.
using Tensor = std::tuple<std::uintptr_t, int64_t, int64_t, int64_t, int64_t>;
// scale, softcap, causal, window, kind of mask, its address, its four strides, address of the slopes
using Scores = std::tuple<double, double, bool, int64_t, int, std::uintptr_t, std::array<int64_t, 4>, std::uintptr_t>;
using Sizes = std::array<int64_t, 8>;  // batch, heads, groups, queries, keys, size, value size, K

fu::AttentionTensor tensor_of(const Tensor& t) {
    return {at<const void>(std::get<0>(t)), std::get<1>(t), std::get<2>(t), std::get<3>(t), std::get<4>(t)};
}

fu::AttentionProblem problem_of(int dtype, const Sizes& n, const std::array<Tensor, 6>& inputs, const Scores& s) {
    fu::AttentionScores scores = {std::get<0>(s),
                                  std::get<1>(s),
                                  std::get<2>(s),
                                  std::get<3>(s),
                                  std::get<4>(s),
                                  at<const void>(std::get<5>(s)),
                                  {},
                                  at<const void>(std::get<7>(s))};
    for (size_t axis = 0; axis < 4; ++axis) scores.mask_strides[axis] = std::get<6>(s)[axis];
    return {dtype,
            n[0],
            n[1],
            n[2],
            n[3],
            n[4],
            n[5],
            n[6],
            n[7],
            tensor_of(inputs[0]),
            tensor_of(inputs[1]),
            tensor_of(inputs[2]),
            tensor_of(inputs[3]),
            tensor_of(inputs[4]),
            tensor_of(inputs[5]),
            scores};
}

const fu::Bindings bindings([](pybind11::module_& m) {
    m.def("attention_forward",
          [](const std::string& isa, int dtype, const Sizes& sizes, const std::array<Tensor, 6>& inputs,
             const Scores& scores, const std::array<std::uintptr_t, 5>& out, int threads) {
              const fu::AttentionProblem problem = problem_of(dtype, sizes, inputs, scores);
              const fu::AttentionForward forward = {at<void>(out[0]), at<void>(out[1]), at<void>(out[2]),
                                                    at<void>(out[3]), at<void>(out[4])};
              pybind11::gil_scoped_release release;
              fu::attention_forward(isa, problem, forward, threads);
          });
    m.def("attention_backward",
          [](const std::string& isa, int dtype, const Sizes& sizes, const std::array<Tensor, 6>& inputs,
             const Scores& scores, bool dual, const std::array<Tensor, 4>& adjoints,
             const std::array<std::uintptr_t, 3>& statistics, const std::array<std::uintptr_t, 6>& out, int threads) {
              const fu::AttentionProblem problem = problem_of(dtype, sizes, inputs, scores);
              const fu::AttentionBackward io = {dual,
                                                tensor_of(adjoints[0]),
                                                tensor_of(adjoints[1]),
                                                tensor_of(adjoints[2]),
                                                tensor_of(adjoints[3]),
                                                at<const void>(statistics[0]),
                                                at<const void>(statistics[1]),
                                                at<const void>(statistics[2]),
                                                at<void>(out[0]),
                                                at<void>(out[1]),
                                                at<void>(out[2]),
                                                at<void>(out[3]),
                                                at<void>(out[4]),
                                                at<void>(out[5])};
              pybind11::gil_scoped_release release;
              fu::attention_backward(isa, problem, io, threads);
          });
});

}  // namespace
