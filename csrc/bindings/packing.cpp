// Weights laid out for the kernels, when a model is packed.
#include "bindings/arrays.h"

#include "model/packing.h"

namespace osslo {
namespace {

Out<uint8_t> bind_pack_mxfp4(In<uint8_t, 3> blocks, In<uint8_t, 2> scales) {
  require(blocks.shape(2) == 16 && blocks.shape(0) == scales.shape(0) &&
              blocks.shape(1) == scales.shape(1),
          "pack_mxfp4 takes blocks [rows, n, 16] and scales [rows, n]");
  const PanelMatrix m =
      panel_shape(WeightKind::kMxfp4, blocks.shape(0), blocks.shape(1) * kBlock);
  Out<uint8_t> out = new_array<uint8_t>({m.bytes()});
  nb::gil_scoped_release unlocked;
  pack_mxfp4(m, blocks.data(), scales.data(), out.data());
  return out;
}

Out<uint8_t> bind_pack_q8(In<int8_t, 2> values, In<uint16_t, 2> scales) {
  const PanelMatrix m = panel_shape(WeightKind::kQ8, values.shape(0), values.shape(1));
  require(scales.shape(0) == values.shape(0) &&
              scales.shape(1) == static_cast<size_t>(m.blocks()),
          "pack_q8 takes values [rows, columns] and float16 bits [rows, ceil(columns / 32)]");
  Out<uint8_t> out = new_array<uint8_t>({m.bytes()});
  nb::gil_scoped_release unlocked;
  pack_q8(m, values.data(), scales.data(), out.data());
  return out;
}

template <class T>
Out<uint8_t> bind_pack_plain(In<T, 2> rows) {
  const WeightKind kind = sizeof(T) == 2 ? WeightKind::kBf16 : WeightKind::kF32;
  const PanelMatrix m = panel_shape(kind, rows.shape(0), rows.shape(1));
  Out<uint8_t> out = new_array<uint8_t>({m.bytes()});
  nb::gil_scoped_release unlocked;
  pack_plain(m, reinterpret_cast<const uint8_t*>(rows.data()), out.data());
  return out;
}

nb::tuple bind_quantize_q8(In<float, 2> x) {
  const size_t rows = x.shape(0);
  const size_t columns = x.shape(1);
  Out<int8_t> values = new_array<int8_t>({rows, columns});
  Out<uint16_t> scales = new_array<uint16_t>({rows, (columns + kBlock - 1) / kBlock});
  {
    nb::gil_scoped_release unlocked;
    quantize_q8(x.data(), static_cast<int64_t>(rows), length(columns), values.data(),
                scales.data());
  }
  return nb::make_tuple(values, scales);
}

}  // namespace

void bind_packing(nb::module_& m) {
  m.def("pack_mxfp4", &bind_pack_mxfp4, nb::arg("blocks"), nb::arg("scales"));
  m.def("pack_q8", &bind_pack_q8, nb::arg("values"), nb::arg("scales"));
  m.def("pack_bf16", &bind_pack_plain<uint16_t>, nb::arg("bits"));
  m.def("pack_f32", &bind_pack_plain<float>, nb::arg("values"));
  m.def("quantize_q8", &bind_quantize_q8, nb::arg("values"));
}

}  // namespace osslo
