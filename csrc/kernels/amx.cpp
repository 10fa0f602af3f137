// Compiled for AVX-512 with VNNI and for AMX; called only after dispatch has seen that the CPU has
// them and the system lets this process use tiles.
#define OSSLO_SIMD amx
#include "simd/avx512.h"

#include "kernels/dispatch.h"
#include "kernels/kernels.h"
#include "kernels/lora.h"

namespace osslo {
namespace amx {
#include "kernels/kernels.inl"
#include "kernels/pairs.inl"
#include "kernels/amx.inl"
}  // namespace amx

Kernels amx_kernels() {
  Kernels set = amx::kernels("amx");
  set.matmul = amx::matmul_by_tiles;
  set.matmul_scratch_bytes = amx::tile_scratch_bytes;
  return set;
}

}  // namespace osslo
