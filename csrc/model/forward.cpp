#include "model/forward.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>
#include <string>

namespace osslo {
namespace {

// Rows times width below which handing work to other threads costs more than it saves
// (a hand-over takes 1 to 2 microseconds).
constexpr int64_t kInlineWork = 8192;

// Panels per task: about this many tasks per thread even out the end of a loop, while a task stays
// long enough for the memory prefetchers to settle (a panel of 2880 columns is 12 KB, but the
// router's, in float32, are 90).
constexpr int kTasksPerThread = 12;
constexpr int kLeastPanels = 4;
constexpr int64_t kLeastBytes = 48 * 1024;  // that are enough with fewer panels

// What a thread's matrix products need, rounded up to a cache line.
size_t matmul_scratch_size(const ModelShape& shape, const Kernels& kernels) {
  const int32_t columns = std::max({shape.hidden, shape.query_width(), shape.intermediate});
  return (kernels.matmul_scratch_bytes(columns) + 63) / 64 * 64;
}

int32_t round_up(int32_t n, int32_t unit) { return (n + unit - 1) / unit * unit; }

template <class T>
void grow(std::vector<T>& v, size_t n) {
  if (v.size() < n) v.assign(n, T{});
}

[[noreturn]] void invalid(const std::string& what) { throw std::invalid_argument(what); }

}  // namespace

Forward::Forward(const Weights& weights, const Kernels& kernels, ThreadPool& pool)
    : weights_(weights),
      shape_(weights.shape()),
      kernels_(kernels),
      pool_(pool),
      adapters_(shape_, kernels_, pool_),
      matmul_scratch_bytes_(matmul_scratch_size(shape_, kernels)),
      matmul_scratch_(matmul_scratch_bytes_ * static_cast<size_t>(pool.size()) + 1) {}

void Forward::run(KvCache& kv, const Step& step, float* logits) {
  validate(kv, step);
  prepare(step);
  for_rows(step.rows, [&](int32_t t) {
    weights_.embed(step.token_ids[t], &residual_[static_cast<size_t>(t) * shape_.hidden]);
  });
  active_experts_ = 0;
  int32_t seen[2] = {0, 0};
  for (int32_t i = 0; i < shape_.layers(); ++i) {
    const LayerWeights& layer = weights_.layer(i);
    const bool window = shape_.window_layers[static_cast<size_t>(i)];
    attention_block(layer, i, kv.of(window), seen[window]++, step, window);
    expert_block(layer, i, step.rows);
  }
  write_logits(step, logits);
}

void Forward::validate(const KvCache& kv, const Step& step) const {
  if (step.sequence_starts[0] != 0 || step.sequence_starts[step.sequences] != step.rows)
    invalid("sequence_starts must begin at 0 and end at the number of rows");
  for (int32_t s = 0; s < step.sequences; ++s) {
    const int32_t begin = step.sequence_starts[s];
    const int32_t end = step.sequence_starts[s + 1];
    if (begin >= end) invalid("sequence " + std::to_string(s) + " has no rows");
    const int32_t first = step.positions[begin];
    for (int32_t t = begin; t < end; ++t) {
      if (step.token_ids[t] < 0 || step.token_ids[t] >= shape_.vocab_size)
        invalid("token id " + std::to_string(step.token_ids[t]) + " is outside the vocabulary");
      if (step.positions[t] < 0 || step.positions[t] != first + (t - begin))
        invalid("positions of a sequence must be consecutive");
    }
    const int32_t last_page = step.positions[end - 1] / kPageTokens;
    if (last_page >= step.table_width) invalid("page table is too narrow");
    const int32_t window_first = std::max(0, first - shape_.sliding_window + 1) / kPageTokens;
    const int32_t* full = step.full_pages + static_cast<ptrdiff_t>(s) * step.table_width;
    const int32_t* window = step.window_pages + static_cast<ptrdiff_t>(s) * step.table_width;
    for (int32_t p = 0; p <= last_page; ++p) {
      if (kv.full.page_bytes() && (full[p] < 0 || full[p] >= kv.full.pages()))
        invalid("full page table names a page outside the pool");
      if (p >= window_first && kv.window.page_bytes() &&
          (window[p] < 0 || window[p] >= kv.window.pages()))
        invalid("window page table names a page outside the pool");
    }
  }
  for (int32_t i = 0; i < step.logit_count; ++i)
    if (step.logit_rows[i] < 0 || step.logit_rows[i] >= step.rows)
      invalid("logit_rows names a row outside the step");
  if (step.sequence_adapters == nullptr) return;
  for (int32_t s = 0; s < step.sequences; ++s)
    if (step.sequence_adapters[s] >= step.adapter_count)
      invalid("sequence " + std::to_string(s) + " names an adapter outside the step");
  for (int32_t a = 0; a < step.adapter_count; ++a)
    if (step.adapters[a]->layers() != shape_.layers() ||
        step.adapters[a]->experts() != shape_.experts)
      invalid("an adapter was made for another model");
}

void Forward::reserve(int32_t rows, int32_t logit_count) {
  const auto n = static_cast<size_t>(std::max(rows, logit_count));
  const auto pairs = n * static_cast<size_t>(shape_.experts_per_token);
  const auto hidden = static_cast<size_t>(round_up(shape_.hidden, kBlock));
  const auto query = static_cast<size_t>(round_up(shape_.query_width(), kBlock));
  const auto inner = static_cast<size_t>(round_up(shape_.intermediate, kBlock));
  grow(residual_, n * static_cast<size_t>(shape_.hidden));
  grow(normed_, n * hidden);
  grow(qkv_, n * static_cast<size_t>(shape_.query_width() + 2 * shape_.kv_width()));
  grow(attended_, n * query);
  grow(router_, n * static_cast<size_t>(shape_.experts));
  grow(gate_up_, pairs * static_cast<size_t>(shape_.gate_up_rows()));
  grow(activated_, pairs * inner);
  grow(expert_out_, pairs * static_cast<size_t>(shape_.hidden));
  grow(cosine_, n * static_cast<size_t>(shape_.head_dim / 2));
  grow(sine_, cosine_.size());
  const size_t widest = std::max({n * hidden, n * query, pairs * inner});
  grow(int8_, widest);
  grow(int16_, widest);
  grow(scales_, widest / kBlock);
  grow(block_scales_, widest / kBlock);
  grow(outliers_, widest / kBlock);
  grow(outlier_counts_, pairs);
  grow(scratch_, attention_scratch_floats(shape_.head_dim) * static_cast<size_t>(pool_.size()));
  grow(row_sequence_, n);
  grow(chosen_, pairs);
  grow(chosen_weight_, pairs);
  grow(slot_, pairs);
  grow(pair_row_, pairs);
  while (in_order_.size() < pairs) in_order_.push_back(static_cast<int32_t>(in_order_.size()));
  grow(expert_begin_, static_cast<size_t>(shape_.experts) + 1);
}

// What all layers share: rotary angles, which sequence a row is of, and attention's tiles.
void Forward::prepare(const Step& step) {
  reserve(step.rows, step.logit_count);
  adapters_.begin(step.adapters, step.adapter_count, step.sequence_adapters, step.sequences,
                  step.sequence_starts);
  const int32_t half = shape_.head_dim / 2;
  for_rows(step.rows, [&](int32_t t) {
    const auto position = static_cast<float>(step.positions[t]);
    for (int32_t i = 0; i < half; ++i) {
      const float angle = position * shape_.inverse_frequencies[static_cast<size_t>(i)];
      cosine_[static_cast<size_t>(t) * half + i] = std::cos(angle) * shape_.rope_scale;
      sine_[static_cast<size_t>(t) * half + i] = std::sin(angle) * shape_.rope_scale;
    }
  });
  tiles_.clear();
  for (int32_t s = 0; s < step.sequences; ++s) {
    const int32_t tokens = step.sequence_starts[s + 1] - step.sequence_starts[s];
    for (int32_t t = 0; t < tokens; ++t) row_sequence_[step.sequence_starts[s] + t] = s;
    const int32_t rows = tokens * shape_.group();
    for (int32_t h = 0; h < shape_.kv_heads; ++h)
      for (int32_t r = 0; r < rows; r += kAttentionRows)
        tiles_.push_back({s, h, r, std::min(kAttentionRows, rows - r)});
  }
}

template <class Body>
void Forward::for_rows(int32_t rows, const Body& body) {
  if (static_cast<int64_t>(rows) * shape_.hidden <= kInlineWork) {
    for (int32_t t = 0; t < rows; ++t) body(t);
  } else {
    pool_.run(rows, [&](int task, int) { body(task); });
  }
}

void Forward::normalize(const float* x, const float* weight, int32_t rows) {
  const int32_t stride = round_up(shape_.hidden, kBlock);
  for_rows(rows, [&](int32_t t) {
    kernels_.rms_norm(x + static_cast<ptrdiff_t>(t) * shape_.hidden, weight, shape_.hidden,
                      shape_.rms_epsilon, &normed_[static_cast<size_t>(t) * stride]);
  });
}

// `floats` [rows, columns rounded up to blocks] in the form that weights of kind `reader` take.
Activations Forward::activations(const float* floats, int32_t columns, int32_t rows,
                                 WeightKind reader) {
  const int32_t stride = round_up(columns, kBlock);
  const int32_t blocks = stride / kBlock;
  Activations x;
  x.stride = stride;
  x.floats = floats;
  const bool quantized = reader == WeightKind::kMxfp4 || reader == WeightKind::kQ8;
  if (!shape_.quantize_activations || !quantized) return x;
  if (reader == WeightKind::kQ8) {
    x.int16 = int16_.data();
    x.scales = scales_.data();
    for_rows(rows, [&](int32_t t) {
      const auto row = static_cast<size_t>(t);
      kernels_.quantize_int16(floats + row * stride, columns, &int16_[row * stride],
                              &scales_[row * blocks]);
    });
    return x;
  }
  x.int8 = int8_.data();
  x.block_scales = block_scales_.data();
  x.outliers = outliers_.data();
  x.outlier_counts = outlier_counts_.data();
  for_rows(rows, [&](int32_t t) {
    const auto row = static_cast<size_t>(t);
    outlier_counts_[row] =
        kernels_.quantize_int8(floats + row * stride, columns, &int8_[row * stride],
                               &block_scales_[row * blocks], &outliers_[row * blocks]);
  });
  return x;
}

void Forward::matmul(const PanelMatrix& weights, const float* bias, const Activations& x,
                     int32_t rows, float* out, ptrdiff_t out_stride, bool accumulate) {
  const int32_t panels = weights.panels();
  const int32_t share = panel_share(panels, weights);
  pool_.run((panels + share - 1) / share, [&](int task, int thread) {
    kernels_.matmul({&weights, bias, task * share, std::min(panels, (task + 1) * share), x,
                     nullptr, rows, out, out_stride, accumulate, matmul_scratch(thread)});
  });
}

// Panels of one task where there are `panels` like those of `weights` in all: an even number, for
// kernels that take pairs.
int32_t Forward::panel_share(int32_t panels, const PanelMatrix& weights) const {
  const int32_t share = panels / (kTasksPerThread * static_cast<int32_t>(pool_.size()));
  const auto enough = static_cast<int32_t>(kLeastBytes / static_cast<int64_t>(weights.panel_bytes()));
  return round_up(std::max({1, share, std::min(kLeastPanels, enough)}), 2);
}

void Forward::attention_block(const LayerWeights& layer, int32_t number, PagePool& pages,
                              int32_t layer_of_kind, const Step& step, bool window) {
  const int32_t* table = window ? step.window_pages : step.full_pages;
  const ptrdiff_t width = layer.qkv.rows;
  normalize(residual_.data(), layer.attention_norm, step.rows);
  const Activations x = activations(normed_.data(), shape_.hidden, step.rows, layer.qkv.kind);
  matmul(layer.qkv, layer.qkv_bias, x, step.rows, qkv_.data(), width, false);
  if (adapters_.active()) adapters_.project(number, normed_.data(), qkv_.data(), width);
  store_kv(pages, layer_of_kind, step, table);
  attend(layer, pages, layer_of_kind, step, table, window);
  const Activations a = activations(attended_.data(), shape_.query_width(), step.rows, layer.o.kind);
  matmul(layer.o, layer.o_bias, a, step.rows, residual_.data(), shape_.hidden, true);
  if (adapters_.active()) adapters_.output(number, attended_.data(), residual_.data());
}

// Rotates queries (scaling them for the dot product) and keys, and writes K and V to their pages.
void Forward::store_kv(PagePool& pages, int32_t layer_of_kind, const Step& step,
                       const int32_t* table) {
  const int32_t dim = shape_.head_dim;
  const float query_scale = 1.0f / std::sqrt(static_cast<float>(dim));
  const size_t width = static_cast<size_t>(weights_.layer(0).qkv.rows);
  for_rows(step.rows, [&](int32_t t) {
    const auto row = static_cast<size_t>(t);
    float* q = &qkv_[row * width];
    float* k = q + shape_.query_width();
    const float* v = k + shape_.kv_width();
    const float* cosine = &cosine_[row * static_cast<size_t>(dim / 2)];
    const float* sine = &sine_[row * static_cast<size_t>(dim / 2)];
    kernels_.rope(q, shape_.heads, dim, cosine, sine, query_scale);
    kernels_.rope(k, shape_.kv_heads, dim, cosine, sine, 1.0f);
    const int32_t position = step.positions[t];
    const int32_t page = table[static_cast<ptrdiff_t>(row_sequence_[row]) * step.table_width +
                               position / kPageTokens];
    const size_t at = pages.page_bytes() * static_cast<size_t>(page) +
                      pages.row_bytes() * static_cast<size_t>(position % kPageTokens);
    const size_t plane = kPageTokens * pages.row_bytes();
    for (int32_t h = 0; h < shape_.kv_heads; ++h) {
      uint8_t* to = pages.base(layer_of_kind, h) + at;
      if (shape_.half_kv) {
        kernels_.to_half(k + h * dim, dim, reinterpret_cast<uint16_t*>(to));
        kernels_.to_half(v + h * dim, dim, reinterpret_cast<uint16_t*>(to + plane));
      } else {
        std::memcpy(to, k + h * dim, pages.row_bytes());
        std::memcpy(to + plane, v + h * dim, pages.row_bytes());
      }
    }
  });
}

void Forward::attend(const LayerWeights& layer, const PagePool& pages, int32_t layer_of_kind,
                     const Step& step, const int32_t* table, bool window) {
  const int32_t dim = shape_.head_dim;
  const int32_t group = shape_.group();
  const ptrdiff_t out_width = round_up(shape_.query_width(), kBlock);
  const size_t scratch = attention_scratch_floats(dim);
  pool_.run(static_cast<int>(tiles_.size()), [&](int index, int thread) {
    // Later rows see more positions: longest first evens out the end of the loop.
    const AttentionTile& tile = tiles_[tiles_.size() - 1 - static_cast<size_t>(index)];
    AttentionTask task{};
    task.rows = tile.rows;
    task.head_dim = dim;
    task.pages = table + static_cast<ptrdiff_t>(tile.sequence) * step.table_width;
    task.pool = pages.base(layer_of_kind, tile.kv_head);
    task.page_stride = pages.page_bytes();
    task.half = shape_.half_kv;
    task.scratch = &scratch_[scratch * static_cast<size_t>(thread)];
    for (int32_t r = 0; r < tile.rows; ++r) {
      const int32_t t = step.sequence_starts[tile.sequence] + (tile.first_row + r) / group;
      const int32_t head = tile.kv_head * group + (tile.first_row + r) % group;
      const int32_t position = step.positions[t];
      task.query[r] = &qkv_[static_cast<size_t>(t) * layer.qkv.rows + head * dim];
      task.out[r] = &attended_[static_cast<size_t>(t * out_width + head * dim)];
      task.first[r] = window ? std::max(0, position - shape_.sliding_window + 1) : 0;
      task.last[r] = position + 1;
      task.sink[r] = layer.sinks[head];
    }
    kernels_.attention(task);
  });
}

void Forward::expert_block(const LayerWeights& layer, int32_t number, int32_t rows) {
  normalize(residual_.data(), layer.mlp_norm, rows);
  route(layer, rows);
  group_by_expert(rows);
  if (adapters_.active()) adapters_.group_pairs(expert_begin_.data(), pair_row_.data());
  run_experts(layer, number, rows);
  combine(rows);
}

// Router in float32; the highest experts_per_token logits, ties to the lower expert, and the
// softmax over them.
void Forward::route(const LayerWeights& layer, int32_t rows) {
  const int32_t experts = shape_.experts;
  const int32_t top = shape_.experts_per_token;
  Activations x;
  x.floats = normed_.data();
  x.stride = round_up(shape_.hidden, kBlock);
  matmul(layer.router, layer.router_bias, x, rows, router_.data(), experts, false);
  for (int32_t t = 0; t < rows; ++t) {
    const float* logits = &router_[static_cast<size_t>(t) * experts];
    int32_t* chosen = &chosen_[static_cast<size_t>(t) * top];
    float* weight = &chosen_weight_[static_cast<size_t>(t) * top];
    for (int32_t k = 0; k < top; ++k) {
      int32_t best = -1;
      for (int32_t e = 0; e < experts; ++e)
        if (std::find(chosen, chosen + k, e) == chosen + k &&
            (best < 0 || logits[e] > logits[best]))
          best = e;
      chosen[k] = best;
    }
    float total = 0;
    for (int32_t k = 0; k < top; ++k) total += weight[k] = std::exp(logits[chosen[k]] - logits[chosen[0]]);
    for (int32_t k = 0; k < top; ++k) weight[k] /= total;
  }
}

// Counting sort of (row, choice) pairs, so that each expert's rows are neighbours.
void Forward::group_by_expert(int32_t rows) {
  const int32_t top = shape_.experts_per_token;
  const int32_t pairs = rows * top;
  std::fill(expert_begin_.begin(), expert_begin_.end(), 0);
  for (int32_t p = 0; p < pairs; ++p) ++expert_begin_[static_cast<size_t>(chosen_[p]) + 1];
  for (int32_t e = 0; e < shape_.experts; ++e) {
    active_experts_ += expert_begin_[e + 1] > 0;
    expert_begin_[e + 1] += expert_begin_[e];
  }
  for (int32_t p = 0; p < pairs; ++p) {
    const int32_t place = expert_begin_[chosen_[p]]++;
    slot_[p] = place;
    pair_row_[place] = p / top;
  }
  for (int32_t e = shape_.experts; e > 0; --e) expert_begin_[e] = expert_begin_[e - 1];
  expert_begin_[0] = 0;
}

void Forward::list_expert_tasks(const PanelMatrix& weights) {
  const int32_t panels = weights.panels();
  int32_t active = 0;
  for (int32_t e = 0; e < shape_.experts; ++e) active += expert_begin_[e + 1] > expert_begin_[e];
  const int32_t share = panel_share(panels * active, weights);
  expert_tasks_.clear();
  for (int32_t e = 0; e < shape_.experts; ++e) {
    if (expert_begin_[e + 1] == expert_begin_[e]) continue;
    for (int32_t p = 0; p < panels; p += share)
      expert_tasks_.push_back({e, p, std::min(panels, p + share)});
  }
}

void Forward::run_experts(const LayerWeights& layer, int32_t number, int32_t rows) {
  const int32_t pairs = rows * shape_.experts_per_token;
  const int32_t wide = shape_.gate_up_rows();
  const Activations x =
      activations(normed_.data(), shape_.hidden, rows, layer.gate_up.kind);
  list_expert_tasks(layer.gate_up);
  pool_.run(static_cast<int>(expert_tasks_.size()), [&](int index, int thread) {
    const ExpertTask& task = expert_tasks_[static_cast<size_t>(index)];
    const int32_t begin = expert_begin_[task.expert];
    const PanelMatrix weights = weights_.gate_up(layer, task.expert);
    kernels_.matmul({&weights, weights_.gate_up_bias(layer, task.expert), task.panel_begin,
                     task.panel_end, x, &pair_row_[begin], expert_begin_[task.expert + 1] - begin,
                     &gate_up_[static_cast<size_t>(begin) * wide], wide, false,
                     matmul_scratch(thread)});
  });
  if (adapters_.active()) adapters_.gate_up(number, normed_.data(), gate_up_.data());

  const int32_t stride = round_up(shape_.intermediate, kBlock);
  for_rows(pairs, [&](int32_t p) {
    kernels_.swiglu(&gate_up_[static_cast<size_t>(p) * wide], shape_.intermediate,
                    shape_.swiglu_alpha, shape_.swiglu_limit,
                    &activated_[static_cast<size_t>(p) * stride]);
  });

  const Activations h =
      activations(activated_.data(), shape_.intermediate, pairs, layer.down.kind);
  list_expert_tasks(layer.down);
  pool_.run(static_cast<int>(expert_tasks_.size()), [&](int index, int thread) {
    const ExpertTask& task = expert_tasks_[static_cast<size_t>(index)];
    const int32_t begin = expert_begin_[task.expert];
    const PanelMatrix weights = weights_.down(layer, task.expert);
    kernels_.matmul({&weights, weights_.down_bias(layer, task.expert), task.panel_begin,
                     task.panel_end, h, &in_order_[begin], expert_begin_[task.expert + 1] - begin,
                     &expert_out_[static_cast<size_t>(begin) * shape_.hidden], shape_.hidden,
                     false, matmul_scratch(thread)});
  });
  if (adapters_.active()) adapters_.down(number, activated_.data(), expert_out_.data());
}

// residual += sum over a row's experts, best first, of weight * output.
void Forward::combine(int32_t rows) {
  const int32_t top = shape_.experts_per_token;
  for_rows(rows, [&](int32_t t) {
    float* out = &residual_[static_cast<size_t>(t) * shape_.hidden];
    for (int32_t k = 0; k < top; ++k) {
      const size_t pair = static_cast<size_t>(t) * top + k;
      kernels_.add_scaled(&expert_out_[static_cast<size_t>(slot_[pair]) * shape_.hidden],
                          chosen_weight_[pair], shape_.hidden, out);
    }
  });
}

void Forward::write_logits(const Step& step, float* logits) {
  if (step.logit_count == 0) return;
  const int32_t stride = round_up(shape_.hidden, kBlock);
  for_rows(step.logit_count, [&](int32_t i) {
    kernels_.rms_norm(&residual_[static_cast<size_t>(step.logit_rows[i]) * shape_.hidden],
                      weights_.final_norm(), shape_.hidden, shape_.rms_epsilon,
                      &normed_[static_cast<size_t>(i) * stride]);
  });
  const Activations x =
      activations(normed_.data(), shape_.hidden, step.logit_count, weights_.head().kind);
  matmul(weights_.head(), nullptr, x, step.logit_count, logits, shape_.vocab_size, false);
}

}  // namespace osslo
