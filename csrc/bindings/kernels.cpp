// Single kernels of any instruction set, for tests.
#include "bindings/arrays.h"

#include <nanobind/stl/string.h>

#include <algorithm>
#include <string>
#include <vector>

#include "kernels/dispatch.h"
#include "kernels/kernels.h"
#include "kernels/lora.h"
#include "model/adapter.h"
#include "model/weights.h"
#include "platform/memory.h"

namespace osslo {
namespace {

// Activations of one test, quantised in both forms.
struct TestActivations {
  std::vector<float> floats, scales16;
  std::vector<int8_t> int8;
  std::vector<int16_t> int16;
  std::vector<BlockScale> scales8;
  std::vector<int32_t> outlier_counts;
  std::vector<Outlier> outliers;
  size_t stride = 0;

  TestActivations(const Kernels& k, const float* x, size_t rows, size_t columns)
      : stride((columns + kBlock - 1) / kBlock * kBlock) {
    const size_t blocks = stride / kBlock;
    floats.resize(rows * stride);
    int8.resize(rows * stride);
    int16.resize(rows * stride);
    scales8.resize(rows * blocks);
    scales16.resize(rows * blocks);
    outliers.resize(rows * blocks);
    outlier_counts.resize(rows);
    for (size_t t = 0; t < rows; ++t) {
      float* row = &floats[t * stride];
      std::copy_n(x + t * columns, columns, row);
      outlier_counts[t] =
          k.quantize_int8(row, length(columns), &int8[t * stride], &scales8[t * blocks],
                          &outliers[t * blocks]);
      k.quantize_int16(row, length(columns), &int16[t * stride], &scales16[t * blocks]);
    }
  }

  Activations as(bool quantized) const {
    Activations a;
    a.floats = floats.data();
    a.stride = static_cast<int32_t>(stride);
    if (!quantized) return a;
    a.int8 = int8.data();
    a.int16 = int16.data();
    a.scales = scales16.data();
    a.block_scales = scales8.data();
    a.outliers = outliers.data();
    a.outlier_counts = outlier_counts.data();
    return a;
  }
};

Out<float> bind_matmul(const std::string& isa, WeightKind kind, size_t rows, In<uint8_t, 1> panels,
                       In<float, 2> x, bool quantized) {
  const Kernels k = choose_kernels(isa);
  PanelMatrix m = panel_shape(kind, rows, x.shape(1));
  require(panels.shape(0) == m.bytes(), "panels do not have the size of this matrix");
  m.data = panels.data();
  const size_t tokens = x.shape(0);
  const TestActivations activations(k, x.data(), tokens, x.shape(1));
  Out<float> out = new_array<float>({tokens, rows});
  const ZeroedRegion scratch(k.matmul_scratch_bytes(m.columns) + 1);
  k.matmul({&m, nullptr, 0, m.panels(), activations.as(quantized), nullptr, length(tokens),
            out.data(), static_cast<ptrdiff_t>(rows), false, scratch.data()});
  return out;
}

nb::tuple bind_quantize_int8(const std::string& isa, In<float, 1> x) {
  const TestActivations a(choose_kernels(isa), x.data(), 1, x.shape(0));
  Out<int8_t> values = new_array<int8_t>({a.stride});
  Out<float> scales = new_array<float>({a.stride / kBlock});
  Out<int32_t> offsets = new_array<int32_t>({a.stride / kBlock});
  Out<float> outliers = new_array<float>({a.stride});
  std::copy(a.int8.begin(), a.int8.end(), values.data());
  for (size_t b = 0; b < a.scales8.size(); ++b) {
    scales.data()[b] = a.scales8[b].scale;
    offsets.data()[b] = a.scales8[b].offset;
  }
  std::fill_n(outliers.data(), a.stride, 0.0f);
  for (int32_t i = 0; i < a.outlier_counts[0]; ++i)
    outliers.data()[a.outliers[static_cast<size_t>(i)].column] =
        a.outliers[static_cast<size_t>(i)].value;
  return nb::make_tuple(values, scales, offsets, outliers);
}

nb::tuple bind_quantize_int16(const std::string& isa, In<float, 1> x) {
  const TestActivations a(choose_kernels(isa), x.data(), 1, x.shape(0));
  Out<int16_t> values = new_array<int16_t>({a.stride});
  Out<float> scales = new_array<float>({a.stride / kBlock});
  std::copy(a.int16.begin(), a.int16.end(), values.data());
  std::copy(a.scales16.begin(), a.scales16.end(), scales.data());
  return nb::make_tuple(values, scales);
}

Out<float> bind_rms_norm(const std::string& isa, In<float, 1> x, In<float, 1> weight,
                         float epsilon) {
  require(x.shape(0) == weight.shape(0), "rms_norm takes a weight for each value");
  Out<float> out = new_array<float>({x.shape(0)});
  choose_kernels(isa).rms_norm(x.data(), weight.data(), length(x.shape(0)), epsilon, out.data());
  return out;
}

Out<float> bind_swiglu(const std::string& isa, In<float, 1> gate_up, size_t n, float alpha,
                       float limit) {
  require(gate_up.shape(0) == (n + 7) / 8 * 16, "gate_up must hold panels of 8 gate and 8 up rows");
  Out<float> out = new_array<float>({n});
  choose_kernels(isa).swiglu(gate_up.data(), length(n), alpha, limit, out.data());
  return out;
}

// base [tokens, rows] + b (scale * a x), in token ranges and panel ranges of `share`.
template <class T>
Out<float> bind_low_rank(const std::string& isa, In<T, 2> a, In<T, 2> b, float scale,
                         In<float, 2> x, In<float, 2> base, size_t share) {
  const Kernels k = choose_kernels(isa);
  const size_t rank = a.shape(0);
  const size_t tokens = x.shape(0);
  const size_t rows = b.shape(0);
  require(b.shape(1) == rank && x.shape(1) == a.shape(1) && base.shape(0) == tokens &&
              base.shape(1) == rows && rank > 0 && share > 0,
          "low_rank takes a [rank, columns], b [rows, rank], x [tokens, columns], base [tokens, rows]");
  ModelShape shape;  // one whose output projection has these sizes
  shape.window_layers = {false};
  shape.hidden = length(rows);
  shape.heads = length(a.shape(1));
  shape.head_dim = 1;
  Adapter adapter(shape);
  adapter.add(0, AdapterTarget::kOutput, 0, sizeof(T) == 2 ? WeightKind::kBf16 : WeightKind::kF32,
              length(rank), length(a.shape(1)), reinterpret_cast<const uint8_t*>(a.data()),
              length(rows), reinterpret_cast<const uint8_t*>(b.data()), scale);
  const LowRank& factors = *adapter.find(0, AdapterTarget::kOutput, 0);
  const auto stride = static_cast<size_t>(factors.stride());
  std::vector<float> padded(tokens * stride), inner(tokens * factors.rank_stride());
  std::vector<int32_t> index(tokens);
  for (size_t t = 0; t < tokens; ++t) {
    std::copy_n(x.data() + t * x.shape(1), x.shape(1), &padded[t * stride]);
    index[t] = static_cast<int32_t>(t);
  }
  Out<float> out = new_array<float>({tokens, rows});
  std::copy_n(base.data(), tokens * rows, out.data());
  const LowRankTask task{&factors, length(tokens), padded.data(), factors.stride(), index.data(),
                         inner.data(), factors.rank_stride(), out.data(),
                         static_cast<ptrdiff_t>(rows), index.data()};
  const int32_t step = length(share);
  for (int32_t t = 0; t < task.tokens; t += step)
    k.low_rank_shrink(task, t, std::min(task.tokens, t + step));
  for (int32_t p = 0; p < factors.panels(); p += step)
    k.low_rank_expand(task, p, std::min(factors.panels(), p + step));
  return out;
}

// Query rows [rows, dim] of one KV head against contiguous float32 keys and values [n, dim].
Out<float> bind_attention(const std::string& isa, In<float, 2> query, In<float, 2> keys,
                          In<float, 2> values, In<int32_t, 1> first, In<int32_t, 1> last,
                          In<float, 1> sink, bool half) {
  const Kernels k = choose_kernels(isa);
  const size_t rows = query.shape(0);
  const size_t dim = query.shape(1);
  const size_t positions = keys.shape(0);
  require(rows >= 1 && rows <= kAttentionRows && dim % 8 == 0, "1 to 8 rows, head_dim in eights");
  require(keys.shape(1) == dim && values.shape(0) == positions && values.shape(1) == dim &&
              first.shape(0) == rows && last.shape(0) == rows && sink.shape(0) == rows,
          "shapes of keys, values, ranges and sinks must match the query");
  const size_t pages = (positions + kPageTokens - 1) / kPageTokens;
  const size_t element = half ? 2 : 4;
  const size_t plane = kPageTokens * dim * element;
  std::vector<uint8_t> pool(pages * 2 * plane);
  for (size_t p = 0; p < positions; ++p)
    for (int side = 0; side < 2; ++side) {
      const float* from = (side ? values.data() : keys.data()) + p * dim;
      uint8_t* to = &pool[p / kPageTokens * 2 * plane + static_cast<size_t>(side) * plane +
                          p % kPageTokens * dim * element];
      if (half) {
        k.to_half(from, length(dim), reinterpret_cast<uint16_t*>(to));
      } else {
        std::copy_n(reinterpret_cast<const uint8_t*>(from), dim * 4, to);
      }
    }
  std::vector<int32_t> table(pages);
  for (size_t p = 0; p < pages; ++p) table[p] = static_cast<int32_t>(p);
  std::vector<float> scratch(attention_scratch_floats(length(dim)));
  Out<float> out = new_array<float>({rows, dim});
  AttentionTask task{};
  task.rows = length(rows);
  task.head_dim = length(dim);
  for (size_t r = 0; r < rows; ++r) {
    require(first.data()[r] >= 0 && static_cast<size_t>(last.data()[r]) <= positions &&
                first.data()[r] < last.data()[r],
            "ranges must lie within the positions");
    task.query[r] = query.data() + r * dim;
    task.out[r] = out.data() + r * dim;
    task.first[r] = first.data()[r];
    task.last[r] = last.data()[r];
    task.sink[r] = sink.data()[r];
  }
  task.pages = table.data();
  task.pool = pool.data();
  task.page_stride = 2 * plane;
  task.half = half;
  task.scratch = scratch.data();
  k.attention(task);
  return out;
}

}  // namespace

void bind_kernels(nb::module_& m) {
  m.def("matmul", &bind_matmul, nb::arg("isa"), nb::arg("kind"), nb::arg("rows"),
        nb::arg("panels"), nb::arg("x"), nb::kw_only(), nb::arg("quantized"));
  m.def("quantize_int8", &bind_quantize_int8, nb::arg("isa"), nb::arg("x"));
  m.def("quantize_int16", &bind_quantize_int16, nb::arg("isa"), nb::arg("x"));
  m.def("rms_norm", &bind_rms_norm, nb::arg("isa"), nb::arg("x"), nb::arg("weight"),
        nb::arg("epsilon"));
  m.def("swiglu", &bind_swiglu, nb::arg("isa"), nb::arg("gate_up"), nb::arg("n"),
        nb::arg("alpha"), nb::arg("limit"));
  m.def("attention", &bind_attention, nb::arg("isa"), nb::arg("query"), nb::arg("keys"),
        nb::arg("values"), nb::arg("first"), nb::arg("last"), nb::arg("sink"), nb::kw_only(),
        nb::arg("half"));

  m.def("low_rank_f32", &bind_low_rank<float>, nb::arg("isa"), nb::arg("a"), nb::arg("b"),
        nb::arg("scale"), nb::arg("x"), nb::arg("base"), nb::arg("share"));
  m.def("low_rank_bf16", &bind_low_rank<uint16_t>, nb::arg("isa"), nb::arg("a"), nb::arg("b"),
        nb::arg("scale"), nb::arg("x"), nb::arg("base"), nb::arg("share"));
}

}  // namespace osslo
