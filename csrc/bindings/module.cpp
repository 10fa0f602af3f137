// The module `_native`. This folder alone knows Python: it checks shape, dtype and contiguity once (the
// annotations on the arrays), then releases the GIL.
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "bindings/arrays.h"
#include "kernels/dispatch.h"
#include "kernels/kernels.h"
#include "platform/thread_pool.h"

using namespace osslo;  // NOLINT: the module names what is in it

NB_MODULE(_native, m) {
  m.doc() = "Native kernels and forward pass; osslo.kernels and osslo.model wrap them.";
  m.attr("PAGE_TOKENS") = kPageTokens;

  nb::enum_<WeightKind>(m, "WeightKind")
      .value("MXFP4", WeightKind::kMxfp4)
      .value("Q8", WeightKind::kQ8)
      .value("BF16", WeightKind::kBf16)
      .value("F32", WeightKind::kF32);

  m.def("available_kernels", &available_kernels);
  m.def("usable_threads", &usable_threads);

  bind_packing(m);
  bind_kernels(m);
  bind_model(m);
}
