// Matrix products of many tokens on AMX tiles, to the bit what the panels of kernels.inl give: a
// tile multiplies one block of 32 columns, whose integer sums are exact, and blocks are added up in
// the same order by the same operations. Included after pairs.inl, in the set's namespace.
//
// A pair of panels (16 rows of weights) is unpacked once for all tokens of a group, whose activations
// lie in tiles of 16 tokens. Both stay in the second-level cache.

namespace {

constexpr int kTileTokens = 16;  // rows of a tile of activations
constexpr int kGroupTokens = 128;  // 128 rows of 4096 int16 are 1 MiB of the 2 MiB these cores have
constexpr int kLeastTokens = 6;    // below this, unpacking for tiles costs more than tiles save
constexpr size_t kSumsBytes = 8192;  // sums that wait to be scaled: a sixth of the first-level cache
constexpr size_t kBlockTile = kTileTokens * kBlock;  // bytes, and the same for 16 rows of weights

// The tiles' shapes, as LDTILECFG reads them (Intel SDM volume 1, 18.3).
struct alignas(64) TileShapes {
  uint8_t palette = 1;
  uint8_t start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};
};

// Tile numbers. Macros, since some compilers paste them into the instruction.
#define OSSLO_SUMS 0
#define OSSLO_SUMS_LOW 1
#define OSSLO_WEIGHTS 2
#define OSSLO_VALUES 3
#define OSSLO_VALUES_LOW 4

void configure_tiles() {
  TileShapes shapes;
  const auto set = [&](int tile, int rows, int row_bytes) {
    shapes.rows[tile] = static_cast<uint8_t>(rows);
    shapes.row_bytes[tile] = static_cast<uint16_t>(row_bytes);
  };
  set(OSSLO_SUMS, kTileTokens, 4 * kPairRows);
  set(OSSLO_SUMS_LOW, kTileTokens, 4 * kPairRows);
  set(OSSLO_WEIGHTS, kBlock / 4, 4 * kPairRows);
  set(OSSLO_VALUES, kTileTokens, kBlock);
  set(OSSLO_VALUES_LOW, kTileTokens, kBlock);
  _tile_loadconfig(&shapes);
}

// Where the parts of a task's scratch begin.
struct Scratch {
  int8_t* weights;   // [blocks][8][16 rows][4 columns]
  float* scales;     // [blocks][16 rows]
  int8_t* values;    // [tiles][blocks][16 tokens][32 columns], int16 as two such, high bytes first
  float* x_scales;   // [tiles][blocks][16 tokens]
};

size_t tile_scratch_bytes(int32_t columns) {
  const auto blocks = static_cast<size_t>((columns + kBlock - 1) / kBlock);
  constexpr size_t tiles = kGroupTokens / kTileTokens;
  return blocks * (kBlockTile + 4 * kPairRows + tiles * (2 * kBlockTile + 4 * kTileTokens));
}

Scratch scratch_of(const MatmulTask& t) {
  const auto blocks = static_cast<size_t>(t.weights->blocks());
  constexpr size_t tiles = kGroupTokens / kTileTokens;
  Scratch s;
  s.weights = reinterpret_cast<int8_t*>(t.scratch);
  s.values = s.weights + blocks * kBlockTile;
  s.scales = reinterpret_cast<float*>(s.values + blocks * tiles * 2 * kBlockTile);
  s.x_scales = s.scales + blocks * kPairRows;
  return s;
}

struct Mxfp4Pair {
  using Weights = Mxfp4Blocks;
  // Twice the values of E2M1: signed, so that no offset is needed.
  static void unpack(const uint8_t* first, const uint8_t* second, int8_t* out) {
    alignas(16) static const int8_t twice[16] = {0, 1, 2, 3, 4, 6, 8, 12,
                                                 0, -1, -2, -3, -4, -6, -8, -12};
    const __m512i lookup = repeated(twice);
    const __m512i low = _mm512_set1_epi8(15);
    for (int i = 0; i < 4; ++i) {
      const __m512i v = two_halves(first + 32 * i, second + 32 * i);
      const __m512i high_nibbles = _mm512_and_si512(_mm512_srli_epi16(v, 4), low);
      _mm512_store_si512(out + 128 * i, _mm512_shuffle_epi8(lookup, _mm512_and_si512(v, low)));
      _mm512_store_si512(out + 128 * i + 64, _mm512_shuffle_epi8(lookup, high_nibbles));
    }
  }
};

struct Q8Pair {
  using Weights = Q8Blocks;
  static void unpack(const uint8_t* first, const uint8_t* second, int8_t* out) {
    for (int i = 0; i < 8; ++i)
      _mm512_store_si512(out + 64 * i, two_halves(first + 32 * i, second + 32 * i));
  }
};

// Weights and scales of panels `panel` and `panel + 1`; where there is no second, the first again,
// whose results are not written.
template <class Pair>
void unpack_pair(const MatmulTask& t, int panel, bool second, const Scratch& s) {
  using Weights = typename Pair::Weights;
  const size_t panel_bytes = t.weights->panel_bytes();
  const uint8_t* a = t.weights->data + panel_bytes * static_cast<size_t>(panel);
  const uint8_t* b = second ? a + panel_bytes : a;
  const size_t begin = t.weights->scales_bytes();
  const auto blocks = static_cast<size_t>(t.weights->blocks());
  for (size_t i = 0; i < blocks; ++i) {
    prefetch(a + 2 * panel_bytes + begin + Weights::bytes * i, Weights::bytes);
    prefetch(b + 2 * panel_bytes + begin + Weights::bytes * i, Weights::bytes);
    Pair::unpack(a + begin + Weights::bytes * i, b + begin + Weights::bytes * i,
                 s.weights + kBlockTile * i);
    store(s.scales + kPairRows * i, Weights::scale(a + Weights::scale_bytes * i));
    store(s.scales + kPairRows * i + kPanelRows, Weights::scale(b + Weights::scale_bytes * i));
  }
}

// Activations of the tokens [begin, end) as tiles; rows past the end are zero.
template <bool kInt16>
void gather_tiles(const MatmulTask& t, int begin, int end, const Scratch& s) {
  const auto blocks = static_cast<size_t>(t.weights->blocks());
  constexpr size_t block_bytes = (kInt16 ? 2 : 1) * kBlockTile;
  for (int i = begin; i < begin + (end - begin + kTileTokens - 1) / kTileTokens * kTileTokens; ++i) {
    const auto tile = static_cast<size_t>((i - begin) / kTileTokens);
    const auto place = static_cast<size_t>((i - begin) % kTileTokens);
    int8_t* values = s.values + tile * blocks * block_bytes + place * kBlock;
    float* scales = s.x_scales + tile * blocks * kTileTokens + place;
    const ptrdiff_t row = i < end ? source_row(t, i) : 0;
    for (size_t b = 0; b < blocks; ++b, values += block_bytes, scales += kTileTokens) {
      __m256i bytes = _mm256_setzero_si256();
      __m256i low = bytes;
      float scale = 0.0f;
      if (i < end) {
        const auto at = row * static_cast<ptrdiff_t>(blocks) + static_cast<ptrdiff_t>(b);
        scale = kInt16 ? t.x.scales[at] : t.x.block_scales[at].scale;
        if (kInt16) {
          const __m512i x = _mm512_loadu_si512(t.x.int16 + row * t.x.stride + kBlock * b);
          bytes = _mm512_cvtepi16_epi8(_mm512_srai_epi16(x, 8));
          low = _mm512_cvtepi16_epi8(x);
        } else {
          bytes = load_int(t.x.int8 + row * t.x.stride + kBlock * b);
        }
      }
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(values), bytes);
      if (kInt16) _mm256_storeu_si256(reinterpret_cast<__m256i*>(values + kBlockTile), low);
      *scales = scale;
    }
  }
}

// Sums of block b of one tile of tokens against the unpacked pair: int32 [16 tokens][16 rows]; for
// int16 the sums of high and of low bytes, one after the other.
template <bool kInt16>
void multiply_block(const int8_t* values, const int8_t* weights, int32_t* sums) {
  _tile_loadd(OSSLO_WEIGHTS, weights, 4 * kPairRows);
  _tile_loadd(OSSLO_VALUES, values, kBlock);
  _tile_zero(OSSLO_SUMS);
  _tile_dpbssd(OSSLO_SUMS, OSSLO_VALUES, OSSLO_WEIGHTS);
  _tile_stored(OSSLO_SUMS, sums, 4 * kPairRows);
  if (kInt16) {
    _tile_loadd(OSSLO_VALUES_LOW, values + kBlockTile, kBlock);
    _tile_zero(OSSLO_SUMS_LOW);
    _tile_dpbusd(OSSLO_SUMS_LOW, OSSLO_VALUES_LOW, OSSLO_WEIGHTS);
    _tile_stored(OSSLO_SUMS_LOW, sums + kTileTokens * kPairRows, 4 * kPairRows);
  }
}

template <bool kInt16>
F16 whole_sums(const int32_t* sums, int row) {
  const __m512i high = _mm512_load_si512(sums + kPairRows * row);
  if (!kInt16) return _mm512_cvtepi32_ps(high);
  const __m512i low = _mm512_load_si512(sums + kPairRows * (kTileTokens + row));
  return _mm512_cvtepi32_ps(_mm512_add_epi32(_mm512_slli_epi32(high, 8), low));
}

// The tile's outliers of one token, as add_outliers does it for a panel.
F16 add_pair_outliers(const MatmulTask& t, const Scratch& s, ptrdiff_t row, F16 acc) {
  const Outlier* outliers = t.x.outliers + row * (t.x.stride / kBlock);
  for (int32_t i = 0; i < t.x.outlier_counts[row]; ++i) {
    const int32_t column = outliers[i].column;
    const __m512i four_columns = _mm512_load_si512(s.weights + column / 4 * 64);
    const __m128i up = _mm_cvtsi32_si128(24 - 8 * (column % 4));
    const __m512i entries = _mm512_srai_epi32(_mm512_sll_epi32(four_columns, up), 24);
    const F16 scale = _mm512_load_ps(s.scales + kPairRows * (column / kBlock));
    acc = _mm512_fmadd_ps(_mm512_mul_ps(_mm512_cvtepi32_ps(entries), scale),
                          _mm512_set1_ps(outliers[i].value), acc);
  }
  return acc;
}

// One tile of tokens, its first R, against the unpacked pair. The tile unit works some blocks ahead:
// what it stores can't be read at once.
template <class Pair, bool kInt16, int R>
void tile_product(const MatmulTask& t, const Scratch& s, int tile, int group, int panel,
                  bool second) {
  const auto blocks = static_cast<size_t>(t.weights->blocks());
  constexpr size_t block_bytes = (kInt16 ? 2 : 1) * kBlockTile;
  constexpr size_t sums_of_block = (kInt16 ? 2 : 1) * kTileTokens * kPairRows;
  constexpr size_t ahead = kSumsBytes / sizeof(int32_t) / sums_of_block;
  const int8_t* values = s.values + static_cast<size_t>(tile) * blocks * block_bytes;
  const float* x_scales = s.x_scales + static_cast<size_t>(tile) * blocks * kTileTokens;
  alignas(64) int32_t sums[ahead * sums_of_block];
  F16 acc[R];
  for (F16& a : acc) a = _mm512_setzero_ps();
  for (size_t first = 0; first < blocks; first += ahead) {
    const size_t end = first + ahead < blocks ? first + ahead : blocks;
    for (size_t b = first; b < end; ++b)
      multiply_block<kInt16>(values + block_bytes * b, s.weights + kBlockTile * b,
                             sums + sums_of_block * (b - first));
    for (size_t b = first; b < end; ++b) {
      const int32_t* own = sums + sums_of_block * (b - first);
      const F16 scale = _mm512_load_ps(s.scales + kPairRows * b);
      for (int r = 0; r < R; ++r) {
        const F16 both = _mm512_mul_ps(scale, _mm512_set1_ps(x_scales[kTileTokens * b + r]));
        acc[r] = _mm512_fmadd_ps(whole_sums<kInt16>(own, r), both, acc[r]);
      }
    }
  }
  for (int r = 0; r < R; ++r) {
    const int token = group + tile * kTileTokens + r;
    if (token >= t.tokens) break;
    F16 value = acc[r];
    if (!kInt16) value = add_pair_outliers(t, s, source_row(t, token), value);
    write(t, panel, token, _mm512_castps512_ps256(value));
    if (second) write(t, panel + 1, token, _mm512_extractf32x8_ps(value, 1));
  }
}

template <class Pair, bool kInt16>
void tile_matmul(const MatmulTask& t) {
  const Scratch s = scratch_of(t);
  configure_tiles();
  for (int group = 0; group < t.tokens; group += kGroupTokens) {
    const int end = group + kGroupTokens < t.tokens ? group + kGroupTokens : t.tokens;
    gather_tiles<kInt16>(t, group, end, s);
    for (int p = t.panel_begin; p < t.panel_end; p += 2) {
      const bool second = p + 1 < t.panel_end;
      unpack_pair<Pair>(t, p, second, s);
      int left = end - group;
      for (int tile = 0; left > 0; ++tile, left -= kTileTokens) {
        if (left > 12) tile_product<Pair, kInt16, 16>(t, s, tile, group, p, second);
        else if (left > 8) tile_product<Pair, kInt16, 12>(t, s, tile, group, p, second);
        else if (left > 4) tile_product<Pair, kInt16, 8>(t, s, tile, group, p, second);
        else tile_product<Pair, kInt16, 4>(t, s, tile, group, p, second);
      }
    }
  }
  _tile_release();
}

void matmul_by_tiles(const MatmulTask& t) {
  const bool enough = t.tokens >= kLeastTokens;
  if (enough && t.weights->kind == WeightKind::kMxfp4 && t.x.int8) {
    tile_matmul<Mxfp4Pair, false>(t);
  } else if (enough && t.weights->kind == WeightKind::kQ8 && t.x.int16) {
    tile_matmul<Q8Pair, true>(t);
  } else {
    matmul_by_pairs(t);
  }
}

}  // namespace
