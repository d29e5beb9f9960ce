// CUDA's thread blocks on one CPU thread: every CUDA thread is a coroutine that runs until it waits for others. Whose
// turn it is comes from a seed, block by block and wait by wait, so that a missing barrier shows as a result that
// depends on it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>

struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

namespace emulated {

constexpr int kWarp = 32;

// What the 32 threads of a warp lay down for each other.
struct Warp {
    float values[kWarp];
    float a[256], b[256];
    const void* pointer;
    int64_t number;
};

struct Place {
    dim3 thread, block, block_size, grid;
    int index, lane;
    Warp* warp;
};

const Place& place();  // of the coroutine that runs

// Waits for all threads of the block that have not ended. `line`: all must wait at the same one.
void wait_for_block(int line);
void wait_for_warp(const char* what);
// Aligned to so many bytes and not to twice as many, as it may come on a GPU.
unsigned char* dynamic_shared(std::size_t align);

// Fills shared memory with bytes that are NaN as floats, once for each block: what is read before it is written shows.
void poison(void* begin, std::size_t bytes);

// Copies that take place when the calling thread waits for them, not before.
void copy_later(void* to, const void* from, std::size_t bytes);
void end_group();
void wait_for_groups(int still_open);

// Stops the launch with this message, where the condition does not hold.
void require(bool condition, const char* message);

void launch(dim3 grid, dim3 block, std::size_t shared, void* stream, std::size_t allowed,
            const std::function<void()>& kernel);

// How much dynamic shared memory kernel `key` may have (48 KiB unless it was asked for more).
std::size_t& allowed_shared(const void* key);

}  // namespace emulated
