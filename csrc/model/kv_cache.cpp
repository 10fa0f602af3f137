#include "model/kv_cache.h"

#include <cstring>

namespace osslo {
namespace {

size_t row_bytes_of(const ModelShape& shape) {
  return static_cast<size_t>(shape.head_dim) * (shape.half_kv ? 2 : 4);
}

}  // namespace

size_t PagePool::page_bytes(const ModelShape& shape, bool window) {
  size_t layers = 0;
  for (const bool is_window : shape.window_layers) layers += is_window == window;
  return layers * static_cast<size_t>(shape.kv_heads) * 2 * kPageTokens * row_bytes_of(shape);
}

PagePool::PagePool(const ModelShape& shape, bool window, int32_t pages)
    : pages_(pages),
      kv_heads_(shape.kv_heads),
      row_bytes_(row_bytes_of(shape)),
      page_bytes_(page_bytes(shape, window)),
      memory_(page_bytes_ * static_cast<size_t>(pages)) {}

uint8_t* PagePool::base(int32_t layer_of_kind, int32_t kv_head) const {
  const auto head = static_cast<size_t>(layer_of_kind) * static_cast<size_t>(kv_heads_) +
                    static_cast<size_t>(kv_head);
  return memory_.data() + head * 2 * kPageTokens * row_bytes_;
}

void PagePool::copy(int32_t source, int32_t target, int32_t tokens) {
  const size_t plane = kPageTokens * row_bytes_;
  const uint8_t* from = page(source);
  uint8_t* to = page(target);
  for (size_t at = 0; at < page_bytes_; at += plane)
    std::memcpy(to + at, from + at, row_bytes_ * static_cast<size_t>(tokens));
}

}  // namespace osslo
