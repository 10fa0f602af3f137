// The layer loop over one ragged batch: prefill and decode are the same code.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/kernels.h"
#include "model/adapter_pass.h"
#include "model/kv_cache.h"
#include "model/weights.h"
#include "platform/memory.h"
#include "platform/thread_pool.h"

namespace osslo {

// One step of `sequences` sequences and `rows` tokens; see osslo.model.forward.ForwardInput.
struct Step {
  int32_t rows = 0;
  int32_t sequences = 0;
  int32_t table_width = 0;
  int32_t logit_count = 0;
  const int32_t* token_ids = nullptr;        // [rows]
  const int32_t* positions = nullptr;        // [rows]
  const int32_t* sequence_starts = nullptr;  // [sequences + 1]
  const int32_t* full_pages = nullptr;       // [sequences, table_width]
  const int32_t* window_pages = nullptr;     // [sequences, table_width]
  const int32_t* logit_rows = nullptr;       // [logit_count]
  int32_t adapter_count = 0;
  const Adapter* const* adapters = nullptr;    // [adapter_count]
  const int32_t* sequence_adapters = nullptr;  // [sequences], -1 for none; null if all have none
};

class Forward {
 public:
  Forward(const Weights& weights, const Kernels& kernels, ThreadPool& pool);

  // Writes K and V of every row into its pages and logits [logit_count, vocab_size].
  // Throws std::invalid_argument if the step is inconsistent with the pools or the shape.
  void run(KvCache& kv, const Step& step, float* logits);
  // Different experts that the last step ran, all layers added up.
  int32_t active_experts() const { return active_experts_; }

 private:
  // Eight query rows of one KV head of one sequence.
  struct AttentionTile {
    int32_t sequence;
    int32_t kv_head;
    int32_t first_row;  // counted over (token, head of the group) of the sequence
    int32_t rows;
  };
  // A share of one expert's panels.
  struct ExpertTask {
    int32_t expert;
    int32_t panel_begin;
    int32_t panel_end;
  };

  void validate(const KvCache& kv, const Step& step) const;
  void prepare(const Step& step);
  void reserve(int32_t rows, int32_t logit_count);
  void attention_block(const LayerWeights& layer, int32_t number, PagePool& pages,
                       int32_t layer_of_kind, const Step& step, bool window);
  void store_kv(PagePool& pages, int32_t layer_of_kind, const Step& step, const int32_t* table);
  void attend(const LayerWeights& layer, const PagePool& pages, int32_t layer_of_kind,
              const Step& step, const int32_t* table, bool window);
  void expert_block(const LayerWeights& layer, int32_t number, int32_t rows);
  void route(const LayerWeights& layer, int32_t rows);
  void group_by_expert(int32_t rows);
  void run_experts(const LayerWeights& layer, int32_t number, int32_t rows);
  void combine(int32_t rows);
  void write_logits(const Step& step, float* logits);

  template <class Body>
  void for_rows(int32_t rows, const Body& body);
  void normalize(const float* x, const float* weight, int32_t rows);
  Activations activations(const float* floats, int32_t columns, int32_t rows, WeightKind reader);
  void matmul(const PanelMatrix& weights, const float* bias, const Activations& x, int32_t rows,
              float* out, ptrdiff_t out_stride, bool accumulate);
  int32_t panel_share(int32_t panels, const PanelMatrix& weights) const;
  void list_expert_tasks(const PanelMatrix& weights);
  uint8_t* matmul_scratch(int thread) const {
    return matmul_scratch_.data() + static_cast<size_t>(thread) * matmul_scratch_bytes_;
  }

  const Weights& weights_;
  const ModelShape& shape_;
  const Kernels& kernels_;
  ThreadPool& pool_;
  AdapterPass adapters_;
  size_t matmul_scratch_bytes_;  // of one thread
  ZeroedRegion matmul_scratch_;

  std::vector<float> residual_;    // [rows, hidden]
  std::vector<float> normed_;      // [rows, hidden rounded up to blocks]
  std::vector<float> qkv_;         // [rows, query + 2 * kv]
  std::vector<float> attended_;    // [rows, query rounded up]
  std::vector<float> router_;      // [rows, experts]
  std::vector<float> gate_up_;     // [pairs, gate_up_rows]
  std::vector<float> activated_;   // [pairs, intermediate rounded up]
  std::vector<float> expert_out_;  // [pairs, hidden]
  std::vector<float> cosine_, sine_;  // [rows, head_dim / 2]
  std::vector<int8_t> int8_;       // activations of the current product
  std::vector<int16_t> int16_;
  std::vector<float> scales_;
  std::vector<BlockScale> block_scales_;
  std::vector<Outlier> outliers_;
  std::vector<int32_t> outlier_counts_;
  std::vector<float> scratch_;     // attention, per thread
  std::vector<AttentionTile> tiles_;
  std::vector<int32_t> row_sequence_;    // [rows]
  std::vector<int32_t> chosen_;          // [rows, experts_per_token] expert
  std::vector<float> chosen_weight_;     // [rows, experts_per_token]
  std::vector<int32_t> slot_;            // [rows, experts_per_token] place in expert order
  std::vector<int32_t> pair_row_;        // [pairs] row of each place
  std::vector<int32_t> in_order_;        // 0, 1, 2, ...
  std::vector<int32_t> expert_begin_;    // [experts + 1]
  std::vector<ExpertTask> expert_tasks_;
  int32_t active_experts_ = 0;
};

}  // namespace osslo
