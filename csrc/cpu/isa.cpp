#include "isa.h"

#include <stdexcept>

namespace fu {

namespace {

struct Entry {
    const char* name;
    int index;
    bool live;
};

// __builtin_cpu_supports asks cpuid, and also whether the operating system saves the wide registers.
std::vector<Entry> entries() {
    std::vector<Entry> all = {{"portable", 0, true}};
#if defined(FU_HAVE_AVX2)
    all.push_back({"avx2", 1, __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")});
#endif
#if defined(FU_HAVE_AVX512)
    all.push_back({"avx512", 2,
                   __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
                       __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw")});
#endif
    return all;
}

}  // namespace

std::vector<std::string> live_isas() {
    std::vector<std::string> names;
    for (const Entry& entry : entries())
        if (entry.live) names.emplace_back(entry.name);
    return names;
}

std::vector<std::string> compiled_isas() {
    std::vector<std::string> names;
    for (const Entry& entry : entries()) names.emplace_back(entry.name);
    return names;
}

int isa_index(const std::string& name) {
    for (const Entry& entry : entries()) {
        if (name != entry.name) continue;
        if (entry.live) return entry.index;
        throw std::invalid_argument("this CPU does not have the instruction set " + name);
    }
    throw std::invalid_argument("no kernels were compiled for the instruction set " + name);
}

}  // namespace fu
