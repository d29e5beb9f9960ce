// Python module fastunlearn._cpu: what is here, and the functions of every bind_<op>.cpp. Shapes and dtypes were
// checked in Python; the ops check sizes again.
#include "isa.h"
#include "module.h"

namespace fu {
namespace {

// A constant from the start, so that it is there before the first object of any file.
const Bindings* first = nullptr;

}  // namespace

Bindings::Bindings(void (*definition)(pybind11::module_&)) noexcept : define(definition), next(first) { first = this; }

const Bindings* all_bindings() { return first; }

}  // namespace fu

PYBIND11_MODULE(_cpu, m) {
    m.doc() = "CPU kernels of fastunlearn";
    m.def("live_isas", &fu::live_isas, "Instruction sets that this CPU runs, worst first");
    m.def("compiled_isas", &fu::compiled_isas, "Instruction sets that were compiled");
    m.def("openmp", [] {
#if defined(_OPENMP)
        return true;
#else
        return false;
#endif
    });
    for (const fu::Bindings* one = fu::all_bindings(); one; one = one->next) one->define(m);
}
