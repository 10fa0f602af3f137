#include "model/adapter.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <string>

namespace osslo {
namespace {

bool of_experts(AdapterTarget target) {
  return target == AdapterTarget::kGateUp || target == AdapterTarget::kDown;
}

struct Size {
  int32_t rows;
  int32_t columns;
};

Size size_of(const ModelShape& s, AdapterTarget target) {
  switch (target) {
    case AdapterTarget::kQuery: return {s.query_width(), s.hidden};
    case AdapterTarget::kKey:
    case AdapterTarget::kValue: return {s.kv_width(), s.hidden};
    case AdapterTarget::kOutput: return {s.hidden, s.query_width()};
    case AdapterTarget::kGateUp: return {s.gate_up_rows(), s.hidden};
    case AdapterTarget::kDown: break;
  }
  return {s.hidden, s.intermediate};
}

}  // namespace

Adapter::Adapter(const ModelShape& shape)
    : shape_(shape), layers_(shape.layers()), experts_(shape.experts) {
  factors_.resize(static_cast<size_t>(layers_) * static_cast<size_t>(4 + 2 * experts_));
}

size_t Adapter::place(int32_t layer, AdapterTarget target, int32_t expert) const {
  const auto kind = static_cast<size_t>(target);
  const size_t within =
      kind < 4 ? kind : 4 + (kind - 4) * static_cast<size_t>(experts_) + static_cast<size_t>(expert);
  return static_cast<size_t>(layer) * static_cast<size_t>(4 + 2 * experts_) + within;
}

const LowRank* Adapter::find(int32_t layer, AdapterTarget target, int32_t expert) const {
  const LowRank& found = factors_[place(layer, target, expert)];
  return found.rank ? &found : nullptr;
}

void Adapter::add(int32_t layer, AdapterTarget target, int32_t expert, WeightKind kind,
                  int32_t rank, int32_t columns, const uint8_t* a, int32_t rows, const uint8_t* b,
                  float scale) {
  const auto index = static_cast<int32_t>(target);
  if (layer < 0 || layer >= layers_ || index < 0 || index >= kAdapterTargets || expert < 0 ||
      expert >= (of_experts(target) ? experts_ : 1))
    throw std::invalid_argument("no such matrix in this model");
  const Size size = size_of(shape_, target);
  if (rank < 1 || rows != size.rows || columns != size.columns)
    throw std::invalid_argument("factors must be [" + std::to_string(size.rows) + ", rank] and [rank, " +
                                std::to_string(size.columns) + "]");
  if (kind != WeightKind::kBf16 && kind != WeightKind::kF32)
    throw std::invalid_argument("factors are BF16 or F32");
  LowRank& f = factors_[place(layer, target, expert)];
  if (f.rank) throw std::invalid_argument("factors of this matrix were given before");

  f = {kind, rows, columns, rank, scale, nullptr, nullptr};
  std::vector<uint8_t> memory(f.a_bytes() + f.b_bytes());
  const size_t element = f.element();
  const size_t a_row = static_cast<size_t>(columns) * element;
  for (int32_t j = 0; j < rank; ++j)
    std::memcpy(&memory[static_cast<size_t>(j) * static_cast<size_t>(f.stride()) * element],
                a + static_cast<size_t>(j) * a_row, a_row);
  uint8_t* panels = memory.data() + f.a_bytes();
  for (int32_t r = 0; r < rows; ++r) {
    uint8_t* panel = panels + static_cast<size_t>(r / kPanelRows) * kPanelRows *
                                  static_cast<size_t>(rank) * element;
    for (int32_t j = 0; j < rank; ++j) {
      const auto to = static_cast<size_t>(j * kPanelRows + r % kPanelRows);
      const size_t from = static_cast<size_t>(r) * static_cast<size_t>(rank) + static_cast<size_t>(j);
      std::memcpy(panel + to * element, b + from * element, element);
    }
  }
  storage_.push_back(std::move(memory));
  f.a = storage_.back().data();
  f.b = f.a + f.a_bytes();
  largest_rank_ = std::max(largest_rank_, f.rank_stride());
  bytes_ += storage_.back().size();
}

}  // namespace osslo
