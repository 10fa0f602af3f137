// The model, its KV memory and adapters.
#include "bindings/arrays.h"

#include <nanobind/stl/string.h>
#include <nanobind/stl/unordered_map.h>
#include <nanobind/stl/vector.h>

#include <mutex>
#include <string>
#include <vector>

#include "kernels/dispatch.h"
#include "model/adapter.h"
#include "model/forward.h"
#include "model/kv_cache.h"
#include "model/weights.h"
#include "platform/thread_pool.h"

namespace osslo {
namespace {

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

void bind_model(nb::module_& m) {
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

}  // namespace osslo
