// NumPy arrays in and out. An argument's type checks shape, dtype and contiguity.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <cstdint>
#include <memory>
#include <stdexcept>

#include "kernels/kernels.h"

namespace osslo {

namespace nb = nanobind;

template <class T, size_t N>
using In = nb::ndarray<const T, nb::ndim<N>, nb::c_contig, nb::device::cpu>;
template <class T>
using Out = nb::ndarray<nb::numpy, T>;

template <class T>
Out<T> new_array(std::initializer_list<size_t> shape) {
  size_t count = 1;
  for (const size_t n : shape) count *= n;
  // Filled by the caller: at 201,088 logits a row, clearing it first would show.
  auto owned = std::unique_ptr<T[]>(new T[count ? count : 1]);
  T* data = owned.get();
  nb::capsule owner(data, [](void* p) noexcept { delete[] static_cast<T*>(p); });
  owned.release();
  return Out<T>(data, shape, owner);
}

inline void require(bool condition, const char* message) {
  if (!condition) throw std::invalid_argument(message);
}

inline int32_t length(size_t n) {
  require(n <= INT32_MAX, "array is too long");
  return static_cast<int32_t>(n);
}

inline PanelMatrix panel_shape(WeightKind kind, size_t rows, size_t columns) {
  return {kind, length(rows), length(columns), nullptr};
}

// What each file of this folder adds to the module.
void bind_packing(nb::module_& m);
void bind_kernels(nb::module_& m);
void bind_model(nb::module_& m);

}  // namespace osslo
