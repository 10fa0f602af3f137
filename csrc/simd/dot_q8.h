// The product of a Q8 block with int16 activations on registers of 256 bits, for sets of x86.h. They
// define add_pairs(sums, w, x) before they include this: sums + pairs of products of 16-bit values.
#pragma once

namespace osslo::OSSLO_SIMD {

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
      low[n] = i == 0 ? _mm256_madd_epi16(w0, a) : add_pairs(low[n], w0, a);
      high[n] = i == 0 ? _mm256_madd_epi16(w1, a) : add_pairs(high[n], w1, a);
    }
  }
  for (int n = 0; n < N; ++n)
    out[n] = _mm256_permute4x64_epi64(_mm256_hadd_epi32(low[n], high[n]), 0xd8);
}

}  // namespace osslo::OSSLO_SIMD
