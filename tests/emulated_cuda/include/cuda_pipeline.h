// Asynchronous copies (cp.async): what was copied is there after the wait, and not before.
#pragma once

#include "emulated.h"

inline void __pipeline_memcpy_async(void* to, const void* from, std::size_t bytes) {
    emulated::require(bytes == 4 || bytes == 8 || bytes == 16, "an asynchronous copy takes 4, 8 or 16 bytes");
    emulated::require(std::uintptr_t(to) % bytes == 0 && std::uintptr_t(from) % bytes == 0,
                      "an asynchronous copy needs addresses that are multiples of its size");
    emulated::copy_later(to, from, bytes);
}
inline void __pipeline_commit() { emulated::end_group(); }
inline void __pipeline_wait_prior(int still_open) { emulated::wait_for_groups(still_open); }
