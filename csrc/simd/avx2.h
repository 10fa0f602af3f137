// AVX2, FMA and F16C: the lanes of x86.h, and products of bytes by pairs.
#pragma once

#define OSSLO_SIMD avx2
#include "simd/x86.h"

namespace osslo::avx2 {

// See prefetch. On Milan 512 to 2048 bytes do alike, 4 KiB and more less (docs/perf.md).
constexpr size_t kPrefetchBytes = 1024;

// Sums of pairs stay in 16 bits to the end. They may wrap round on the way (8 pairs of at most
// 2 * 24 * 127), but without the offset they are at most 16 * 12 * 127 = 24384, so that what is left
// is exact.
template <int N>
inline void dot_mxfp4(const uint8_t* weights, const uint8_t* table, const int8_t* const* x,
                      const int32_t* offsets, I8* out) {
  const __m256i lookup =
      _mm256_broadcastsi128_si256(_mm_load_si128(reinterpret_cast<const __m128i*>(table)));
  const __m256i low = _mm256_set1_epi8(15);
  __m256i pairs[N];
  for (int i = 0; i < 4; ++i) {
    const __m256i v = load_int(weights + 32 * i);
    const __m256i w0 = _mm256_shuffle_epi8(lookup, _mm256_and_si256(v, low));
    const __m256i w1 =
        _mm256_shuffle_epi8(lookup, _mm256_and_si256(_mm256_srli_epi16(v, 4), low));
    for (int n = 0; n < N; ++n) {
      const __m256i p0 = _mm256_maddubs_epi16(w0, four(x[n] + 8 * i));
      const __m256i p1 = _mm256_maddubs_epi16(w1, four(x[n] + 8 * i + 4));
      pairs[n] = i == 0 ? p0 : _mm256_add_epi16(pairs[n], p0);
      pairs[n] = _mm256_add_epi16(pairs[n], p1);
      asm("" : "+x"(pairs[n]));  // or GCC adds up in another order, which spills every product
    }
  }
  const __m256i ones = _mm256_set1_epi16(1);
  for (int n = 0; n < N; ++n) {
    const __m256i exact = _mm256_sub_epi16(pairs[n], _mm256_set1_epi32(offsets[n]));
    out[n] = _mm256_madd_epi16(exact, ones);
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
