#include "kernels/kernels.h"
#include "kernels/lora.h"
#include "kernels/dispatch.h"
#include "simd/scalar.h"

namespace osslo {
namespace scalar {
#include "kernels/kernels.inl"
}  // namespace scalar

Kernels scalar_kernels() { return scalar::kernels("scalar"); }

}  // namespace osslo
