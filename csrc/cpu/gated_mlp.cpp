// Driver of the gated activation: cuts rows into pieces for the threads. Arithmetic: isa/gated_mlp_kernels.cpp.
#include "gated_mlp.h"

#include <algorithm>
#include <stdexcept>

#include "isa.h"
#include "kernels.h"

namespace fu {

FU_ISA_TABLES(GatedTable, gated)
namespace {

constexpr int64_t kPiece = 8192;  // elements; a multiple of a kernel's chunk

const int64_t kSizes[] = {4, 8, 2};

void check(const GatedProblem& p, int threads) {
    if (p.dtype < kFloat32 || p.dtype > kBFloat16) throw std::invalid_argument("dtype is not one of the kernels'");
    if (p.kind < 0 || p.kind >= kKinds) throw std::invalid_argument("kind is not an activation");
    if (p.rows < 0 || p.columns < 0 || p.k < 0) throw std::invalid_argument("a size is negative");
    if (threads < 1) throw std::invalid_argument("threads must be at least 1");
    if (p.rows && p.columns && !p.gate.data) throw std::invalid_argument("gate must be given");
}

Stream place(const GatedProblem& p, const RowStream& s, int64_t row, int64_t column) {
    if (!s.data) return {nullptr, 0};
    return {static_cast<char*>(s.data) + (row * s.row + column) * kSizes[p.dtype], s.tangent};
}

// Calls body(row, column, count) for all pieces.
template <class Body>
void each_piece(const GatedProblem& p, int threads, Body body) {
    const int64_t across = (p.columns + kPiece - 1) / kPiece, pieces = p.rows * across;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t piece = 0; piece < pieces; ++piece) {
        const int64_t row = piece / across, column = piece % across * kPiece;
        body(row, column, std::min(kPiece, p.columns - column));
    }
}

}  // namespace

void gated_forward(const std::string& isa, const GatedProblem& p, RowStream y, RowStream yt, int threads) {
    check(p, threads);
    const GatedKernels& kernels = gated_of(isa).of[p.dtype];
    each_piece(p, threads, [&](int64_t r, int64_t c, int64_t n) {
        const GatedForward call = {p.kind,
                                   yt.data ? p.k : 0,
                                   place(p, p.gate, r, c),
                                   place(p, p.up, r, c),
                                   place(p, p.gate_t, r, c),
                                   place(p, p.up_t, r, c),
                                   place(p, y, r, c),
                                   place(p, yt, r, c)};
        kernels.forward(call, n);
    });
}

void gated_backward(const std::string& isa, const GatedProblem& p, RowStream g, RowStream h, RowStream g_gate,
                    RowStream g_up, RowStream h_gate, RowStream h_up, int threads) {
    check(p, threads);
    const GatedKernels& kernels = gated_of(isa).of[p.dtype];
    each_piece(p, threads, [&](int64_t r, int64_t c, int64_t n) {
        const GatedBackward call = {p.kind,
                                    h_gate.data || h_up.data ? p.k : 0,
                                    place(p, p.gate, r, c),
                                    place(p, p.up, r, c),
                                    place(p, p.gate_t, r, c),
                                    place(p, p.up_t, r, c),
                                    place(p, g, r, c),
                                    place(p, h, r, c),
                                    place(p, g_gate, r, c),
                                    place(p, g_up, r, c),
                                    place(p, h_gate, r, c),
                                    place(p, h_up, r, c)};
        kernels.backward(call, n);
    });
}

}  // namespace fu
