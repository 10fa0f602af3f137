// AVX2, FMA and F16C: the lanes of x86.h, and products of bytes by pairs.
#pragma once

#define OSSLO_SIMD avx2
#include "simd/x86.h"

namespace osslo::avx2 {

template <int N>
inline void dot_mxfp4(const uint8_t* weights, const uint8_t* table, const int8_t* const* x,
                      I8* out) {
  const __m256i lookup =
      _mm256_broadcastsi128_si256(_mm_load_si128(reinterpret_cast<const __m128i*>(table)));
  const __m256i low = _mm256_set1_epi8(15);
  const __m256i ones = _mm256_set1_epi16(1);
  for (int half = 0; half < 2; ++half) {
    // A pair gives at most 2 * 24 * 127 = 6096, four of them 24384: they add up in 16 bits.
    __m256i pairs[N];
    for (int i = 0; i < 2; ++i) {
      const int at = 16 * half + 8 * i;
      const __m256i v = load_int(weights + 4 * at);
      const __m256i w0 = _mm256_shuffle_epi8(lookup, _mm256_and_si256(v, low));
      const __m256i w1 =
          _mm256_shuffle_epi8(lookup, _mm256_and_si256(_mm256_srli_epi16(v, 4), low));
      for (int n = 0; n < N; ++n) {
        const __m256i p0 = _mm256_maddubs_epi16(w0, four(x[n] + at));
        const __m256i p1 = _mm256_maddubs_epi16(w1, four(x[n] + at + 4));
        const __m256i both = _mm256_add_epi16(p0, p1);
        pairs[n] = i == 0 ? both : _mm256_add_epi16(pairs[n], both);
      }
    }
    for (int n = 0; n < N; ++n) {
      const __m256i sums32 = _mm256_madd_epi16(pairs[n], ones);
      out[n] = half == 0 ? sums32 : _mm256_add_epi32(out[n], sums32);
    }
  }
}

template <int N>
inline void dot_q8(const int8_t* weights, const int16_t* const* x, I8* out) {
  // Widened, a register holds 4 rows of 4 columns: two lanes a row, added up at the end.
  __m256i low[N], high[N];
  for (int i = 0; i < 8; ++i) {
    const auto* p = reinterpret_cast<const __m128i*>(weights + 32 * i);
    const __m256i w0 = _mm256_cvtepi8_epi16(_mm_loadu_si128(p));
    const __m256i w1 = _mm256_cvtepi8_epi16(_mm_loadu_si128(p + 1));
    for (int n = 0; n < N; ++n) {
      int64_t columns;
      std::memcpy(&columns, x[n] + 4 * i, 8);
      const __m256i a = _mm256_set1_epi64x(columns);
      const __m256i p0 = _mm256_madd_epi16(w0, a);
      const __m256i p1 = _mm256_madd_epi16(w1, a);
      low[n] = i == 0 ? p0 : _mm256_add_epi32(low[n], p0);
      high[n] = i == 0 ? p1 : _mm256_add_epi32(high[n], p1);
    }
  }
  for (int n = 0; n < N; ++n)
    out[n] = _mm256_permute4x64_epi64(_mm256_hadd_epi32(low[n], high[n]), 0xd8);
}

}  // namespace osslo::avx2
