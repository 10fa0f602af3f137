// Eight float lanes on AVX2, FMA and F16C, for every set that has them. The meaning of each
// operation is in scalar.h. A set defines OSSLO_SIMD, the namespace of its own, before it includes
// this: one name for code compiled with two sets of flags would let the linker pick either.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

namespace osslo::OSSLO_SIMD {

using F8 = __m256;
using I8 = __m256i;

inline F8 load(const float* p) { return _mm256_loadu_ps(p); }
inline void store(float* p, F8 a) { _mm256_storeu_ps(p, a); }
inline F8 set1(float v) { return _mm256_set1_ps(v); }
inline F8 zero() { return _mm256_setzero_ps(); }
inline F8 add(F8 a, F8 b) { return _mm256_add_ps(a, b); }
inline F8 sub(F8 a, F8 b) { return _mm256_sub_ps(a, b); }
inline F8 mul(F8 a, F8 b) { return _mm256_mul_ps(a, b); }
inline F8 div(F8 a, F8 b) { return _mm256_div_ps(a, b); }
inline F8 max(F8 a, F8 b) { return _mm256_max_ps(a, b); }
inline F8 min(F8 a, F8 b) { return _mm256_min_ps(a, b); }
inline F8 fma(F8 a, F8 b, F8 c) { return _mm256_fmadd_ps(a, b, c); }
inline F8 abs(F8 a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a); }
inline F8 select_less(F8 a, F8 b, F8 yes, F8 no) {
  return _mm256_blendv_ps(no, yes, _mm256_cmp_ps(a, b, _CMP_LT_OQ));
}
inline float sum(F8 a) {
  const __m128 s = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  const __m128 t = _mm_add_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_add_ss(t, _mm_movehdup_ps(t)));
}
inline float max_lane(F8 a) {
  const __m128 s = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  const __m128 t = _mm_max_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_max_ss(t, _mm_movehdup_ps(t)));
}
inline F8 sums(const F8 a[8]) {
  const F8 s0 = _mm256_hadd_ps(_mm256_hadd_ps(a[0], a[1]), _mm256_hadd_ps(a[2], a[3]));
  const F8 s1 = _mm256_hadd_ps(_mm256_hadd_ps(a[4], a[5]), _mm256_hadd_ps(a[6], a[7]));
  return _mm256_add_ps(_mm256_permute2f128_ps(s0, s1, 0x20), _mm256_permute2f128_ps(s0, s1, 0x31));
}

inline F8 load_f16(const uint16_t* p) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
inline void store_f16(uint16_t* p, F8 a) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT));
}
inline F8 load_bf16(const uint16_t* p) {
  const __m128i half = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
}

inline I8 load_int(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
inline F8 to_float(I8 a) { return _mm256_cvtepi32_ps(a); }
inline I8 round_to_int(F8 a) { return _mm256_cvtps_epi32(a); }
inline int32_t sum(I8 a) {
  const __m128i s = _mm_add_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
  const __m128i t = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4e));
  return _mm_cvtsi128_si32(_mm_add_epi32(t, _mm_shuffle_epi32(t, 0xb1)));
}
inline void store_int16(int16_t* p, I8 a) {
  const __m128i w = _mm_packs_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), w);
}
inline void store_int8(int8_t* p, I8 a) {
  const __m128i w = _mm_packs_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
  _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packs_epi16(w, w));
}
inline F8 exp2_int(I8 n) {
  const I8 biased = _mm256_add_epi32(n, _mm256_set1_epi32(127));
  return _mm256_castsi256_ps(_mm256_slli_epi32(biased, 23));
}
inline I8 byte_unsigned(I8 a, int k) {
  return _mm256_and_si256(_mm256_srl_epi32(a, _mm_cvtsi32_si128(8 * k)), _mm256_set1_epi32(255));
}
inline I8 byte_signed(I8 a, int k) {
  return _mm256_srai_epi32(_mm256_sll_epi32(a, _mm_cvtsi32_si128(24 - 8 * k)), 24);
}
inline F8 load_e8m0(const uint8_t* p) {
  const I8 e = _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
  // e << 23 is 0 only for e = 0, whose value 2^-127 is the subnormal 0x00400000.
  const I8 bits = _mm256_slli_epi32(e, 23);
  return _mm256_castsi256_ps(_mm256_max_epi32(bits, _mm256_set1_epi32(0x00400000)));
}

struct Block {
  __m256i part[8];
};

inline Block unpack_mxfp4(const uint8_t* p, const uint8_t* table) {
  const __m256i lookup =
      _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(table)));
  const __m256i low = _mm256_set1_epi8(15);
  Block b;
  for (int i = 0; i < 4; ++i) {
    const __m256i v = load_int(p + 32 * i);
    b.part[2 * i] = _mm256_shuffle_epi8(lookup, _mm256_and_si256(v, low));
    b.part[2 * i + 1] =
        _mm256_shuffle_epi8(lookup, _mm256_and_si256(_mm256_srli_epi16(v, 4), low));
  }
  return b;
}
inline Block load_q8(const int8_t* p) {
  Block b;
  for (int i = 0; i < 8; ++i) b.part[i] = load_int(p + 32 * i);
  return b;
}
inline I8 lanes(const Block& b, int i) { return b.part[i]; }

// The four bytes at x in every lane.
inline __m256i four(const int8_t* x) {
  int32_t v;
  std::memcpy(&v, x, 4);
  return _mm256_set1_epi32(v);
}

inline I8 mxfp4_column(const uint8_t* weights, const uint8_t* table, int column) {
  const __m256i lookup =
      _mm256_broadcastsi128_si256(_mm_load_si128(reinterpret_cast<const __m128i*>(table)));
  const __m128i shift = _mm_cvtsi32_si128(column % 4 * 8 + column % 8 / 4 * 4);
  const __m256i v = _mm256_srl_epi32(load_int(weights + 32 * (column / 8)), shift);
  const __m256i code = _mm256_and_si256(v, _mm256_set1_epi32(15));
  return _mm256_and_si256(_mm256_shuffle_epi8(lookup, code), _mm256_set1_epi32(255));
}
inline I8 subtract(I8 a, int32_t v) { return _mm256_sub_epi32(a, _mm256_set1_epi32(v)); }

}  // namespace osslo::OSSLO_SIMD
