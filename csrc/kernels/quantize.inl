// Activations as blocks of integers, written over eight lanes; the forms are in kernels.h. Included by
// kernels.inl, inside the namespace of an instruction set.

// A block of x, filled up with zeros in `padded` where the row ends inside it.
const float* whole_block(const float* x, int32_t left, float* padded) {
  if (left >= kBlock) return x;
  for (int32_t i = 0; i < kBlock; ++i) padded[i] = i < left ? x[i] : 0.0f;
  return padded;
}

float largest_magnitude(const float* block) {
  F8 largest = zero();
  for (int i = 0; i < kBlock; i += 8) largest = max(largest, abs(load(block + i)));
  return max_lane(largest);
}

// The largest magnitude below `amax`.
float next_magnitude(const float* block, float amax) {
  F8 largest = zero();
  for (int i = 0; i < kBlock; i += 8) {
    const F8 magnitude = abs(load(block + i));
    largest = max(largest, select_less(magnitude, set1(amax), magnitude, zero()));
  }
  return max_lane(largest);
}

// Below this the inverse of a scale would overflow; such a block is zero to any matrix product.
constexpr float kSmallest = 1e-30f;

// A lone value this many times above the rest of its block would cost the rest a bit or more.
// At 2, one block in four of SmolLM2's activations has one, and the divergence from float
// activations falls to a sixth (docs/perf.md); a normal distribution gives one in sixty.
constexpr float kOutlierRatio = 2.0f;

// The place of the only value of magnitude amax, or -1.
int lone_largest(const float* block, float amax) {
  int place = -1;
  for (int i = 0; i < kBlock; ++i) {
    if (__builtin_fabsf(block[i]) != amax) continue;
    if (place >= 0) return -1;
    place = i;
  }
  return place;
}

// BlockScale::offset of a block: at most 16 * 127 * kMxfp4Offset = 24384 in each half.
int32_t block_offset(const int8_t* values) {
  int32_t halves[2] = {0, 0};
  for (int i = 0; i < kBlock; ++i) halves[i % 4 / 2] += values[i];
  const auto low = static_cast<uint16_t>(kMxfp4Offset * halves[0]);
  const auto high = static_cast<uint16_t>(kMxfp4Offset * halves[1]);
  return static_cast<int32_t>(static_cast<uint32_t>(high) << 16 | low);
}

int32_t quantize_int8(const float* x, int32_t columns, int8_t* values, BlockScale* scales,
                      Outlier* outliers) {
  int32_t count = 0;
  for (int32_t begin = 0; begin < columns; begin += kBlock) {
    float own[kBlock];
    const float* block = whole_block(x + begin, columns - begin, own);
    float amax = largest_magnitude(block);
    const float next = next_magnitude(block, amax);
    if (amax > kSmallest && amax > kOutlierRatio * next) {
      const int place = lone_largest(block, amax);
      if (place >= 0) {
        outliers[count++] = {begin + place, block[place]};
        for (int i = 0; i < kBlock; ++i) own[i] = i == place ? 0.0f : block[i];
        block = own;
        amax = next;
      }
    }
    const bool some = amax > kSmallest;
    const F8 inverse = set1(some ? 127.0f / amax : 0.0f);
    for (int i = 0; i < kBlock; i += 8)
      store_int8(values + begin + i, round_to_int(mul(load(block + i), inverse)));
    scales[begin / kBlock] = {some ? amax / 127.0f : 0.0f, block_offset(values + begin)};
  }
  return count;
}

void quantize_int16(const float* x, int32_t columns, int16_t* values, float* scales) {
  for (int32_t begin = 0; begin < columns; begin += kBlock) {
    float own[kBlock];
    const float* block = whole_block(x + begin, columns - begin, own);
    const float amax = largest_magnitude(block);
    const bool some = amax > kSmallest;
    // 32 products of at most 128 * 32767 add up in 32 bits.
    const F8 inverse = set1(some ? 32767.0f / amax : 0.0f);
    for (int i = 0; i < kBlock; i += 8)
      store_int16(values + begin + i, round_to_int(mul(load(block + i), inverse)));
    scales[begin / kBlock] = some ? amax / 32767.0f : 0.0f;
  }
}
