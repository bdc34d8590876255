// Which instruction sets this processor runs, and their kernels.
#pragma once

#include <string>
#include <vector>

#include "kernels.hpp"

namespace ernie {

// Supported variants, best last; the lowered ones (for tests) only on request.
std::vector<std::string> instruction_sets(bool include_lowered);

// The kernels of `name`, or the best ones if it is empty. Throws std::invalid_argument if this processor does
// not run them.
const Kernels& kernels_for(const std::string& name);

}  // namespace ernie
