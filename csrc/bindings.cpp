// The only file that knows Python. It checks shape, dtype and contiguity once (the annotations on
// the arrays), then releases the GIL.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/unordered_map.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <memory>
#include <mutex>
#include <stdexcept>

#include "kernels/dispatch.h"
#include "kernels/kernels.h"
#include "kernels/lora.h"
#include "model/adapter.h"
#include "model/forward.h"
#include "model/kv_cache.h"
#include "model/packing.h"
#include "model/weights.h"
#include "platform/thread_pool.h"

namespace nb = nanobind;
using namespace osslo;  // NOLINT: bindings name nearly everything in it

namespace {

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

void require(bool condition, const char* message) {
  if (!condition) throw std::invalid_argument(message);
}

int32_t length(size_t n) {
  require(n <= INT32_MAX, "array is too long");
  return static_cast<int32_t>(n);
}

// --- packing ------------------------------------------------------------------------------------

PanelMatrix panel_shape(WeightKind kind, size_t rows, size_t columns) {
  return {kind, length(rows), length(columns), nullptr};
}

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

// --- single kernels, for tests ------------------------------------------------------------------

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

// --- the model ----------------------------------------------------------------------------------

// Weights, kernels, threads and the forward pass. One step at a time.
class NativeModel {
 public:
  NativeModel(const std::string& path, const ModelShape& shape,
              const std::unordered_map<std::string, TensorEntry>& tensors, int threads,
              const std::string& isa)
      : weights_(path, shape, tensors),
        kernels_(choose_kernels(isa)),
        pool_(threads > 0 ? threads : usable_threads()),
        forward_(weights_, kernels_, pool_) {}

  // Python owns what this returns.
  KvCache* new_kv(int32_t full_pages, int32_t window_pages) const {
    require(full_pages >= 0 && window_pages >= 0, "page counts must not be negative");
    return new KvCache(weights_.shape(), full_pages, window_pages);
  }

  Out<float> forward(KvCache& kv, In<int32_t, 1> token_ids, In<int32_t, 1> positions,
                     In<int32_t, 1> sequence_starts, In<int32_t, 2> full_pages,
                     In<int32_t, 2> window_pages, In<int32_t, 1> logit_rows,
                     const std::vector<const Adapter*>& adapters,
                     In<int32_t, 1> sequence_adapters) {
    Step step;
    step.rows = length(token_ids.shape(0));
    step.sequences = length(sequence_starts.shape(0)) - 1;
    step.table_width = length(full_pages.shape(1));
    step.logit_count = length(logit_rows.shape(0));
    require(step.rows > 0 && positions.shape(0) == token_ids.shape(0),
            "a step needs rows, and a position for each");
    require(step.sequences > 0 && full_pages.shape(0) + 1 == sequence_starts.shape(0) &&
                window_pages.shape(0) == full_pages.shape(0) &&
                window_pages.shape(1) == full_pages.shape(1),
            "page tables must be [sequences, pages] and of one shape");
    step.token_ids = token_ids.data();
    step.positions = positions.data();
    step.sequence_starts = sequence_starts.data();
    step.full_pages = full_pages.data();
    step.window_pages = window_pages.data();
    step.logit_rows = logit_rows.data();
    if (!adapters.empty()) {
      require(sequence_adapters.shape(0) + 1 == sequence_starts.shape(0),
              "sequence_adapters takes one entry for each sequence");
      step.adapters = adapters.data();
      step.adapter_count = length(adapters.size());
      step.sequence_adapters = sequence_adapters.data();
    }
    const auto vocab = static_cast<size_t>(weights_.shape().vocab_size);
    Out<float> logits = new_array<float>({logit_rows.shape(0), vocab});
    nb::gil_scoped_release unlocked;
    const std::lock_guard<std::mutex> one_step(mutex_);
    forward_.run(kv, step, logits.data());
    return logits;
  }

  Adapter* new_adapter() const { return new Adapter(weights_.shape()); }

  size_t page_bytes(bool window) const { return PagePool::page_bytes(weights_.shape(), window); }
  int32_t active_experts() const { return forward_.active_experts(); }
  int threads() const { return pool_.size(); }
  std::string isa() const { return kernels_.name; }

 private:
  Weights weights_;
  Kernels kernels_;
  ThreadPool pool_;
  Forward forward_;
  std::mutex mutex_;
};

template <class T>
void bind_add_factors(Adapter& adapter, int32_t layer, AdapterTarget target, int32_t expert,
                      In<T, 2> a, In<T, 2> b, float scale) {
  require(a.shape(0) == b.shape(1), "a [rank, columns] and b [rows, rank] must share the rank");
  nb::gil_scoped_release unlocked;
  adapter.add(layer, target, expert, sizeof(T) == 2 ? WeightKind::kBf16 : WeightKind::kF32,
              length(a.shape(0)), length(a.shape(1)), reinterpret_cast<const uint8_t*>(a.data()),
              length(b.shape(0)), reinterpret_cast<const uint8_t*>(b.data()), scale);
}

void bind_copy_page(KvCache& kv, bool window, int32_t source, int32_t target, int32_t tokens) {
  PagePool& pool = kv.of(window);
  require(source >= 0 && source < pool.pages() && target >= 0 && target < pool.pages() &&
              tokens >= 0 && tokens <= kPageTokens,
          "copy_page: page or token count outside the pool");
  nb::gil_scoped_release unlocked;
  pool.copy(source, target, tokens);
}

// A page's own memory, not a copy; the array keeps the cache alive.
Out<uint8_t> bind_page(nb::handle self, bool window, int32_t page) {
  const PagePool& pool = nb::cast<KvCache&>(self).of(window);
  require(page >= 0 && page < pool.pages(), "page: number outside the pool");
  return Out<uint8_t>(pool.page(page), {pool.page_bytes()}, self);
}

}  // namespace

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

  m.def("pack_mxfp4", &bind_pack_mxfp4, nb::arg("blocks"), nb::arg("scales"));
  m.def("pack_q8", &bind_pack_q8, nb::arg("values"), nb::arg("scales"));
  m.def("pack_bf16", &bind_pack_plain<uint16_t>, nb::arg("bits"));
  m.def("pack_f32", &bind_pack_plain<float>, nb::arg("values"));
  m.def("quantize_q8", &bind_quantize_q8, nb::arg("values"));

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

  nb::class_<ModelShape>(m, "ModelShape")
      .def(nb::init<>())
      .def_rw("hidden", &ModelShape::hidden)
      .def_rw("heads", &ModelShape::heads)
      .def_rw("kv_heads", &ModelShape::kv_heads)
      .def_rw("head_dim", &ModelShape::head_dim)
      .def_rw("intermediate", &ModelShape::intermediate)
      .def_rw("experts", &ModelShape::experts)
      .def_rw("experts_per_token", &ModelShape::experts_per_token)
      .def_rw("vocab_size", &ModelShape::vocab_size)
      .def_rw("sliding_window", &ModelShape::sliding_window)
      .def_rw("rms_epsilon", &ModelShape::rms_epsilon)
      .def_rw("swiglu_alpha", &ModelShape::swiglu_alpha)
      .def_rw("swiglu_limit", &ModelShape::swiglu_limit)
      .def_rw("rope_scale", &ModelShape::rope_scale)
      .def_rw("inverse_frequencies", &ModelShape::inverse_frequencies)
      .def_rw("window_layers", &ModelShape::window_layers)
      .def_rw("quantize_activations", &ModelShape::quantize_activations)
      .def_rw("half_kv", &ModelShape::half_kv);

  nb::class_<TensorEntry>(m, "TensorEntry")
      .def("__init__",
           [](TensorEntry* self, WeightKind kind, int32_t rows, int32_t columns, uint64_t offset,
              uint64_t bytes) { new (self) TensorEntry{kind, rows, columns, offset, bytes}; },
           nb::arg("kind"), nb::arg("rows"), nb::arg("columns"), nb::arg("offset"),
           nb::arg("bytes"));

  nb::enum_<AdapterTarget>(m, "AdapterTarget")
      .value("QUERY", AdapterTarget::kQuery)
      .value("KEY", AdapterTarget::kKey)
      .value("VALUE", AdapterTarget::kValue)
      .value("OUTPUT", AdapterTarget::kOutput)
      .value("GATE_UP", AdapterTarget::kGateUp)
      .value("DOWN", AdapterTarget::kDown);

  nb::class_<Adapter>(m, "Adapter")
      .def("add_f32", &bind_add_factors<float>, nb::arg("layer"), nb::arg("target"),
           nb::arg("expert"), nb::arg("a"), nb::arg("b"), nb::arg("scale"))
      .def("add_bf16", &bind_add_factors<uint16_t>, nb::arg("layer"), nb::arg("target"),
           nb::arg("expert"), nb::arg("a"), nb::arg("b"), nb::arg("scale"))
      .def_prop_ro("bytes", &Adapter::bytes);

  nb::class_<KvCache>(m, "KvCache")
      .def("copy_page", &bind_copy_page, nb::kw_only(), nb::arg("window"), nb::arg("source"),
           nb::arg("target"), nb::arg("tokens"))
      .def("page", &bind_page, nb::kw_only(), nb::arg("window"), nb::arg("page"))
      .def_prop_ro("full_pages", [](const KvCache& kv) { return kv.full.pages(); })
      .def_prop_ro("window_pages", [](const KvCache& kv) { return kv.window.pages(); });

  nb::class_<NativeModel>(m, "NativeModel")
      .def(nb::init<const std::string&, const ModelShape&,
                    const std::unordered_map<std::string, TensorEntry>&, int, const std::string&>(),
           nb::arg("path"), nb::arg("shape"), nb::arg("tensors"), nb::arg("threads"),
           nb::arg("isa"))
      .def("new_kv", &NativeModel::new_kv, nb::arg("full_pages"), nb::arg("window_pages"),
           nb::rv_policy::take_ownership)
      .def("forward", &NativeModel::forward, nb::arg("kv"), nb::arg("token_ids"),
           nb::arg("positions"), nb::arg("sequence_starts"), nb::arg("full_pages"),
           nb::arg("window_pages"), nb::arg("logit_rows"), nb::arg("adapters"),
           nb::arg("sequence_adapters"))
      .def("new_adapter", &NativeModel::new_adapter, nb::rv_policy::take_ownership)
      .def("page_bytes", &NativeModel::page_bytes, nb::kw_only(), nb::arg("window"))
      .def_prop_ro("active_experts", &NativeModel::active_experts)
      .def_prop_ro("threads", &NativeModel::threads)
      .def_prop_ro("isa", &NativeModel::isa);
}
