// Eight float lanes in plain C++: the portable instruction set, and the meaning of every other one.
// Each operation rounds exactly as its AVX2 twin does, so that the two give the same bits.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "simd/half.h"

namespace osslo::scalar {

// See prefetch.
constexpr size_t kPrefetchBytes = 1024;

struct F8 {
  float lane[8];
};
struct I8 {
  int32_t lane[8];
};

inline F8 load(const float* p) {
  F8 r;
  std::memcpy(r.lane, p, sizeof r.lane);
  return r;
}
inline void store(float* p, F8 a) { std::memcpy(p, a.lane, sizeof a.lane); }
inline F8 set1(float v) { return {{v, v, v, v, v, v, v, v}}; }
inline F8 zero() { return set1(0.0f); }

#define OSSLO_LANEWISE(name, expr)        \
  inline F8 name(F8 a, F8 b) {            \
    F8 r;                                 \
    for (int i = 0; i < 8; ++i) {         \
      const float x = a.lane[i];          \
      const float y = b.lane[i];          \
      r.lane[i] = (expr);                 \
    }                                     \
    return r;                             \
  }
OSSLO_LANEWISE(add, x + y)
OSSLO_LANEWISE(sub, x - y)
OSSLO_LANEWISE(mul, x * y)
OSSLO_LANEWISE(div, x / y)
OSSLO_LANEWISE(max, x > y ? x : y)
OSSLO_LANEWISE(min, x < y ? x : y)
#undef OSSLO_LANEWISE

inline F8 fma(F8 a, F8 b, F8 c) {
  F8 r;
  for (int i = 0; i < 8; ++i) r.lane[i] = __builtin_fmaf(a.lane[i], b.lane[i], c.lane[i]);
  return r;
}
inline F8 abs(F8 a) {
  for (float& v : a.lane) v = std::fabs(v);
  return a;
}
// Lanes of `yes` where a < b, of `no` elsewhere.
inline F8 select_less(F8 a, F8 b, F8 yes, F8 no) {
  F8 r;
  for (int i = 0; i < 8; ++i) r.lane[i] = a.lane[i] < b.lane[i] ? yes.lane[i] : no.lane[i];
  return r;
}
// Sum in the order of a 256-bit register folded in halves.
inline float sum(F8 a) {
  const float s0 = a.lane[0] + a.lane[4], s1 = a.lane[1] + a.lane[5];
  const float s2 = a.lane[2] + a.lane[6], s3 = a.lane[3] + a.lane[7];
  return (s0 + s2) + (s1 + s3);
}
inline float max_lane(F8 a) {
  float m = a.lane[0];
  for (int i = 1; i < 8; ++i) m = m > a.lane[i] ? m : a.lane[i];
  return m;
}
// Lane r of the result is the sum over the lanes of a[r], added as neighbours.
inline F8 sums(const F8 a[8]) {
  F8 r;
  for (int i = 0; i < 8; ++i) {
    const float* v = a[i].lane;
    r.lane[i] = ((v[0] + v[1]) + (v[2] + v[3])) + ((v[4] + v[5]) + (v[6] + v[7]));
  }
  return r;
}

inline F8 load_f16(const uint16_t* p) {
  F8 r;
  for (int i = 0; i < 8; ++i) r.lane[i] = half_to_float(p[i]);
  return r;
}
inline void store_f16(uint16_t* p, F8 a) {
  for (int i = 0; i < 8; ++i) p[i] = float_to_half(a.lane[i]);
}
inline F8 load_bf16(const uint16_t* p) {
  F8 r;
  for (int i = 0; i < 8; ++i) r.lane[i] = bfloat_to_float(p[i]);
  return r;
}

inline I8 load_int(const void* p) {
  I8 r;
  std::memcpy(r.lane, p, sizeof r.lane);
  return r;
}
inline F8 to_float(I8 a) {
  F8 r;
  for (int i = 0; i < 8; ++i) r.lane[i] = static_cast<float>(a.lane[i]);
  return r;
}
// Round to nearest, ties to even.
inline I8 round_to_int(F8 a) {
  I8 r;
  for (int i = 0; i < 8; ++i) r.lane[i] = static_cast<int32_t>(std::nearbyintf(a.lane[i]));
  return r;
}
inline int32_t sum(I8 a) {
  int32_t s = 0;
  for (int32_t v : a.lane) s += v;
  return s;
}
inline void store_int16(int16_t* p, I8 a) {
  for (int i = 0; i < 8; ++i) p[i] = static_cast<int16_t>(a.lane[i]);
}
inline void store_int8(int8_t* p, I8 a) {
  for (int i = 0; i < 8; ++i) p[i] = static_cast<int8_t>(a.lane[i]);
}
// 2^n for whole n in [-126, 127].
inline F8 exp2_int(I8 n) {
  F8 r;
  for (int i = 0; i < 8; ++i) {
    const uint32_t bits = static_cast<uint32_t>(n.lane[i] + 127) << 23;
    std::memcpy(&r.lane[i], &bits, 4);
  }
  return r;
}
// Byte k (0..3) of each lane, without and with sign.
inline I8 byte_unsigned(I8 a, int k) {
  for (int32_t& v : a.lane) v = static_cast<int32_t>((static_cast<uint32_t>(v) >> (8 * k)) & 255u);
  return a;
}
inline I8 byte_signed(I8 a, int k) {
  for (int32_t& v : a.lane)
    v = static_cast<int8_t>(static_cast<uint8_t>(static_cast<uint32_t>(v) >> (8 * k)));
  return a;
}
// Eight E8M0 exponents (OCP MX 1.0) as floats: 2^(e - 127), e = 0 the subnormal 2^-127.
inline F8 load_e8m0(const uint8_t* p) {
  F8 r;
  for (int i = 0; i < 8; ++i) {
    const uint32_t bits = p[i] ? static_cast<uint32_t>(p[i]) << 23 : 0x00400000u;
    std::memcpy(&r.lane[i], &bits, 4);
  }
  return r;
}

// One block of 32 columns of a panel of 8 rows, as eight registers of [8 rows][4 columns] bytes.
struct Block {
  uint8_t bytes[8][32];
};

// MXFP4 nibbles become 2 * value + 12, in 0..24.
inline Block unpack_mxfp4(const uint8_t* p, const uint8_t* table) {
  Block b;
  for (int i = 0; i < 4; ++i)
    for (int j = 0; j < 32; ++j) {
      b.bytes[2 * i][j] = table[p[32 * i + j] & 15];
      b.bytes[2 * i + 1][j] = table[p[32 * i + j] >> 4];
    }
  return b;
}
inline Block load_q8(const int8_t* p) {
  Block b;
  std::memcpy(b.bytes, p, sizeof b.bytes);
  return b;
}
inline I8 lanes(const Block& b, int i) { return load_int(b.bytes[i]); }

// Sums over a block's 32 columns for 8 rows and N tokens: unsigned MXFP4 bytes times int8, less the
// two halves of the block's offset.
template <int N>
void dot_mxfp4(const uint8_t* weights, const uint8_t* table, const int8_t* const* x,
               const int32_t* offsets, I8* out) {
  const Block w = unpack_mxfp4(weights, table);
  for (int n = 0; n < N; ++n) {
    const int32_t offset = static_cast<int16_t>(offsets[n]) + (offsets[n] >> 16);
    for (int32_t& lane : out[n].lane) lane = -offset;
    for (int i = 0; i < 8; ++i)
      for (int row = 0; row < 8; ++row)
        for (int k = 0; k < 4; ++k) out[n].lane[row] += w.bytes[i][4 * row + k] * x[n][4 * i + k];
  }
}
// The same for signed bytes times int16.
template <int N>
void dot_q8(const int8_t* weights, const int16_t* const* x, I8* out) {
  for (int n = 0; n < N; ++n) {
    out[n] = {};
    for (int i = 0; i < 8; ++i)
      for (int row = 0; row < 8; ++row)
        for (int k = 0; k < 4; ++k)
          out[n].lane[row] += weights[32 * i + 4 * row + k] * x[n][4 * i + k];
  }
}
// Table entries of one column (0..31) of a block.
inline I8 mxfp4_column(const uint8_t* weights, const uint8_t* table, int column) {
  const int shift = column % 8 / 4 * 4;
  I8 r;
  for (int row = 0; row < 8; ++row)
    r.lane[row] = table[weights[32 * (column / 8) + 4 * row + column % 4] >> shift & 15];
  return r;
}
inline I8 subtract(I8 a, int32_t v) {
  for (int32_t& l : a.lane) l -= v;
  return a;
}

}  // namespace osslo::scalar
