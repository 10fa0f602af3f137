#include "kernels/dispatch.h"

#include <stdexcept>

#if defined(OSSLO_HAVE_AMX)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace osslo {
namespace {

#if defined(OSSLO_HAVE_AVX2)
bool cpu_has_avx2() {
  // F16C came before AVX2 in every processor; clang has no name for it here.
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}
#endif

#if defined(OSSLO_HAVE_AVX512)
bool cpu_has_avx512() {
  return cpu_has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512vnni");
}
#endif

#if defined(OSSLO_HAVE_AMX)
// Linux lets a process use tiles, whose state is 8 KiB a thread, only once it has asked
// (Documentation/arch/x86/xstate.rst); threads that run already may use them too.
bool cpu_has_amx() {
  constexpr long kRequestPermission = 0x1023, kTileData = 18;
  constexpr unsigned kTiles = 1u << 24, kInt8 = 1u << 25;
  unsigned a = 0, b = 0, c = 0, d = 0;
  return cpu_has_avx512() && __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d & kTiles) &&
         (d & kInt8) && syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}
#endif

struct Set {
  const char* name;
  bool (*runs)();
  Kernels (*kernels)();
};

// Best first.
const Set kSets[] = {
#if defined(OSSLO_HAVE_AMX)
    {"amx", cpu_has_amx, amx_kernels},
#endif
#if defined(OSSLO_HAVE_AVX512)
    {"avx512", cpu_has_avx512, avx512_kernels},
#endif
#if defined(OSSLO_HAVE_AVX2)
    {"avx2", cpu_has_avx2, avx2_kernels},
#endif
    {"scalar", [] { return true; }, scalar_kernels},
};

}  // namespace

std::vector<std::string> available_kernels() {
  std::vector<std::string> names;
  for (const Set& set : kSets)
    if (set.runs()) names.emplace_back(set.name);
  return names;
}

Kernels choose_kernels(const std::string& name) {
  for (const Set& set : kSets)
    if ((name.empty() || name == set.name) && set.runs()) return set.kernels();
  std::string list;
  for (const std::string& n : available_kernels()) list += (list.empty() ? "" : ", ") + n;
  throw std::invalid_argument("no kernels named '" + name + "' on this CPU; available: " + list);
}

}  // namespace osslo
