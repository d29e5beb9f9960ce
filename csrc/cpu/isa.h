// Instruction sets: which of the compiled kernel tables this CPU can run.
#pragma once

#include <string>
#include <vector>

namespace fu {

// Names of the tables that were compiled and that this CPU runs, worst first ("portable" is always there).
std::vector<std::string> live_isas();

// Names of the tables that were compiled, whether this CPU runs them or not.
std::vector<std::string> compiled_isas();

// The place of `name` in portable, avx2, avx512. Throws std::invalid_argument where it is not live.
int isa_index(const std::string& name);

}  // namespace fu

// For a driver with a table of its own per instruction set (files of isa/): declares <op>_portable, <op>_avx2 and
// <op>_avx512, and defines `<op>_of(name)`, which returns the one that is live. Use it in namespace fu.
#if defined(FU_HAVE_AVX2)
#define FU_AVX2_TABLE(op) &op##_avx2
#define FU_AVX2_EXTERN(Type, op) extern const Type op##_avx2;
#else
#define FU_AVX2_TABLE(op) nullptr
#define FU_AVX2_EXTERN(Type, op)
#endif
#if defined(FU_HAVE_AVX512)
#define FU_AVX512_TABLE(op) &op##_avx512
#define FU_AVX512_EXTERN(Type, op) extern const Type op##_avx512;
#else
#define FU_AVX512_TABLE(op) nullptr
#define FU_AVX512_EXTERN(Type, op)
#endif
#define FU_ISA_TABLES(Type, op)                                                                \
    extern const Type op##_portable;                                                           \
    FU_AVX2_EXTERN(Type, op)                                                                   \
    FU_AVX512_EXTERN(Type, op)                                                                 \
    static const Type& op##_of(const std::string& name) {                                      \
        const Type* const tables[] = {&op##_portable, FU_AVX2_TABLE(op), FU_AVX512_TABLE(op)}; \
        return *tables[isa_index(name)];                                                       \
    }
