// Driver of the norms: rows to threads, sums over rows in an order that the shape alone decides.
#include "norm.h"

#include <algorithm>
#include <new>
#include <stdexcept>
#include <vector>

#include "isa.h"
#include "kernels.h"
#include "threads.h"

namespace fu {

FU_ISA_TABLES(NormTable, norm)
namespace {

constexpr int64_t kBlock = 32;  // rows whose parameter gradients are summed in one place
constexpr int64_t kWave = 128;  // blocks whose sums are kept at a time

void check(const NormProblem& p, int threads) {
    if (p.dtype < kFloat32 || p.dtype > kBFloat16) throw std::invalid_argument("dtype is not one of the kernels'");
    if (p.rows < 0 || p.call.d < 1 || p.call.k < 0) throw std::invalid_argument("a size is out of range");
    if (p.rows > 0 && !p.call.x.data) throw std::invalid_argument("x must be given");
    if (threads < 1) throw std::invalid_argument("threads must be at least 1");
}

// Scratch rows of every thread, 64-byte aligned, made before the threads start.
class Scratch {
   public:
    Scratch(const NormProblem& p, int threads) : each_(kNormScratch * ((p.call.d * 8 + 63) / 64 * 64)) {
        memory_ = static_cast<char*>(::operator new(size_t(each_ * threads), std::align_val_t(64)));
    }
    ~Scratch() { ::operator delete(memory_, std::align_val_t(64)); }
    Scratch(const Scratch&) = delete;
    Scratch& operator=(const Scratch&) = delete;
    void* mine() const { return memory_ + each_ * this_thread(); }

   private:
    int64_t each_;
    char* memory_;
};

// Sums over rows, made per block and added up block after block in double.
template <class T>
void backward(const NormKernels& kernels, const NormProblem& p, const NormBackward& to, int threads) {
    const int64_t width = p.call.k * p.call.d, blocks = (p.rows + kBlock - 1) / kBlock, wave = std::min(kWave, blocks);
    const Scratch scratch(p, threads);
    std::vector<T> weight(to.weight_h ? size_t(wave * width) : 0), bias(to.bias_h ? size_t(wave * width) : 0);
    std::vector<double> weight_total(to.weight_h ? size_t(width) : 0), bias_total(to.bias_h ? size_t(width) : 0);
    for (int64_t start = 0; start < blocks; start += wave) {
        const int64_t here = std::min(wave, blocks - start);
#pragma omp parallel num_threads(threads)
        {
#pragma omp for schedule(static)
            for (int64_t block = 0; block < here; ++block) {
                NormBackward part = to;
                if (part.weight_h) part.weight_h = std::fill_n(weight.data() + block * width, width, T(0)) - width;
                if (part.bias_h) part.bias_h = std::fill_n(bias.data() + block * width, width, T(0)) - width;
                const int64_t row = (start + block) * kBlock;
                kernels.backward(p.call, part, row, std::min(row + kBlock, p.rows), scratch.mine());
            }
#pragma omp for schedule(static)
            for (int64_t i = 0; i < width; ++i) {
                for (int64_t at = i; to.weight_h && at < here * width; at += width) weight_total[i] += weight[at];
                for (int64_t at = i; to.bias_h && at < here * width; at += width) bias_total[i] += bias[at];
            }
        }
    }
    for (int64_t i = 0; i < width; ++i) {
        if (to.weight_h) static_cast<T*>(to.weight_h)[i] = T(weight_total[size_t(i)]);
        if (to.bias_h) static_cast<T*>(to.bias_h)[i] = T(bias_total[size_t(i)]);
    }
}

}  // namespace

void norm_forward(const std::string& isa, const NormProblem& p, const NormForward& to, int threads) {
    check(p, threads);
    const NormKernels& kernels = norm_of(isa).of[p.dtype];
    const Scratch scratch(p, threads);
    const int64_t blocks = (p.rows + kBlock - 1) / kBlock;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t block = 0; block < blocks; ++block)
        kernels.forward(p.call, to, block * kBlock, std::min((block + 1) * kBlock, p.rows), scratch.mine());
}

void norm_backward(const std::string& isa, const NormProblem& p, const NormBackward& to, int threads) {
    check(p, threads);
    const NormKernels& kernels = norm_of(isa).of[p.dtype];
    if (p.dtype == kFloat64)
        backward<double>(kernels, p, to, threads);
    else
        backward<float>(kernels, p, to, threads);
}

}  // namespace fu
