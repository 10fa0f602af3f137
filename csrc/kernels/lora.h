// Low-rank deltas (LoRA, arXiv 2106.09685): out += b (scale * a x), in two kernels.
//
// Summation order. An element of a x is summed in eight lanes over ascending columns, which are
// then folded; an element of b u over ascending ranks. Neither depends on the rows beside it, nor
// on tiles, panels or threads.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/kernels.h"

namespace osslo {

// Ranks that share a pass over a row's columns; `a` is filled up to it with rows of zeros.
constexpr int kRankUnit = 4;

// The factors of one matrix [rows, columns], both BF16 or both F32:
//   a  [rank_stride, stride] by rows; columns past the end and ranks past the last are zero
//   b  [rows, rank] in panels of 8 rows, [rank][8] each; rows past the end are zero
struct LowRank {
  WeightKind kind = WeightKind::kF32;
  int32_t rows = 0;
  int32_t columns = 0;
  int32_t rank = 0;
  float scale = 1;
  const uint8_t* a = nullptr;
  const uint8_t* b = nullptr;

  int32_t panels() const { return (rows + kPanelRows - 1) / kPanelRows; }
  int32_t stride() const { return (columns + kBlock - 1) / kBlock * kBlock; }
  int32_t rank_stride() const { return (rank + kRankUnit - 1) / kRankUnit * kRankUnit; }
  size_t element() const { return kind == WeightKind::kBf16 ? 2 : 4; }
  size_t a_bytes() const {
    return static_cast<size_t>(rank_stride()) * static_cast<size_t>(stride()) * element();
  }
  size_t b_bytes() const {
    return static_cast<size_t>(panels()) * kPanelRows * static_cast<size_t>(rank) * element();
  }
};

// One matrix's delta for `tokens` rows: token i reads row in_rows[i] of x, which has zeros behind
// its columns up to a whole block, and adds to row out_rows[i] of out. `inner` [tokens,
// inner_stride] is between the two kernels.
struct LowRankTask {
  const LowRank* factors;
  int32_t tokens;
  const float* x;
  ptrdiff_t x_stride;
  const int32_t* in_rows;
  float* inner;
  ptrdiff_t inner_stride;  // at least rank_stride
  float* out;
  ptrdiff_t out_stride;
  const int32_t* out_rows;
};

}  // namespace osslo
