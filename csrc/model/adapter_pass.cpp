#include "model/adapter_pass.h"

#include <algorithm>

namespace osslo {
namespace {

// Multiplications below which handing work to other threads costs more than it saves: eight a
// cycle make this 3 microseconds, and a hand-over takes 1 to 2.
constexpr int64_t kInlineProducts = 65536;
// And about how many of them one task has.
constexpr int64_t kShareProducts = 32768;

int32_t round_up(int32_t n, int32_t unit) { return (n + unit - 1) / unit * unit; }

}  // namespace

void AdapterPass::begin(const Adapter* const* adapters, int32_t count,
                        const int32_t* sequence_adapters, int32_t sequences,
                        const int32_t* sequence_starts) {
  groups_.clear();
  if (sequence_adapters == nullptr) return;
  rows_.clear();
  row_adapter_.assign(static_cast<size_t>(sequence_starts[sequences]), nullptr);
  for (int32_t a = 0; a < count; ++a) {
    const auto first = static_cast<int32_t>(rows_.size());
    for (int32_t s = 0; s < sequences; ++s) {
      if (sequence_adapters[s] != a) continue;
      for (int32_t t = sequence_starts[s]; t < sequence_starts[s + 1]; ++t) {
        row_adapter_[static_cast<size_t>(t)] = adapters[a];
        rows_.push_back(t);
      }
    }
    const auto last = static_cast<int32_t>(rows_.size());
    if (last > first) groups_.push_back({adapters[a], 0, first, last});
  }
}

void AdapterPass::project(int32_t layer, const float* x, float* qkv, ptrdiff_t width) {
  const ptrdiff_t stride = round_up(shape_.hidden, kBlock);
  const int32_t key = shape_.query_width();
  for (const Group& group : groups_) {
    const Adapter& a = *group.adapter;
    add(a.find(layer, AdapterTarget::kQuery, 0), group, rows_, rows_, x, stride, qkv, width);
    add(a.find(layer, AdapterTarget::kKey, 0), group, rows_, rows_, x, stride, qkv + key, width);
    add(a.find(layer, AdapterTarget::kValue, 0), group, rows_, rows_, x, stride,
        qkv + key + shape_.kv_width(), width);
  }
  run();
}

void AdapterPass::output(int32_t layer, const float* attended, float* residual) {
  const ptrdiff_t stride = round_up(shape_.query_width(), kBlock);
  for (const Group& group : groups_)
    add(group.adapter->find(layer, AdapterTarget::kOutput, 0), group, rows_, rows_, attended,
        stride, residual, shape_.hidden);
  run();
}

void AdapterPass::group_pairs(const int32_t* expert_begin, const int32_t* pair_row) {
  pair_groups_.clear();
  places_.clear();
  place_rows_.clear();
  for (int32_t e = 0; e < shape_.experts; ++e) {
    if (expert_begin[e] == expert_begin[e + 1]) continue;
    for (const Group& group : groups_) {
      const auto first = static_cast<int32_t>(places_.size());
      for (int32_t p = expert_begin[e]; p < expert_begin[e + 1]; ++p) {
        if (row_adapter_[static_cast<size_t>(pair_row[p])] != group.adapter) continue;
        places_.push_back(p);
        place_rows_.push_back(pair_row[p]);
      }
      const auto last = static_cast<int32_t>(places_.size());
      if (last > first) pair_groups_.push_back({group.adapter, e, first, last});
    }
  }
}

void AdapterPass::gate_up(int32_t layer, const float* x, float* gate_up) {
  const ptrdiff_t stride = round_up(shape_.hidden, kBlock);
  for (const Group& group : pair_groups_)
    add(group.adapter->find(layer, AdapterTarget::kGateUp, group.expert), group, place_rows_,
        places_, x, stride, gate_up, shape_.gate_up_rows());
  run();
}

void AdapterPass::down(int32_t layer, const float* x, float* out) {
  const ptrdiff_t stride = round_up(shape_.intermediate, kBlock);
  for (const Group& group : pair_groups_)
    add(group.adapter->find(layer, AdapterTarget::kDown, group.expert), group, places_, places_, x,
        stride, out, shape_.hidden);
  run();
}

void AdapterPass::add(const LowRank* factors, const Group& group, const std::vector<int32_t>& in,
                      const std::vector<int32_t>& out_rows, const float* x, ptrdiff_t x_stride,
                      float* out, ptrdiff_t out_stride) {
  if (factors == nullptr) return;
  const int32_t tokens = group.end - group.begin;
  const ptrdiff_t inner_stride = factors->rank_stride();
  const size_t begin = inner_begin_.empty() ? 0
                                            : inner_begin_.back() +
                                                  static_cast<size_t>(tasks_.back().tokens) *
                                                      static_cast<size_t>(tasks_.back().inner_stride);
  inner_begin_.push_back(begin);
  tasks_.push_back({factors, tokens, x, x_stride, &in[static_cast<size_t>(group.begin)], nullptr,
                    inner_stride, out, out_stride, &out_rows[static_cast<size_t>(group.begin)]});
}

// All tasks: first every a x, then every b u.
void AdapterPass::run() {
  if (tasks_.empty()) return;
  const LowRankTask& last = tasks_.back();
  const size_t inner = inner_begin_.back() + static_cast<size_t>(last.tokens) *
                                                 static_cast<size_t>(last.inner_stride);
  if (inner_.size() < inner) inner_.resize(inner);
  int64_t shrinking = 0, expanding = 0;
  for (size_t i = 0; i < tasks_.size(); ++i) {
    LowRankTask& t = tasks_[i];
    t.inner = inner_.data() + inner_begin_[i];
    const int64_t products = static_cast<int64_t>(t.tokens) * t.factors->rank;
    shrinking += products * t.factors->columns;
    expanding += products * t.factors->rows;
  }

  if (shrinking <= kInlineProducts) {
    for (const LowRankTask& t : tasks_) kernels_.low_rank_shrink(t, 0, t.tokens);
  } else {
    shares_.clear();
    for (size_t i = 0; i < tasks_.size(); ++i) {
      const LowRank& f = *tasks_[i].factors;
      const int64_t row = static_cast<int64_t>(f.rank) * f.columns;
      const auto share = static_cast<int32_t>(std::max<int64_t>(1, kShareProducts / row));
      for (int32_t t = 0; t < tasks_[i].tokens; t += share)
        shares_.push_back({static_cast<int32_t>(i), t, std::min(tasks_[i].tokens, t + share)});
    }
    pool_.run(static_cast<int>(shares_.size()), [&](int index, int) {
      const Share& share = shares_[static_cast<size_t>(index)];
      kernels_.low_rank_shrink(tasks_[static_cast<size_t>(share.task)], share.begin, share.end);
    });
  }

  if (expanding <= kInlineProducts) {
    for (const LowRankTask& t : tasks_) kernels_.low_rank_expand(t, 0, t.factors->panels());
  } else {
    shares_.clear();
    for (size_t i = 0; i < tasks_.size(); ++i) {
      const LowRank& f = *tasks_[i].factors;
      const int64_t panel = static_cast<int64_t>(tasks_[i].tokens) * f.rank * kPanelRows;
      const auto share = static_cast<int32_t>(std::max<int64_t>(1, kShareProducts / panel));
      for (int32_t p = 0; p < f.panels(); p += share)
        shares_.push_back({static_cast<int32_t>(i), p, std::min(f.panels(), p + share)});
    }
    pool_.run(static_cast<int>(shares_.size()), [&](int index, int) {
      const Share& share = shares_[static_cast<size_t>(index)];
      kernels_.low_rank_expand(tasks_[static_cast<size_t>(share.task)], share.begin, share.end);
    });
  }
  tasks_.clear();
  inner_begin_.clear();
}

}  // namespace osslo
