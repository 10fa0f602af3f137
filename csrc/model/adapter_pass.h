// Adding adapters' deltas behind the base products of one step. Rows are grouped by adapter, and
// rows of experts by (expert, adapter); rows without an adapter are never touched.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/kernels.h"
#include "model/adapter.h"
#include "platform/thread_pool.h"

namespace osslo {

class AdapterPass {
 public:
  AdapterPass(const ModelShape& shape, const Kernels& kernels, ThreadPool& pool)
      : shape_(shape), kernels_(kernels), pool_(pool) {}

  // What a step's rows use: row t the adapter adapters[row_adapter(t)], or none if that is
  // negative. `sequence_adapters` may be null: no adapter at all, and nothing else costs anything.
  void begin(const Adapter* const* adapters, int32_t count, const int32_t* sequence_adapters,
             int32_t sequences, const int32_t* sequence_starts);
  bool active() const { return !groups_.empty(); }

  // Adds to q, k and v in qkv [rows, width]; x [rows, hidden rounded up to blocks].
  void project(int32_t layer, const float* x, float* qkv, ptrdiff_t width);
  // Adds to residual [rows, hidden]; attended [rows, query width rounded up].
  void output(int32_t layer, const float* attended, float* residual);
  // The (row, expert) pairs of this layer: places [begin[e], begin[e + 1]) are expert e's, and
  // place p belongs to row pair_row[p].
  void group_pairs(const int32_t* expert_begin, const int32_t* pair_row);
  // Adds to gate_up [pairs, gate_up_rows]; x [rows, hidden rounded up].
  void gate_up(int32_t layer, const float* x, float* gate_up);
  // Adds to out [pairs, hidden]; x [pairs, intermediate rounded up].
  void down(int32_t layer, const float* x, float* out);

 private:
  // Rows (or places) [begin, end) of a list that use one adapter.
  struct Group {
    const Adapter* adapter;
    int32_t expert;
    int32_t begin;
    int32_t end;
  };
  struct Share {
    int32_t task;
    int32_t begin;
    int32_t end;
  };

  void add(const LowRank* factors, const Group& group, const std::vector<int32_t>& in,
           const std::vector<int32_t>& out_rows, const float* x, ptrdiff_t x_stride, float* out,
           ptrdiff_t out_stride);
  void run();

  const ModelShape& shape_;
  const Kernels& kernels_;
  ThreadPool& pool_;

  std::vector<const Adapter*> row_adapter_;  // [rows], null for none
  std::vector<int32_t> rows_;                // rows with an adapter, by group
  std::vector<Group> groups_;
  std::vector<int32_t> places_;      // places with an adapter, by pair group
  std::vector<int32_t> place_rows_;  // their rows
  std::vector<Group> pair_groups_;
  std::vector<LowRankTask> tasks_;
  std::vector<size_t> inner_begin_;  // [tasks]
  std::vector<float> inner_;
  std::vector<Share> shares_;
};

}  // namespace osslo
