// AVX-512 with VNNI, in registers of 256 bits: the lanes of x86.h, and products of bytes by fours.
// Matrix products of integers go by pairs of panels instead (kernels/pairs.inl).
#pragma once

#ifndef OSSLO_SIMD
#define OSSLO_SIMD avx512
#endif
#include "simd/x86.h"

namespace osslo::OSSLO_SIMD {

// See prefetch. On Zen 5, one thread reads MXFP4 panels at 22 GB/s with 1 KiB, 35 with 8 and 42
// with 12; 16 and 24 do alike (docs/perf.md).
constexpr size_t kPrefetchBytes = 12288;

template <int N>
inline void dot_mxfp4(const uint8_t* weights, const uint8_t* table, const int8_t* const* x,
                      const int32_t* offsets, I8* out) {
  const Block w = unpack_mxfp4(weights, table);
  for (int n = 0; n < N; ++n) {
    out[n] = _mm256_madd_epi16(_mm256_set1_epi32(offsets[n]), _mm256_set1_epi16(-1));
    for (int i = 0; i < 8; ++i)
      out[n] = _mm256_dpbusd_epi32(out[n], w.part[i], four(x[n] + 4 * i));
  }
}

template <int N>
inline void dot_q8(const int8_t* weights, const int16_t* const* x, I8* out) {
  // Widened, a register holds 4 rows of 4 columns: two lanes a row, added up at the end.
  __m256i low[N], high[N];
  for (int n = 0; n < N; ++n) low[n] = high[n] = _mm256_setzero_si256();
  for (int i = 0; i < 8; ++i) {
    const auto* p = reinterpret_cast<const __m128i*>(weights + 32 * i);
    const __m256i w0 = _mm256_cvtepi8_epi16(_mm_loadu_si128(p));
    const __m256i w1 = _mm256_cvtepi8_epi16(_mm_loadu_si128(p + 1));
    for (int n = 0; n < N; ++n) {
      int64_t columns;
      std::memcpy(&columns, x[n] + 4 * i, 8);
      const __m256i a = _mm256_set1_epi64x(columns);
      low[n] = _mm256_dpwssd_epi32(low[n], w0, a);
      high[n] = _mm256_dpwssd_epi32(high[n], w1, a);
    }
  }
  for (int n = 0; n < N; ++n)
    out[n] = _mm256_permute4x64_epi64(_mm256_hadd_epi32(low[n], high[n]), 0xd8);
}

// Sixteen float lanes as two parts of eight, each operation as in x86.h; see EightLanes.
#define OSSLO_SIXTEEN_LANES
using F16 = __m512;
using I16 = __m512i;

inline void store(float* p, F16 a) { _mm512_storeu_ps(p, a); }
inline F16 sub(F16 a, F16 b) { return _mm512_sub_ps(a, b); }
inline F16 mul(F16 a, F16 b) { return _mm512_mul_ps(a, b); }
inline F16 max(F16 a, F16 b) { return _mm512_max_ps(a, b); }
inline F16 min(F16 a, F16 b) { return _mm512_min_ps(a, b); }
inline F16 fma(F16 a, F16 b, F16 c) { return _mm512_fmadd_ps(a, b, c); }
inline F16 select_less(F16 a, F16 b, F16 yes, F16 no) {
  return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), no, yes);
}
inline F16 to_float(I16 a) { return _mm512_cvtepi32_ps(a); }
inline I16 round_to_int(F16 a) { return _mm512_cvtps_epi32(a); }
inline F16 exp2_int(I16 n) {
  const I16 biased = _mm512_add_epi32(n, _mm512_set1_epi32(127));
  return _mm512_castsi512_ps(_mm512_slli_epi32(biased, 23));
}
inline F16 add_neighbours(F16 a, F16 b) {
  return _mm512_add_ps(_mm512_shuffle_ps(a, b, 0x88), _mm512_shuffle_ps(a, b, 0xdd));
}
// In each part, lane r is the sum over that part's lanes of a[r].
inline F16 sums(const F16 a[8]) {
  const F16 s0 = add_neighbours(add_neighbours(a[0], a[1]), add_neighbours(a[2], a[3]));
  const F16 s1 = add_neighbours(add_neighbours(a[4], a[5]), add_neighbours(a[6], a[7]));
  const F16 s = _mm512_add_ps(_mm512_shuffle_f32x4(s0, s1, 0x88), _mm512_shuffle_f32x4(s0, s1, 0xdd));
  return _mm512_shuffle_f32x4(s, s, 0xd8);
}
inline F16 join(F8 low, F8 high) { return _mm512_insertf32x8(_mm512_castps256_ps512(low), high, 1); }

struct SixteenLanes {
  using V = F16;
  static constexpr int kParts = 2;
  static constexpr int kVectors = 2;
  static V all(float v) { return _mm512_set1_ps(v); }
  static V read(const float* p) { return _mm512_loadu_ps(p); }
  static V read(const uint16_t* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  static V repeat(F8 a) { return _mm512_broadcast_f32x8(a); }
  static V parts(const float* p, ptrdiff_t stride) { return join(load(p), load(p + stride)); }
  static V parts(const uint16_t* p, ptrdiff_t stride) {
    const auto* low = reinterpret_cast<const __m128i*>(p);
    const auto* high = reinterpret_cast<const __m128i*>(p + stride);
    return _mm512_cvtph_ps(_mm256_set_m128i(_mm_loadu_si128(high), _mm_loadu_si128(low)));
  }
  static F8 part(V a, int i) {
    return i == 0 ? _mm512_castps512_ps256(a) : _mm512_extractf32x8_ps(a, 1);
  }
};

}  // namespace osslo::OSSLO_SIMD
