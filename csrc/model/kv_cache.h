// Page pools for keys and values. Which sequence owns which page is the engine's business.
#pragma once

#include <cstdint>

#include "model/weights.h"
#include "platform/memory.h"

namespace osslo {

// One page holds kPageTokens positions of every layer of its kind:
// [layer of kind][kv head][K, V][kPageTokens][head_dim] in float16 or float32.
class PagePool {
 public:
  PagePool(const ModelShape& shape, bool window, int32_t pages);

  int32_t pages() const { return pages_; }
  size_t page_bytes() const { return page_bytes_; }
  // Page 0's K of a layer (counted within its kind) and head; V follows K.
  uint8_t* base(int32_t layer_of_kind, int32_t kv_head) const;
  // K or V of one position: out of `base`, at `offset` within its page.
  size_t row_bytes() const { return row_bytes_; }
  void copy(int32_t source, int32_t target, int32_t tokens);
  // The page_bytes() of one page.
  uint8_t* page(int32_t page) const {
    return memory_.data() + page_bytes_ * static_cast<size_t>(page);
  }

  static size_t page_bytes(const ModelShape& shape, bool window);

 private:
  int32_t pages_;
  int32_t kv_heads_;
  size_t row_bytes_;
  size_t page_bytes_;
  ZeroedRegion memory_;
};

struct KvCache {
  KvCache(const ModelShape& shape, int32_t full_pages, int32_t window_pages)
      : full(shape, false, full_pages), window(shape, true, window_pages) {}
  PagePool& of(bool is_window) { return is_window ? window : full; }

  PagePool full;
  PagePool window;
};

}  // namespace osslo
