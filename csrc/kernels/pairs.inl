// Integer products on pairs of panels: 16 rows of weights in registers of 512 bits, to the bit what
// kernels.inl gives, since sums of a block are exact and blocks are added up in the same order by
// the same operations. Included after kernels.inl, in the namespace of a set that has AVX-512 with
// VNNI.

namespace {

constexpr int kPairRows = 2 * kPanelRows;

__m512i two_halves(const uint8_t* low, const uint8_t* high) {
  return _mm512_inserti64x4(_mm512_castsi256_si512(load_int(low)), load_int(high), 1);
}

__m512i repeated(const void* table_of_16_bytes) {
  return _mm512_broadcast_i32x4(_mm_load_si128(static_cast<const __m128i*>(table_of_16_bytes)));
}

// The four bytes at x in every lane.
__m512i in_every_lane(const void* x) {
  int32_t v;
  std::memcpy(&v, x, 4);
  return _mm512_set1_epi32(v);
}

// Two panels side by side; where a pair's second panel is missing, the first again, whose results are
// not written.
template <class Weights>
struct PanelPair {
  const uint8_t* first = nullptr;
  const uint8_t* second = nullptr;
  size_t scales_bytes = 0;
  size_t panel_bytes = 0;

  void point_at(const PanelMatrix& m, int panel, bool both) {
    scales_bytes = m.scales_bytes();
    panel_bytes = m.panel_bytes();
    first = m.data + panel_bytes * static_cast<size_t>(panel);
    second = both ? first + panel_bytes : first;
  }

  F16 scale(size_t block) const {
    const size_t at = Weights::scale_bytes * block;
    return join(Weights::scale(first + at), Weights::scale(second + at));
  }
  // 64 bytes at `at` of a block: 32 of each panel.
  __m512i bytes(size_t block, size_t at) const {
    const size_t place = scales_bytes + Weights::bytes * block + at;
    return two_halves(first + place, second + place);
  }
};

// Adds the products of some columns, from `column` on, of H pairs of panels with N tokens; a value of
// a token, once loaded, meets all rows.
template <class Kind, int H, int N>
void add_part(const __m512i* part, const typename Kind::Value* const* x, int column,
              __m512i (*sums)[H]) {
#pragma GCC unroll 8
  for (int n = 0; n < N; ++n) {
    const __m512i values = in_every_lane(x[n] + column);
#pragma GCC unroll 2
    for (int h = 0; h < H; ++h) sums[n][h] = Kind::multiply(sums[n][h], part[h], values);
  }
}

// MXFP4 against int8: vectors of 16 rows by 4 columns, unsigned as in kMxfp4Table.
struct Mxfp4Int8 {
  using Pair = PanelPair<Mxfp4Blocks>;
  using Value = int8_t;
  using Scale = BlockScale;

  static const Value* values(const MatmulTask& t) { return t.x.int8; }
  static const Scale* scales(const MatmulTask& t) { return t.x.block_scales; }
  static float scale(const Scale& s) { return s.scale; }
  static __m512i start(const Scale& s) {
    return _mm512_madd_epi16(_mm512_set1_epi32(s.offset), _mm512_set1_epi16(-1));
  }
  template <int H, int N>
  static void add_block(const Pair* pairs, size_t block, const Value* const* x,
                        __m512i (*sums)[H]) {
    const __m512i lookup = repeated(kMxfp4Table);
    const __m512i low = _mm512_set1_epi8(15);
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      __m512i first[H], second[H];  // columns 8i to 8i + 3, and 8i + 4 to 8i + 7
#pragma GCC unroll 2
      for (int h = 0; h < H; ++h) {
        const __m512i v = pairs[h].bytes(block, static_cast<size_t>(32 * i));
        const __m512i high_nibbles = _mm512_and_si512(_mm512_srli_epi16(v, 4), low);
        first[h] = _mm512_shuffle_epi8(lookup, _mm512_and_si512(v, low));
        second[h] = _mm512_shuffle_epi8(lookup, high_nibbles);
      }
      add_part<Mxfp4Int8, H, N>(first, x, 8 * i, sums);
      add_part<Mxfp4Int8, H, N>(second, x, 8 * i + 4, sums);
    }
  }
  static __m512i multiply(__m512i sums, __m512i part, __m512i x) {
    return _mm512_dpbusd_epi32(sums, part, x);
  }
  // What block products of a token miss; see add_outliers.
  static F16 finish(const MatmulTask& t, const Pair& pair, ptrdiff_t row, F16 acc) {
    const Outlier* outliers = t.x.outliers + row * (t.x.stride / kBlock);
    for (int32_t i = 0; i < t.x.outlier_counts[row]; ++i) {
      const auto column = static_cast<size_t>(outliers[i].column);
      const size_t block = column / kBlock;
      const size_t place = column % kBlock;
      const __m512i v = pair.bytes(block, 32 * (place / 8));
      const __m128i shift = _mm_cvtsi32_si128(static_cast<int>(place % 4 * 8 + place % 8 / 4 * 4));
      const __m512i code = _mm512_and_si512(_mm512_srl_epi32(v, shift), _mm512_set1_epi32(15));
      const __m512i entry = _mm512_and_si512(_mm512_shuffle_epi8(repeated(kMxfp4Table), code),
                                             _mm512_set1_epi32(255));
      const F16 weight =
          _mm512_cvtepi32_ps(_mm512_sub_epi32(entry, _mm512_set1_epi32(kMxfp4Offset)));
      acc = _mm512_fmadd_ps(_mm512_mul_ps(weight, pair.scale(block)),
                            _mm512_set1_ps(outliers[i].value), acc);
    }
    return acc;
  }
};

// Bytes of each lane, for a shuffle that puts them into the upper halves of its two words.
alignas(16) const uint32_t kFirstTwoBytes[4] = {0x01800080, 0x05800480, 0x09800880, 0x0d800c80};
alignas(16) const uint32_t kLastTwoBytes[4] = {0x03800280, 0x07800680, 0x0b800a80, 0x0f800e80};

// Q8 against int16: vectors of 16 rows by 2 columns, widened.
struct Q8Int16 {
  using Pair = PanelPair<Q8Blocks>;
  using Value = int16_t;
  using Scale = float;

  static const Value* values(const MatmulTask& t) { return t.x.int16; }
  static const Scale* scales(const MatmulTask& t) { return t.x.scales; }
  static float scale(Scale s) { return s; }
  static __m512i start(Scale) { return _mm512_setzero_si512(); }
  template <int H, int N>
  static void add_block(const Pair* pairs, size_t block, const Value* const* x,
                        __m512i (*sums)[H]) {
    const __m512i first_two = repeated(kFirstTwoBytes);
    const __m512i last_two = repeated(kLastTwoBytes);
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) {
      __m512i first[H], second[H];  // columns 4i and 4i + 1, and 4i + 2 and 4i + 3
#pragma GCC unroll 2
      for (int h = 0; h < H; ++h) {
        const __m512i v = pairs[h].bytes(block, static_cast<size_t>(32 * i));
        first[h] = _mm512_srai_epi16(_mm512_shuffle_epi8(v, first_two), 8);
        second[h] = _mm512_srai_epi16(_mm512_shuffle_epi8(v, last_two), 8);
      }
      add_part<Q8Int16, H, N>(first, x, 4 * i, sums);
      add_part<Q8Int16, H, N>(second, x, 4 * i + 2, sums);
    }
  }
  static __m512i multiply(__m512i sums, __m512i part, __m512i x) {
    return _mm512_dpwssd_epi32(sums, part, x);
  }
  static F16 finish(const MatmulTask&, const Pair&, ptrdiff_t, F16 acc) { return acc; }
};

void write_pair(const MatmulTask& t, int panel, bool both, int token, F16 value) {
  write(t, panel, token, SixteenLanes::part(value, 0));
  if (both) write(t, panel + 1, token, SixteenLanes::part(value, 1));
}

// H pairs of panels from `panel` on against N tokens. Within a block, tokens take turns, so that
// products do not wait for each other. As many panels that come next are asked for meanwhile, a share
// with each block, in the order in which they lie and not in that of their use: memory gives one
// stream twice as fast as four.
template <class Kind, int H, int N>
void pairs_tile(const MatmulTask& t, int panel, bool both, int token) {
  const auto blocks = static_cast<size_t>(t.weights->blocks());
  typename Kind::Pair pairs[H];
  for (int h = 0; h < H; ++h) {
    pairs[h].point_at(*t.weights, panel + 2 * h, both);
    prefetch_bias(t, panel + 2 * h);
  }
  const size_t panels_bytes = 2 * H * pairs[0].panel_bytes;
  const size_t share = (panels_bytes / blocks + 63) / 64 * 64;
  const typename Kind::Value* x[N];
  const typename Kind::Scale* x_scale[N];
  F16 acc[N][H];
  for (int n = 0; n < N; ++n) {
    const ptrdiff_t row = source_row(t, token + n);
    x[n] = Kind::values(t) + row * t.x.stride;
    x_scale[n] = Kind::scales(t) + row * static_cast<ptrdiff_t>(blocks);
    for (int h = 0; h < H; ++h) acc[n][h] = _mm512_setzero_ps();
  }
  for (size_t b = 0; b < blocks; ++b) {
    __m512i sums[N][H];
    prefetch(pairs[0].first + panels_bytes + share * b, share);
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) {
#pragma GCC unroll 2
      for (int h = 0; h < H; ++h) sums[n][h] = Kind::start(x_scale[n][b]);
    }
    Kind::template add_block<H, N>(pairs, b, x, sums);
#pragma GCC unroll 2
    for (int h = 0; h < H; ++h) {
      const F16 scale = pairs[h].scale(b);
#pragma GCC unroll 8
      for (int n = 0; n < N; ++n) {
        const F16 both_scales = _mm512_mul_ps(scale, _mm512_set1_ps(Kind::scale(x_scale[n][b])));
        acc[n][h] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums[n][h]), both_scales, acc[n][h]);
      }
    }
    for (int n = 0; n < N; ++n) x[n] += kBlock;
  }
  for (int n = 0; n < N; ++n)
    for (int h = 0; h < H; ++h) {
      const F16 whole = Kind::finish(t, pairs[h], source_row(t, token + n), acc[n][h]);
      write_pair(t, panel + 2 * h, both, token + n, whole);
    }
}

// The same for the tokens [begin, end).
template <class Kind, int H>
void pairs_row(const MatmulTask& t, int panel, bool both, int begin, int end) {
  int i = begin;
  for (; i + 6 <= end; i += 6) pairs_tile<Kind, H, 6>(t, panel, both, i);
  for (; i + 4 <= end; i += 4) pairs_tile<Kind, H, 4>(t, panel, both, i);
  for (; i + 2 <= end; i += 2) pairs_tile<Kind, H, 2>(t, panel, both, i);
  if (i < end) pairs_tile<Kind, H, 1>(t, panel, both, i);
}

template <class Kind>
void pairs_matmul(const MatmulTask& t) {
  for (int begin = 0; begin < t.tokens; begin += kTokenBlock) {
    const int end = begin + kTokenBlock < t.tokens ? begin + kTokenBlock : t.tokens;
    int p = t.panel_begin;
    for (; p + 4 <= t.panel_end; p += 4) pairs_row<Kind, 2>(t, p, true, begin, end);
    for (; p < t.panel_end; p += 2) pairs_row<Kind, 1>(t, p, p + 1 < t.panel_end, begin, end);
  }
}

// One token is left to single panels: memory is its limit, and is read fastest as a single stream.
void matmul_by_pairs(const MatmulTask& t) {
  const bool several = t.tokens > 1;
  if (several && t.weights->kind == WeightKind::kMxfp4 && t.x.int8) {
    pairs_matmul<Mxfp4Int8>(t);
  } else if (several && t.weights->kind == WeightKind::kQ8 && t.x.int16) {
    pairs_matmul<Q8Int16>(t);
  } else {
    matmul(t);
  }
}

}  // namespace
