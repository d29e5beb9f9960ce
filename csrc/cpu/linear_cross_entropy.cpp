// The output layer with cross-entropy: how much is taken at a time, then chunk by chunk (head_chunk.h).
#include "linear_cross_entropy.h"

#include "gemm_bfloat16.h"
#include "head_chunk.h"
#include "isa.h"

#include <algorithm>
#include <stdexcept>

namespace fu {

FU_ISA_TABLES(CrossEntropyKernels, cross_entropy)
FU_ISA_TABLES(GemmKernels, gemm_kernels)
FU_ISA_TABLES(GemmBFloat16, gemm_bfloat16)
namespace {

constexpr int64_t kMostTokens = 512;        // packing W costs little beside products with as many
constexpr int64_t kBlockBytes = 400 << 10;  // a block's logits and tangents: they stay in the second cache
constexpr int64_t kLeastRows = 48;
constexpr int64_t kSuperRows = 2304;

int64_t parts(int64_t whole, int64_t most) { return std::max<int64_t>(1, (whole + most - 1) / most); }
int64_t round_up(int64_t value, int64_t to) { return (value + to - 1) / to * to; }

template <class T>
HeadPlan plan_of(const HeadProblem& p, const GemmTable<T>& g) {
    const int64_t line = p.vocabulary * int64_t(sizeof(T)), streams = p.streams;
    const bool values = p.mode == HeadMode::kValues;
    // With a soft-cap, adjoints need the logits themselves, which are gone after the first group.
    const int64_t least = values || p.softcap > 0 ? streams : std::min<int64_t>(streams, 1);
    int64_t most = kMostTokens;
    if (!values) most = std::min(most, std::max<int64_t>(g.nr, p.logit_bytes / ((1 + least) * line) / g.nr * g.nr));
    HeadPlan plan = {};
    plan.tokens = round_up(parts(p.tokens, parts(p.tokens, most)), g.nr);  // chunks of about equal length
    plan.streams = int(least);
    if (least < streams) {
        const int64_t room = p.logit_bytes / (plan.tokens * line) - 1;
        const int64_t groups = parts(streams, std::clamp<int64_t>(room, 1, streams));
        plan.streams = int(parts(streams, groups));
    }
    const int64_t bytes = (1 + plan.streams) * plan.tokens * int64_t(sizeof(T)) * g.mr;
    plan.block = g.mr * std::clamp(kBlockBytes / bytes, kLeastRows / g.mr, kMostRows / g.mr);
    plan.super = std::max<int64_t>(1, kSuperRows / plan.block) * plan.block;
    return plan;
}

template <class T>
void run(const HeadProblem& problem, const GemmTable<T>& gemm, const GemmTable<T>& forward,
         const CrossEntropyTable<T>& table, int threads) {
    const HeadPlan plan = plan_of(problem, gemm);
    HeadChunk<T> chunk(problem, plan, gemm, forward, table, threads);
    for (int64_t token = 0; token < problem.tokens; token += plan.tokens)
        chunk.run(token, std::min(plan.tokens, problem.tokens - token));
}

// Whether bfloat16 instructions multiply inputs and weights as they are, without rounding them.
bool in_bfloat16(const HeadProblem& p) {
    const auto is = [](const GemmMatrix& matrix) { return matrix.dtype == kBFloat16; };
    return is(p.x) && is(p.weight) && std::all_of(p.xt.begin(), p.xt.end(), is) &&
           std::all_of(p.weight_t.begin(), p.weight_t.end(), is);
}

}  // namespace

void linear_cross_entropy(const std::string& isa, const HeadProblem& problem, int threads) {
    if (threads < 1) throw std::invalid_argument("threads must be at least 1");
    if (problem.tokens < 0 || problem.width < 0 || problem.vocabulary < 1 || problem.streams < 0)
        throw std::invalid_argument("a size is negative, or the vocabulary is empty");
    const size_t streams = size_t(problem.streams);
    if ((!problem.xt.empty() && problem.xt.size() != streams) ||
        (!problem.weight_t.empty() && problem.weight_t.size() != streams))
        throw std::invalid_argument("one tangent per stream");
    if (problem.tokens == 0) return;
    if (problem.mode != HeadMode::kValues && !problem.token_weights)
        throw std::invalid_argument("token_weights are needed");
    const CrossEntropyKernels& table = cross_entropy_of(isa);
    const GemmKernels& gemm = gemm_kernels_of(isa);
    if (problem.wide) return run<double>(problem, gemm.f64, gemm.f64, table.f64, threads);
    const bool narrow = in_bfloat16(problem) && has_bfloat16_products(isa);
    run<float>(problem, gemm.f32, narrow ? gemm_bfloat16_of(isa).rounded : gemm.f32, table.f32, threads);
}

}  // namespace fu
