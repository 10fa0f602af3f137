#include "kernels/dispatch.h"

#include <stdexcept>

namespace osslo {
namespace {

bool cpu_has_avx2() {
#if defined(OSSLO_HAVE_AVX2)
  // F16C came before AVX2 in every processor; clang has no name for it here.
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#else
  return false;
#endif
}

}  // namespace

std::vector<std::string> available_kernels() {
  std::vector<std::string> names;
  if (cpu_has_avx2()) names.emplace_back("avx2");
  names.emplace_back("scalar");
  return names;
}

Kernels choose_kernels(const std::string& name) {
  const std::vector<std::string> names = available_kernels();
  const std::string wanted = name.empty() ? names.front() : name;
#if defined(OSSLO_HAVE_AVX2)
  if (wanted == "avx2" && cpu_has_avx2()) return avx2_kernels();
#endif
  if (wanted == "scalar") return scalar_kernels();
  std::string list;
  for (const std::string& n : names) list += (list.empty() ? "" : ", ") + n;
  throw std::invalid_argument("no kernels named '" + wanted + "' on this CPU; available: " + list);
}

}  // namespace osslo
