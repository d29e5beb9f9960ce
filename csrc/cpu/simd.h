// For the files of isa/ only. Each of them is compiled several times, with different FU_ISA (a name), FU_BYTES
// (vector width) and machine flags, and exports one table of pointers named FU_JOIN(<op>_, FU_ISA).
//
// Everything here has internal linkage, and no file of isa/ includes a header that brings code of its own (a
// standard container, <cmath>'s templates): see kernels.h for why.
#pragma once

#include <cstdint>

#define FU_JOIN2(a, b) a##b
#define FU_JOIN(a, b) FU_JOIN2(a, b)
#define FU_TEXT2(a) #a
#define FU_TEXT(a) FU_TEXT2(a)

namespace fu {
namespace {

// A vector of FU_BYTES bytes, by the vector extension of GCC and Clang: one source for every width.
template <class T>
struct Vector;
template <>
struct Vector<float> {
    typedef float type __attribute__((vector_size(FU_BYTES)));
    typedef float loose __attribute__((vector_size(FU_BYTES), aligned(4)));
};
template <>
struct Vector<double> {
    typedef double type __attribute__((vector_size(FU_BYTES)));
    typedef double loose __attribute__((vector_size(FU_BYTES), aligned(8)));
};

template <class T>
[[maybe_unused]] inline typename Vector<T>::type load(const T* from) {
    return *reinterpret_cast<const typename Vector<T>::loose*>(from);
}
template <class T>
[[maybe_unused]] inline void store(T* to, typename Vector<T>::type value) {
    *reinterpret_cast<typename Vector<T>::loose*>(to) = value;
}

}  // namespace
}  // namespace fu
