#include "emulated.h"

#include <ucontext.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <memory>
#include <numeric>
#include <random>
#include <set>
#include <stdexcept>
#include <string>
#include <vector>

#include "cuda_runtime.h"

namespace emulated {
namespace {

constexpr std::size_t kStack = 256 * 1024;
constexpr std::size_t kUsual = 48 * 1024;  // dynamic shared memory of a kernel that did not ask for more

enum class State { kReady, kAtBlock, kAtWarp, kDone };

struct Copy {
    void* to;
    const void* from;
    std::size_t bytes;
};

struct Thread {
    Place place;
    State state = State::kReady;
    int line = 0;           // of the block's barrier
    const char* what = "";  // of the warp's
    std::vector<std::vector<Copy>> groups;
    std::vector<Copy> open;
    std::unique_ptr<unsigned char[]> stack{new unsigned char[kStack]};
    ucontext_t context;
};

ucontext_t scheduler;
std::vector<std::unique_ptr<Thread>> threads;  // kept from launch to launch, for their stacks
Thread* running = nullptr;
const std::function<void()>* kernel_now = nullptr;
std::vector<unsigned char> shared_now;
std::set<void*> poisoned;
std::string failure;
cudaError_t status_now = cudaSuccess;
std::mt19937 turns;

void enter() {
    try {
        (*kernel_now)();
    } catch (const std::exception& error) {
        failure = error.what();
    }
    running->state = State::kDone;
    swapcontext(&running->context, &scheduler);  // never comes back
}

void give_way(State state) {
    running->state = state;
    Thread* self = running;
    swapcontext(&self->context, &scheduler);
}

// Lets go the warps, and then the block, whose threads have all come; false where nobody can go on.
bool release(int count) {
    bool any = false, all_at_block = true;
    int line = 0;
    for (int begin = 0; begin < count; begin += kWarp) {
        const int end = std::min(begin + kWarp, count);
        bool here = false, whole = true;
        const char* what = "";
        for (int n = begin; n < end; ++n) {
            if (threads[n]->state == State::kDone) continue;
            if (threads[n]->state != State::kAtWarp) {
                whole = false;
            } else {
                if (here && what != threads[n]->what) whole = false;
                here = true;
                what = threads[n]->what;
            }
        }
        if (!here || !whole) continue;
        for (int n = begin; n < end; ++n)
            if (threads[n]->state == State::kAtWarp) threads[n]->state = State::kReady;
        any = true;
    }
    if (any) return true;
    for (int n = 0; n < count; ++n) {
        if (threads[n]->state == State::kDone) continue;
        if (threads[n]->state != State::kAtBlock || (line != 0 && threads[n]->line != line)) all_at_block = false;
        line = threads[n]->line;
    }
    if (!all_at_block) return false;
    for (int n = 0; n < count; ++n)
        if (threads[n]->state == State::kAtBlock) threads[n]->state = State::kReady;
    return true;
}

void run_block(dim3 grid, dim3 block, dim3 at) {
    const int count = int(block.x * block.y * block.z);
    while (int(threads.size()) < count) threads.emplace_back(new Thread);
    std::vector<Warp> warps((count + kWarp - 1) / kWarp);
    std::memset(warps.data(), 0xff, warps.size() * sizeof(Warp));
    poisoned.clear();
    for (int n = 0; n < count; ++n) {
        Thread& t = *threads[n];
        t.place = {dim3(n % block.x, n / block.x % block.y, n / (block.x * block.y)),
                   at,
                   block,
                   grid,
                   n,
                   n % kWarp,
                   &warps[n / kWarp]};
        t.state = State::kReady;
        t.groups.clear();
        t.open.clear();
        getcontext(&t.context);
        t.context.uc_stack.ss_sp = t.stack.get();
        t.context.uc_stack.ss_size = kStack;
        t.context.uc_link = nullptr;
        makecontext(&t.context, enter, 0);
    }
    std::vector<int> order(count);
    std::iota(order.begin(), order.end(), 0);
    for (bool more = true; more;) {
        std::shuffle(order.begin(), order.end(), turns);
        for (const int n : order) {
            if (threads[n]->state != State::kReady) continue;
            running = threads[n].get();
            swapcontext(&scheduler, &running->context);
            running = nullptr;
            if (!failure.empty()) return;
        }
        more = false;
        for (int n = 0; n < count; ++n) more = more || threads[n]->state != State::kDone;
        if (more && !release(count)) {
            failure = "threads wait for each other at different barriers";
            return;
        }
    }
}

}  // namespace

const Place& place() { return running->place; }

void wait_for_block(int line) {
    running->line = line;
    give_way(State::kAtBlock);
}

void wait_for_warp(const char* what) {
    running->what = what;
    give_way(State::kAtWarp);
}

unsigned char* dynamic_shared(std::size_t align) {
    const std::uintptr_t begin = std::uintptr_t(shared_now.data());
    return reinterpret_cast<unsigned char*>((begin / (2 * align) + 1) * 2 * align + align);
}

void poison(void* begin, std::size_t bytes) {
    if (poisoned.insert(begin).second) std::memset(begin, 0xff, bytes);
}

void copy_later(void* to, const void* from, std::size_t bytes) { running->open.push_back({to, from, bytes}); }

void end_group() {
    running->groups.push_back(running->open);
    running->open.clear();
}

void wait_for_groups(int still_open) {
    auto& groups = running->groups;
    while (int(groups.size()) > still_open) {
        for (const Copy& copy : groups.front()) std::memcpy(copy.to, copy.from, copy.bytes);
        groups.erase(groups.begin());
    }
}

void require(bool condition, const char* message) {
    if (!condition) throw std::runtime_error(message);
}

std::size_t& allowed_shared(const void* key) {
    static std::map<const void*, std::size_t> allowed;
    return allowed.emplace(key, kUsual).first->second;
}

void launch(dim3 grid, dim3 block, std::size_t shared, void*, std::size_t allowed,
            const std::function<void()>& kernel) {
    const unsigned count = block.x * block.y * block.z;
    if (grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535 ||
        count == 0 || count > 1024) {
        status_now = cudaErrorInvalidConfiguration;
        return;
    }
    if (shared > allowed) {
        status_now = cudaErrorInvalidValue;
        return;
    }
    kernel_now = &kernel;
    failure.clear();
    shared_now.resize(shared + 4096);  // with room for any alignment
    std::vector<unsigned> blocks(std::size_t(grid.x) * grid.y * grid.z);
    std::iota(blocks.begin(), blocks.end(), 0u);
    std::shuffle(blocks.begin(), blocks.end(), turns);
    for (const unsigned b : blocks) {
        std::fill(shared_now.begin(), shared_now.end(), 0xff);
        run_block(grid, block, dim3(b % grid.x, b / grid.x % grid.y, b / (grid.x * grid.y)));
        if (!failure.empty()) {
            status_now = cudaErrorLaunchFailure;
            return;
        }
    }
}

}  // namespace emulated

cudaError_t cudaGetLastError() {
    const cudaError_t status = emulated::status_now;
    emulated::status_now = cudaSuccess;
    return status;
}

const char* cudaGetErrorString(cudaError_t status) {
    switch (status) {
        case cudaSuccess: return "no error";
        case cudaErrorInvalidValue: return "invalid argument";
        case cudaErrorInvalidConfiguration: return "invalid configuration argument";
        default: return emulated::failure.empty() ? "launch failure" : emulated::failure.c_str();
    }
}

// For the tests: which order threads and blocks take their turns in.
extern "C" __attribute__((visibility("default"))) void emulated_seed(unsigned seed) { emulated::turns.seed(seed); }
