// The kernels, written once over eight lanes. Each instruction set includes this file inside its
// namespace after its own operations.

namespace {

// The lanes of a loop that may use whatever its set has: eight, or more as parts of eight.
struct EightLanes {
  using V = F8;
  static constexpr int kParts = 1;
  static constexpr int kVectors = 1;  // that fit the registers beside as many sums as attention has
  static V all(float v) { return set1(v); }
  static V read(const float* p) { return load(p); }
  static V read(const uint16_t* p) { return load_f16(p); }
  static V repeat(F8 a) { return a; }  // the same in each part
  template <class Element>
  static V parts(const Element* p, ptrdiff_t) { return read(p); }  // eight from each p + i * stride
  static F8 part(V a, int) { return a; }
};

#ifdef OSSLO_SIXTEEN_LANES
using Widest = SixteenLanes;
#else
using Widest = EightLanes;
#endif

// exp(x) = 2^n * e^r with r in [-ln2/2, ln2/2]; relative error below 2e-7. Exactly 1 at 0 and
// exactly 0 below -87, so that masked positions leave a sum as it was.
template <class L>
typename L::V exp(typename L::V x) {
  using V = typename L::V;
  const V floor = L::all(-87.0f);
  const V clamped = min(max(x, floor), L::all(88.0f));
  const auto n = round_to_int(mul(clamped, L::all(1.44269504f)));
  const V nf = to_float(n);
  V r = fma(nf, L::all(-0.693359375f), clamped);
  r = fma(nf, L::all(2.12194440e-4f), r);
  V p = L::all(1.0f / 5040.0f);
  p = fma(p, r, L::all(1.0f / 720.0f));
  p = fma(p, r, L::all(1.0f / 120.0f));
  p = fma(p, r, L::all(1.0f / 24.0f));
  p = fma(p, r, L::all(1.0f / 6.0f));
  p = fma(p, r, L::all(0.5f));
  p = fma(p, r, L::all(1.0f));
  p = fma(p, r, L::all(1.0f));
  return select_less(x, floor, L::all(0.0f), mul(p, exp2_int(n)));
}

// E2M1 values (OCP MX 1.0): twice the value plus 12, so that all are small and unsigned.
alignas(16) const uint8_t kMxfp4Table[16] = {12, 13, 14, 15, 16, 18, 20, 24,
                                             12, 11, 10, 9,  8,  6,  4,  0};

ptrdiff_t source_row(const MatmulTask& t, int i) { return t.index ? t.index[i] : i; }

void write(const MatmulTask& t, int panel, int token, F8 value) {
  float* out = t.out + token * t.out_stride + panel * kPanelRows;
  if (t.bias) value = add(value, load(t.bias + panel * kPanelRows));
  const int left = t.weights->rows - panel * kPanelRows;
  if (left >= kPanelRows) {
    store(out, t.accumulate ? add(load(out), value) : value);
    return;
  }
  float lanes_of[kPanelRows];
  store(lanes_of, value);
  for (int i = 0; i < left; ++i) out[i] = t.accumulate ? out[i] + lanes_of[i] : lanes_of[i];
}

struct Mxfp4Blocks {
  static constexpr size_t bytes = 128;
  static constexpr size_t scale_bytes = 8;
  // Half of it, since the table doubles the values.
  static F8 scale(const uint8_t* p) { return mul(load_e8m0(p), set1(0.5f)); }
  static Block weights(const uint8_t* p) { return unpack_mxfp4(p, kMxfp4Table); }
  static F8 column(const Block& w, int k) {
    return sub(to_float(byte_unsigned(lanes(w, k / 4), k % 4)), set1(kMxfp4Offset));
  }
};

struct Q8Blocks {
  static constexpr size_t bytes = 256;
  static constexpr size_t scale_bytes = 16;
  static F8 scale(const uint8_t* p) { return load_f16(reinterpret_cast<const uint16_t*>(p)); }
  static Block weights(const uint8_t* p) { return load_q8(reinterpret_cast<const int8_t*>(p)); }
  static F8 column(const Block& w, int k) { return to_float(byte_signed(lanes(w, k / 4), k % 4)); }
};

// What block products of a token miss: its outliers, each a column of the weights.
F8 add_outliers(const MatmulTask& t, const uint8_t* panel, ptrdiff_t row, F8 acc) {
  const uint8_t* weights = panel + t.weights->scales_bytes();
  const Outlier* outliers = t.x.outliers + row * (t.x.stride / kBlock);
  for (int32_t i = 0; i < t.x.outlier_counts[row]; ++i) {
    const auto block = static_cast<size_t>(outliers[i].column / kBlock);
    const I8 entries = mxfp4_column(weights + Mxfp4Blocks::bytes * block, kMxfp4Table,
                                    outliers[i].column % kBlock);
    const F8 column = to_float(subtract(entries, kMxfp4Offset));
    const F8 scale = Mxfp4Blocks::scale(panel + Mxfp4Blocks::scale_bytes * block);
    acc = fma(mul(column, scale), set1(outliers[i].value), acc);
  }
  return acc;
}

// Asks for memory ahead of use: the hardware's own streams stop at every 4 KiB page. How far is best
// depends on the processor (kPrefetchBytes of each set). A panel is asked for as it lies: its scales
// at its start, then block by block.
inline void prefetch(const uint8_t* from, size_t bytes) {
  for (size_t line = 0; line < bytes; line += 64) __builtin_prefetch(from + line);
}

// The bias of a panel some way on: a panel's is half a line, and nothing else asks for it.
inline void prefetch_bias(const MatmulTask& t, int panel) {
  constexpr int kPanelsAhead = 8;
  if (t.bias) __builtin_prefetch(t.bias + (panel + kPanelsAhead) * kPanelRows);
}

// One panel of MXFP4 against N tokens of int8.
template <int N>
void int8_mxfp4_tile(const MatmulTask& t, const uint8_t* panel, int panel_index, int token) {
  const int blocks = t.weights->blocks();
  const uint8_t* weights = panel + t.weights->scales_bytes();
  const int8_t* x[N];
  const BlockScale* x_scale[N];
  F8 acc[N];
  for (int n = 0; n < N; ++n) {
    const ptrdiff_t row = source_row(t, token + n);
    x[n] = t.x.int8 + row * t.x.stride;
    x_scale[n] = t.x.block_scales + row * blocks;
    acc[n] = zero();
  }
  for (int b = 0; b < blocks; ++b, weights += Mxfp4Blocks::bytes) {
    prefetch(weights + kPrefetchBytes, Mxfp4Blocks::bytes);
    int32_t offsets[N];
    for (int n = 0; n < N; ++n) offsets[n] = x_scale[n][b].offset;
    I8 products[N];
    dot_mxfp4<N>(weights, kMxfp4Table, x, offsets, products);
    const F8 scale = Mxfp4Blocks::scale(panel + Mxfp4Blocks::scale_bytes * static_cast<size_t>(b));
    for (int n = 0; n < N; ++n) {
      x[n] += kBlock;
      acc[n] = fma(to_float(products[n]), mul(scale, set1(x_scale[n][b].scale)), acc[n]);
    }
  }
  for (int n = 0; n < N; ++n)
    write(t, panel_index, token + n, add_outliers(t, panel, source_row(t, token + n), acc[n]));
}

// One panel of Q8 against N tokens of int16.
template <int N>
void int16_q8_tile(const MatmulTask& t, const uint8_t* panel, int panel_index, int token) {
  const int blocks = t.weights->blocks();
  const uint8_t* weights = panel + t.weights->scales_bytes();
  const int16_t* x[N];
  const float* x_scale[N];
  F8 acc[N];
  for (int n = 0; n < N; ++n) {
    const ptrdiff_t row = source_row(t, token + n);
    x[n] = t.x.int16 + row * t.x.stride;
    x_scale[n] = t.x.scales + row * blocks;
    acc[n] = zero();
  }
  for (int b = 0; b < blocks; ++b, weights += Q8Blocks::bytes) {
    prefetch(weights + kPrefetchBytes, Q8Blocks::bytes);
    I8 products[N];
    dot_q8<N>(reinterpret_cast<const int8_t*>(weights), x, products);
    const F8 scale = Q8Blocks::scale(panel + Q8Blocks::scale_bytes * static_cast<size_t>(b));
    for (int n = 0; n < N; ++n) {
      x[n] += kBlock;
      acc[n] = fma(to_float(products[n]), mul(scale, set1(x_scale[n][b])), acc[n]);
    }
  }
  for (int n = 0; n < N; ++n) write(t, panel_index, token + n, acc[n]);
}

const float* row_floats(const MatmulTask& t, int i) {
  return t.x.floats + source_row(t, i) * t.x.stride;
}

// One panel against N tokens, float activations and block-scaled weights.
template <class Weights, int N>
void float_tile(const MatmulTask& t, const uint8_t* panel, int panel_index, int token) {
  const int blocks = t.weights->blocks();
  const uint8_t* scales = panel;
  const uint8_t* weights = panel + t.weights->scales_bytes();
  F8 acc[N];
  for (int n = 0; n < N; ++n) acc[n] = zero();
  for (int b = 0; b < blocks; ++b) {
    const F8 scale = Weights::scale(scales + Weights::scale_bytes * static_cast<size_t>(b));
    const Block w = Weights::weights(weights + Weights::bytes * static_cast<size_t>(b));
    for (int k = 0; k < kBlock; ++k) {
      const F8 column = mul(Weights::column(w, k), scale);
      for (int n = 0; n < N; ++n)
        acc[n] = fma(column, set1(row_floats(t, token + n)[kBlock * b + k]), acc[n]);
    }
  }
  for (int n = 0; n < N; ++n) write(t, panel_index, token + n, acc[n]);
}

struct Bf16Columns {
  static constexpr size_t bytes = 2 * kPanelRows;
  static F8 column(const uint8_t* p, int k) {
    return load_bf16(reinterpret_cast<const uint16_t*>(p) + kPanelRows * k);
  }
};
struct F32Columns {
  static constexpr size_t bytes = 4 * kPanelRows;
  static F8 column(const uint8_t* p, int k) {
    return load(reinterpret_cast<const float*>(p) + kPanelRows * k);
  }
};

// One panel against N tokens, float activations and plain weights.
template <class Weights, int N>
void plain_tile(const MatmulTask& t, const uint8_t* panel, int panel_index, int token) {
  F8 acc[N];
  for (int n = 0; n < N; ++n) acc[n] = zero();
  for (int k = 0; k < t.weights->columns; ++k) {
    const F8 column = Weights::column(panel, k);
    const size_t at = Weights::bytes * static_cast<size_t>(k);
    if (at % 64 == 0) __builtin_prefetch(panel + at + kPrefetchBytes);
    for (int n = 0; n < N; ++n) acc[n] = fma(column, set1(row_floats(t, token + n)[k]), acc[n]);
  }
  for (int n = 0; n < N; ++n) write(t, panel_index, token + n, acc[n]);
}

using Tile = void (*)(const MatmulTask&, const uint8_t*, int, int);
struct Tiles {
  Tile one;
  Tile four;
};

Tiles tiles_for(WeightKind kind, const Activations& x) {
  switch (kind) {
    case WeightKind::kMxfp4:
      if (x.int8) return {int8_mxfp4_tile<1>, int8_mxfp4_tile<4>};
      return {float_tile<Mxfp4Blocks, 1>, float_tile<Mxfp4Blocks, 4>};
    case WeightKind::kQ8:
      if (x.int16) return {int16_q8_tile<1>, int16_q8_tile<4>};
      return {float_tile<Q8Blocks, 1>, float_tile<Q8Blocks, 4>};
    case WeightKind::kBf16: return {plain_tile<Bf16Columns, 1>, plain_tile<Bf16Columns, 4>};
    case WeightKind::kF32: break;
  }
  return {plain_tile<F32Columns, 1>, plain_tile<F32Columns, 4>};
}

// Tokens whose activations stay in a second-level cache while panels pass: 64 rows of 2880 int8
// are 180 KiB of the 512 KiB that the smallest current cores have.
constexpr int kTokenBlock = 64;

void matmul(const MatmulTask& t) {
  const Tiles tiles = tiles_for(t.weights->kind, t.x);
  const size_t panel_bytes = t.weights->panel_bytes();
  for (int begin = 0; begin < t.tokens; begin += kTokenBlock) {
    const int end = begin + kTokenBlock < t.tokens ? begin + kTokenBlock : t.tokens;
    for (int p = t.panel_begin; p < t.panel_end; ++p) {
      const uint8_t* panel = t.weights->data + panel_bytes * static_cast<size_t>(p);
      prefetch(panel + kPrefetchBytes, t.weights->scales_bytes());
      prefetch_bias(t, p);
      int i = begin;
      for (; i + 4 <= end; i += 4) tiles.four(t, panel, p, i);
      for (; i < end; ++i) tiles.one(t, panel, p, i);
    }
  }
}

size_t no_scratch(int32_t) { return 0; }

void rms_norm(const float* x, const float* weight, int32_t n, float epsilon, float* out) {
  F8 squares = zero();
  int32_t i = 0;
  for (; i + 8 <= n; i += 8) squares = fma(load(x + i), load(x + i), squares);
  float total = sum(squares);
  for (; i < n; ++i) total = __builtin_fmaf(x[i], x[i], total);
  const float scale = 1.0f / __builtin_sqrtf(total / static_cast<float>(n) + epsilon);
  for (i = 0; i + 8 <= n; i += 8)
    store(out + i, mul(mul(load(x + i), set1(scale)), load(weight + i)));
  for (; i < n; ++i) out[i] = x[i] * scale * weight[i];
}

// min(g, L) * sigmoid(alpha * min(g, L)) * (clamp(u, -L, L) + 1), gpt-oss's expert activation.
F8 clamped_swiglu(F8 gate, F8 up, float alpha, float limit) {
  const F8 g = min(gate, set1(limit));
  const F8 u = max(min(up, set1(limit)), set1(-limit));
  const F8 sigmoid = div(set1(1.0f), add(set1(1.0f), exp<EightLanes>(mul(g, set1(-alpha)))));
  return mul(mul(g, sigmoid), add(u, set1(1.0f)));
}

void swiglu(const float* gate_up, int32_t n, float alpha, float limit, float* out) {
  for (int32_t i = 0; i < n; i += 8) {
    const F8 value = clamped_swiglu(load(gate_up + 2 * i), load(gate_up + 2 * i + 8), alpha, limit);
    if (i + 8 <= n) {
      store(out + i, value);
    } else {
      float lanes_of[8];
      store(lanes_of, value);
      for (int32_t j = i; j < n; ++j) out[j] = lanes_of[j - i];
    }
  }
}

void rope(float* x, int32_t heads, int32_t head_dim, const float* cosine, const float* sine,
          float scale) {
  const int32_t half = head_dim / 2;
  for (int32_t h = 0; h < heads; ++h, x += head_dim)
    for (int32_t i = 0; i < half; ++i) {
      const float a = x[i] * cosine[i] - x[i + half] * sine[i];
      const float b = x[i + half] * cosine[i] + x[i] * sine[i];
      x[i] = a * scale;
      x[i + half] = b * scale;
    }
}

void to_half(const float* x, int32_t n, uint16_t* out) {
  for (int32_t i = 0; i < n; i += 8) store_f16(out + i, load(x + i));
}

void add_scaled(const float* x, float weight, int32_t n, float* out) {
  int32_t i = 0;
  for (; i + 8 <= n; i += 8) store(out + i, fma(load(x + i), set1(weight), load(out + i)));
  for (; i < n; ++i) out[i] = __builtin_fmaf(x[i], weight, out[i]);
}

#include "kernels/attention.inl"
#include "kernels/lora.inl"
#include "kernels/quantize.inl"

}  // namespace

Kernels kernels(const char* name) {
  return {name,           matmul,   no_scratch, attention, quantize_int8,   quantize_int16,
          rms_norm,       swiglu,   rope,       to_half,   add_scaled,      low_rank_shrink,
          low_rank_expand};
}
