// Python module fastunlearn._cpu: what is here, and the functions of every bind_<op>.cpp. Shapes and dtypes were
// checked in Python; the ops check sizes again.
#include <vector>

#include "isa.h"
#include "module.h"

namespace fu {
namespace {

// Inside a function: constructed before its first use, whatever the order of the files.
std::vector<void (*)(pybind11::module_&)>& definitions() {
    static std::vector<void (*)(pybind11::module_&)> all;
    return all;
}

}  // namespace

Bindings::Bindings(void (*define)(pybind11::module_&)) { definitions().push_back(define); }

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
    for (auto define : fu::definitions()) define(m);
}
