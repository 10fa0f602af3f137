// Compiled with -mavx2 -mfma -mf16c; called only after dispatch has seen that the CPU has them.
#include "simd/avx2.h"

#include "kernels/dispatch.h"
#include "kernels/kernels.h"
#include "kernels/lora.h"

namespace osslo {
namespace avx2 {
#include "kernels/kernels.inl"
}  // namespace avx2

Kernels avx2_kernels() { return avx2::kernels("avx2"); }

}  // namespace osslo
