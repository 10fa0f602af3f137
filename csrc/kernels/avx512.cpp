// Compiled for AVX-512 with VNNI; called only after dispatch has seen that the CPU has them.
#include "simd/avx512.h"

#include "kernels/dispatch.h"
#include "kernels/kernels.h"
#include "kernels/lora.h"

namespace osslo {
namespace avx512 {
#include "kernels/kernels.inl"
}  // namespace avx512

Kernels avx512_kernels() { return avx512::kernels("avx512"); }

}  // namespace osslo
