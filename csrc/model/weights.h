// A packed file seen as weights: sizes, and pointers into the mapping. Nothing is copied.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "kernels/kernels.h"
#include "platform/memory.h"

namespace osslo {

struct ModelShape {
  int32_t hidden = 0;
  int32_t heads = 0;
  int32_t kv_heads = 0;
  int32_t head_dim = 0;
  int32_t intermediate = 0;
  int32_t experts = 0;
  int32_t experts_per_token = 0;
  int32_t vocab_size = 0;
  int32_t sliding_window = 0;
  float rms_epsilon = 0;
  float swiglu_alpha = 0;
  float swiglu_limit = 0;
  float rope_scale = 1;                       // YaRN's attention factor, on cosine and sine
  std::vector<float> inverse_frequencies;     // [head_dim / 2]
  std::vector<bool> window_layers;            // one per layer
  bool quantize_activations = true;
  bool half_kv = true;

  int32_t layers() const { return static_cast<int32_t>(window_layers.size()); }
  int32_t group() const { return heads / kv_heads; }
  int32_t query_width() const { return heads * head_dim; }
  int32_t kv_width() const { return kv_heads * head_dim; }
  // Gate and up rows come in panels of 8 each, in turn.
  int32_t gate_up_rows() const {
    return 2 * ((intermediate + kPanelRows - 1) / kPanelRows * kPanelRows);
  }
};

// Where one tensor lies in the packed file. Embedding rows are plain, all matrices are panels.
struct TensorEntry {
  WeightKind kind = WeightKind::kF32;
  int32_t rows = 0;
  int32_t columns = 0;
  uint64_t offset = 0;
  uint64_t bytes = 0;
};

struct LayerWeights {
  const float* attention_norm;
  const float* sinks;
  const float* mlp_norm;
  PanelMatrix qkv;
  const float* qkv_bias;
  PanelMatrix o;
  const float* o_bias;
  PanelMatrix router;
  const float* router_bias;
  PanelMatrix gate_up;  // of expert 0; the others follow
  const float* gate_up_bias;
  PanelMatrix down;
  const float* down_bias;
};

class Weights {
 public:
  // Throws std::runtime_error naming the tensor that is missing or does not fit `shape`.
  Weights(const std::string& path, ModelShape shape,
          const std::unordered_map<std::string, TensorEntry>& tensors);

  const ModelShape& shape() const { return shape_; }
  const LayerWeights& layer(int32_t i) const { return layers_[static_cast<size_t>(i)]; }
  const float* final_norm() const { return final_norm_; }
  const PanelMatrix& head() const { return head_; }

  PanelMatrix gate_up(const LayerWeights& layer, int32_t expert) const;
  PanelMatrix down(const LayerWeights& layer, int32_t expert) const;
  const float* gate_up_bias(const LayerWeights& layer, int32_t expert) const;
  const float* down_bias(const LayerWeights& layer, int32_t expert) const;

  // Row `token` of the embedding as floats, out [hidden].
  void embed(int32_t token, float* out) const;

 private:
  MappedFile file_;
  ModelShape shape_;
  std::vector<LayerWeights> layers_;
  const float* final_norm_ = nullptr;
  PanelMatrix head_;
  PanelMatrix embedding_;  // data points at plain rows: values, then (Q8) scales
};

}  // namespace osslo
