// Which kernels run: the best instruction set that this CPU has, or the one asked for by name.
// A new set (NEON) is one header in simd/, one file here and one line in dispatch.cpp.
#pragma once

#include <string>
#include <vector>

#include "kernels/kernels.h"

namespace osslo {

Kernels scalar_kernels();
Kernels avx2_kernels();
Kernels avx512_kernels();
Kernels amx_kernels();

// Names of the sets this build has and this CPU runs, best first.
std::vector<std::string> available_kernels();

// `name` may be empty for the best. Throws std::invalid_argument naming what is available.
Kernels choose_kernels(const std::string& name);

}  // namespace osslo
