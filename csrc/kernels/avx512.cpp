// Compiled for AVX-512 with VNNI; called only after dispatch has seen that the CPU has them.
#include "simd/avx512.h"

#include "kernels/dispatch.h"
#include "kernels/kernels.h"
#include "kernels/lora.h"

namespace osslo {
namespace avx512 {
#include "kernels/kernels.inl"
#include "kernels/pairs.inl"
}  // namespace avx512

Kernels avx512_kernels() {
  Kernels set = avx512::kernels("avx512");
  set.matmul = avx512::matmul_by_pairs;
  return set;
}

}  // namespace osslo
