// How an op's bind_<op>.cpp puts its functions into the Python module fastunlearn._cpu: no list to extend.
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>

namespace fu {

// One static object of this in a file; `define` is called once with the module. They form a list by themselves, so that
// nothing is allocated, and nothing can be thrown, while the library is loaded.
struct Bindings {
    explicit Bindings(void (*define)(pybind11::module_&)) noexcept;
    void (*define)(pybind11::module_&);
    const Bindings* next;
};

// Tensors come as addresses, so no torch header is needed, and the module serves every torch version.
template <class T>
T* at(std::uintptr_t address) {
    return reinterpret_cast<T*>(address);
}

}  // namespace fu
