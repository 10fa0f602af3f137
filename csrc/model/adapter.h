// A LoRA adapter in memory: the factors of the matrices it changes. It is filled once, and then
// read by any number of steps.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/lora.h"
#include "model/weights.h"

namespace osslo {

// The matrices that an adapter may change. Rows are as the forward pass has its outputs: those of
// kGateUp in panels of 8 gate and 8 up rows.
enum class AdapterTarget : int32_t { kQuery = 0, kKey, kValue, kOutput, kGateUp, kDown };
constexpr int32_t kAdapterTargets = 6;

class Adapter {
 public:
  explicit Adapter(const ModelShape& shape);

  // Copies b [rows, rank] and a [rank, columns] of one matrix; `expert` is 0 outside of experts.
  // `kind` is BF16 or F32. Throws std::invalid_argument where they do not fit the model, or were
  // given before.
  void add(int32_t layer, AdapterTarget target, int32_t expert, WeightKind kind, int32_t rank,
           int32_t columns, const uint8_t* a, int32_t rows, const uint8_t* b, float scale);

  // Null where the adapter leaves a matrix as it is.
  const LowRank* find(int32_t layer, AdapterTarget target, int32_t expert) const;

  int32_t layers() const { return layers_; }
  int32_t experts() const { return experts_; }
  int32_t largest_rank() const { return largest_rank_; }
  size_t bytes() const { return bytes_; }

 private:
  size_t place(int32_t layer, AdapterTarget target, int32_t expert) const;

  ModelShape shape_;
  int32_t layers_;
  int32_t experts_;
  int32_t largest_rank_ = 0;
  size_t bytes_ = 0;
  std::vector<LowRank> factors_;               // rank 0 where there are none
  std::vector<std::vector<uint8_t>> storage_;  // factors point in here
};

}  // namespace osslo
