// The kernels' shapes and the table that one instruction set fills. Kernels are free functions on
// raw pointers: they neither allocate, log, throw nor lock, and scratch belongs to the caller.
//
// Summation order. Every output element is summed over ascending columns (or positions) by itself,
// so its bits depend neither on how many rows share the call nor on tiles, panels or threads.
#pragma once

#include <cstddef>
#include <cstdint>

namespace osslo {

constexpr int kPanelRows = 8;     // output rows that one register of lanes holds
constexpr int kBlock = 32;        // columns that share a scale (OCP MX 1.0, and Q8_0)
constexpr int kPageTokens = 32;   // positions per KV page, and per step of the streaming softmax
constexpr int kAttentionRows = 8; // query rows (token, head) that share a pass over K and V

enum class WeightKind : int32_t { kMxfp4 = 0, kQ8 = 1, kBf16 = 2, kF32 = 3 };

// A matrix [rows, columns] as panels of 8 rows. In each panel:
//   MXFP4  [blocks][8] E8M0 exponents, padded to 64 bytes, then [blocks][4][8 rows][4] bytes;
//          byte [i][row][j] holds columns 8i + j (low nibble) and 8i + 4 + j (high nibble)
//   Q8     [blocks][8] float16 scales, padded to 64 bytes, then [blocks][8][8 rows][4] int8
//   BF16   [columns][8];  F32 [columns][8]
struct PanelMatrix {
  WeightKind kind = WeightKind::kF32;
  int32_t rows = 0;
  int32_t columns = 0;
  const uint8_t* data = nullptr;

  int32_t panels() const { return (rows + kPanelRows - 1) / kPanelRows; }
  int32_t blocks() const { return (columns + kBlock - 1) / kBlock; }
  size_t scales_bytes() const {
    const size_t one = kind == WeightKind::kMxfp4 ? 1 : kind == WeightKind::kQ8 ? 2 : 0;
    return (static_cast<size_t>(blocks()) * kPanelRows * one + 63) / 64 * 64;
  }
  size_t panel_bytes() const {
    switch (kind) {
      case WeightKind::kMxfp4: return scales_bytes() + static_cast<size_t>(blocks()) * 128;
      case WeightKind::kQ8: return scales_bytes() + static_cast<size_t>(blocks()) * 256;
      case WeightKind::kBf16: return static_cast<size_t>(columns) * kPanelRows * 2;
      case WeightKind::kF32: return static_cast<size_t>(columns) * kPanelRows * 4;
    }
    return 0;
  }
  size_t bytes() const { return panel_bytes() * static_cast<size_t>(panels()); }
};

// MXFP4 weights enter integer products as twice their value plus this, small and unsigned.
constexpr int kMxfp4Offset = 12;

// A value that stands so far above the rest of its block that it is kept as it is.
struct Outlier {
  int32_t column;
  float value;
};

// A block of int8 activations. `offset` is kMxfp4Offset times its sum: what the unsigned products
// have too much, the same for all rows of the weights. It comes in two halves, which fit 16 bits:
// columns 4k and 4k + 1 in the low one, 4k + 2 and 4k + 3 in the high one. Side by side, a kernel
// needs one address a token for both.
struct BlockScale {
  float scale;
  int32_t offset;
};

// Activations of T rows, each in the one form that the weights' kernel reads:
//   float  BF16 and F32 weights, and every kind in the exact precision
//   int16  Q8 weights: blocks of 32 with a float scale
//   int8   MXFP4 weights: blocks of 32 with a BlockScale, outliers apart
// Columns past the end of the last block are zero.
struct Activations {
  const float* floats = nullptr;           // [T, stride]
  const int16_t* int16 = nullptr;          // [T, stride]
  const int8_t* int8 = nullptr;            // [T, stride]
  const float* scales = nullptr;           // [T, stride / 32], of int16
  const BlockScale* block_scales = nullptr;  // [T, stride / 32], of int8
  const Outlier* outliers = nullptr;       // [T, stride / 32], ascending columns
  const int32_t* outlier_counts = nullptr;  // [T]
  int32_t stride = 0;                      // columns rounded up to whole blocks
};

// out[i, r] = bias[r] + x[index[i]] . w[r] for rows of panels [panel_begin, panel_end); with
// `accumulate` the result is added to out. Without an index, row i is used.
struct MatmulTask {
  const PanelMatrix* weights;
  const float* bias;  // [panels * 8], or null
  int32_t panel_begin;
  int32_t panel_end;
  Activations x;
  const int32_t* index;  // [tokens], or null
  int32_t tokens;
  float* out;  // [tokens, out_stride]
  ptrdiff_t out_stride;
  bool accumulate;
  uint8_t* scratch;  // [Kernels::matmul_scratch_bytes(columns)], 64-byte aligned, the task's own
};

// Query rows of one sequence and one KV head against its pages. Row r sees positions
// [first[r], last[r]); `sink` joins the softmax's denominator (arXiv 2309.17453).
struct AttentionTask {
  int32_t rows;      // 1..kAttentionRows
  int32_t head_dim;  // a multiple of 8; queries are already scaled by 1 / sqrt(head_dim)
  const float* query[kAttentionRows];
  float* out[kAttentionRows];
  int32_t first[kAttentionRows];
  int32_t last[kAttentionRows];
  float sink[kAttentionRows];
  const int32_t* pages;  // page of position p is pages[p / kPageTokens]
  const uint8_t* pool;   // page i's K of this layer and head is at pool + i * page_stride
  size_t page_stride;    // bytes; K is [kPageTokens, head_dim], V follows
  bool half;             // float16 or float32 elements
  float* scratch;        // [attention_scratch_floats(head_dim)]
};

constexpr size_t attention_scratch_floats(int32_t head_dim) {
  return static_cast<size_t>(2 * kAttentionRows) * static_cast<size_t>(head_dim) +
         static_cast<size_t>(kPageTokens) * kAttentionRows;
}

struct LowRankTask;  // lora.h

struct Kernels {
  const char* name;
  void (*matmul)(const MatmulTask&);
  size_t (*matmul_scratch_bytes)(int32_t columns);
  void (*attention)(const AttentionTask&);
  // values [stride] and scales [stride / 32] from x [columns]; outliers holds up to stride / 32,
  // and their number is returned.
  int32_t (*quantize_int8)(const float* x, int32_t columns, int8_t* values,
                           BlockScale* scales, Outlier* outliers);
  void (*quantize_int16)(const float* x, int32_t columns, int16_t* values, float* scales);
  // out = x / rms(x) * weight.
  void (*rms_norm)(const float* x, const float* weight, int32_t n, float epsilon, float* out);
  // gate_up holds panels of 8 gate rows and 8 up rows in turn; out [n].
  void (*swiglu)(const float* gate_up, int32_t n, float alpha, float limit, float* out);
  // Rotate halves of each of `heads` vectors by cosine and sine [head_dim / 2], then scale.
  void (*rope)(float* x, int32_t heads, int32_t head_dim, const float* cosine, const float* sine,
               float scale);
  // KV pages: float32 to float16, n a multiple of 8.
  void (*to_half)(const float* x, int32_t n, uint16_t* out);
  // out += weight * x.
  void (*add_scaled)(const float* x, float weight, int32_t n, float* out);
  // A low-rank delta: inner = scale * a x for tokens [begin, end), then out += b inner for panels
  // [begin, end).
  void (*low_rank_shrink)(const LowRankTask&, int32_t begin, int32_t end);
  void (*low_rank_expand)(const LowRankTask&, int32_t begin, int32_t end);
};

}  // namespace osslo
