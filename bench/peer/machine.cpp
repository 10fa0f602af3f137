// What this machine can do at most: reads from memory (GB/s) and int8 multiply-adds (GMAC/s), with
// the number of threads given. Prints one JSON line. Built with -march=native.
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>
#include <vector>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace {

using Clock = std::chrono::steady_clock;
constexpr size_t kBytesPerThread = size_t{1} << 30;  // far beyond any cache
constexpr int kRounds = 5;                           // the best counts: noise only slows down

template <class Body>
double timed(int threads, const Body& body) {
  const auto begin = Clock::now();
  std::vector<std::thread> team;
  for (int t = 0; t < threads; ++t) team.emplace_back(body, t);
  for (auto& member : team) member.join();
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

// How far ahead reads ask for memory; what is fastest depends on the processor, and the best counts.
constexpr size_t kAhead[] = {0, 1024, 4096, 12288};

uint64_t read_all(const uint8_t* data, size_t bytes, size_t ahead) {
#if defined(__AVX2__)
  __m256i sums[4] = {};
  for (size_t i = 0; i < bytes; i += 128) {
    __builtin_prefetch(data + i + ahead);
    __builtin_prefetch(data + i + ahead + 64);
    for (int j = 0; j < 4; ++j) {
      const auto* at = reinterpret_cast<const __m256i*>(data + i + 32 * j);
      sums[j] = _mm256_add_epi64(sums[j], _mm256_loadu_si256(at));
    }
  }
  __m256i sum = _mm256_add_epi64(_mm256_add_epi64(sums[0], sums[1]),
                                 _mm256_add_epi64(sums[2], sums[3]));
  alignas(32) uint64_t lanes[4];
  _mm256_store_si256(reinterpret_cast<__m256i*>(lanes), sum);
  return lanes[0] + lanes[1] + lanes[2] + lanes[3];
#else
  uint64_t sum = 0;
  for (size_t i = 0; i < bytes; i += 8) {
    __builtin_prefetch(data + i + ahead);
    uint64_t word;
    std::memcpy(&word, data + i, 8);
    sum += word;
  }
  return sum;
#endif
}

// Eight chains of unsigned by signed byte products, enough to hide the latency of each.
uint64_t multiply(int64_t steps) {
#if defined(__AVX2__)
  __m256i a = _mm256_set1_epi8(1), b = _mm256_set1_epi8(1), ones = _mm256_set1_epi16(1);
  __m256i sums[8] = {};
  for (int64_t i = 0; i < steps; ++i) {
    for (int j = 0; j < 8; j += 4) {
      // Four byte products are added in 16 bits before one widening, as the MXFP4 kernel does.
      __m256i p = _mm256_maddubs_epi16(a, b);
      asm volatile("" : "+x"(a), "+x"(b));
      __m256i q = _mm256_add_epi16(p, _mm256_maddubs_epi16(a, b));
      asm volatile("" : "+x"(a), "+x"(b));
      __m256i r = _mm256_add_epi16(q, _mm256_maddubs_epi16(a, b));
      asm volatile("" : "+x"(a), "+x"(b));
      __m256i s = _mm256_add_epi16(r, _mm256_maddubs_epi16(a, b));
      asm volatile("" : "+x"(a), "+x"(b));
      sums[j] = _mm256_add_epi32(sums[j], _mm256_madd_epi16(s, ones));
    }
  }
  alignas(32) uint32_t lanes[8];
  _mm256_store_si256(reinterpret_cast<__m256i*>(lanes), _mm256_add_epi32(sums[0], sums[4]));
  return lanes[0];
#else
  volatile int32_t sum = 0;
  for (int64_t i = 0; i < steps; ++i) sum = sum + 1;
  return static_cast<uint64_t>(sum);
#endif
}
constexpr double kMacsPerStep = 2 * 4 * 32;  // two groups of four products of 32 bytes

}  // namespace

int main(int argc, char** argv) {
  const int threads = argc > 1 ? std::atoi(argv[1]) : 1;
  std::vector<std::vector<uint8_t>> data(static_cast<size_t>(threads));
  timed(threads, [&](int t) { data[t].assign(kBytesPerThread, static_cast<uint8_t>(t + 1)); });
  std::vector<uint64_t> sink(static_cast<size_t>(threads));
  double read_s = 1e9, multiply_s = 1e9;
  constexpr int64_t kSteps = 200'000'000;
  for (int round = 0; round < kRounds; ++round) {
    for (size_t ahead : kAhead)
      read_s = std::min(read_s, timed(threads, [&](int t) {
                          sink[t] += read_all(data[t].data(), kBytesPerThread, ahead);
                        }));
    multiply_s = std::min(multiply_s, timed(threads, [&](int t) { sink[t] += multiply(kSteps); }));
  }
  uint64_t used = 0;
  for (uint64_t value : sink) used += value;
  std::printf("{\"threads\": %d, \"read_gb_s\": %.2f, \"int8_gmac_s\": %.1f, \"check\": %llu}\n",
              threads, threads * kBytesPerThread / read_s / 1e9,
              threads * kSteps * kMacsPerStep / multiply_s / 1e9,
              static_cast<unsigned long long>(used % 7));
  return 0;
}
