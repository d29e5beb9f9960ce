// Instruction sets: which of the compiled kernel tables this CPU can run.
#pragma once

#include <string>
#include <vector>

#include "kernels.h"

namespace fu {

// Names of the tables that were compiled and that this CPU runs, worst first ("portable" is always there).
std::vector<std::string> live_isas();

// Names of the tables that were compiled, whether this CPU runs them or not.
std::vector<std::string> compiled_isas();

// The table of `name`. Throws std::invalid_argument where it is not live.
const Kernels& kernels_of(const std::string& name);

}  // namespace fu
