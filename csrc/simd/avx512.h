// AVX-512 with VNNI, in registers of 256 bits: the lanes of x86.h, and products of bytes by fours.
// Matrix products of integers go by pairs of panels instead (kernels/pairs.inl).
#pragma once

#ifndef OSSLO_SIMD
#define OSSLO_SIMD avx512
#endif
#include "simd/x86.h"

namespace osslo::OSSLO_SIMD {

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

}  // namespace osslo::OSSLO_SIMD
