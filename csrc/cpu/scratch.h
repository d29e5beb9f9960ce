// Working memory of the drivers: aligned, not initialised, on large pages where the system has them (a page fault per
// 4 KiB costs more than the arithmetic that a block needs).
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace fu {

template <class T>
struct FreeScratch {
    std::align_val_t alignment;
    void operator()(T* memory) const { ::operator delete(memory, alignment); }
};

template <class T>
using Scratch = std::unique_ptr<T[], FreeScratch<T>>;

// Room for `count` elements. Throws std::bad_alloc.
template <class T>
Scratch<T> scratch(int64_t count) {
    constexpr size_t kLargePage = size_t(2) << 20;
    size_t bytes = size_t(std::max<int64_t>(count, 1)) * sizeof(T);
    const bool large = bytes >= 8 * kLargePage;
    const auto alignment = std::align_val_t(large ? kLargePage : 64);
    if (large) bytes = (bytes + kLargePage - 1) / kLargePage * kLargePage;
    void* memory = ::operator new(bytes, alignment);
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    if (large) madvise(memory, bytes, MADV_HUGEPAGE);  // a wish: where it is refused, small pages serve
#endif
    return Scratch<T>(static_cast<T*>(memory), FreeScratch<T>{alignment});
}

// Room that stays with the calling thread for the next call: for small buffers that many calls in a row need.
template <class T>
class KeptScratch {
   public:
    T* at_least(int64_t count) {
        if (count > count_) {
            memory_.reset();  // before the new one is asked for, which may throw
            count_ = 0;
            memory_ = scratch<T>(count);
            count_ = count;
        }
        return memory_.get();
    }

   private:
    Scratch<T> memory_;
    int64_t count_ = 0;
};

}  // namespace fu
