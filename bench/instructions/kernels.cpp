// Runs one hot kernel a given number of times on fixed data, for bench/instructions to count.
//
// usage: kernels SET CASE TIMES
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#include "kernels/dispatch.h"
#include "kernels/kernels.h"

namespace {

using namespace osslo;

constexpr int32_t kColumns = 2880;  // gpt-oss-20b's
constexpr int32_t kRows = 64;
constexpr int32_t kHeadDim = 64;

// Numbers that repeat on every machine: a linear congruential generator (Numerical Recipes).
class Numbers {
 public:
  uint32_t next() { return state_ = state_ * 1664525u + 1013904223u; }
  float around_zero() { return static_cast<float>(next() >> 8) / (1 << 23) - 1.0f; }

 private:
  uint32_t state_ = 1;
};

void products(const Kernels& kernels, WeightKind kind, int32_t tokens, int times) {
  Numbers numbers;
  PanelMatrix m;
  m.kind = kind;
  m.rows = kRows;
  m.columns = kColumns;
  constexpr size_t kReadAhead = 4096;  // kernels ask for memory behind the end, and never use it
  std::vector<uint8_t> weights(m.bytes() + kReadAhead);
  for (uint8_t& byte : weights) byte = static_cast<uint8_t>(numbers.next() >> 24);
  for (int32_t p = 0; p < m.panels(); ++p) {  // modest scales, so that no sum overflows
    uint8_t* scales = &weights[m.panel_bytes() * static_cast<size_t>(p)];
    for (int32_t i = 0; i < m.blocks() * kPanelRows; ++i) {
      const uint16_t one_eighth = 0x3000;
      if (kind == WeightKind::kMxfp4) scales[i] = 124;
      else std::memcpy(scales + 2 * i, &one_eighth, sizeof one_eighth);
    }
  }
  m.data = weights.data();
  const auto count = static_cast<size_t>(tokens) * kColumns;
  std::vector<float> x(count), scales(count / kBlock), out(static_cast<size_t>(tokens) * kRows);
  for (float& value : x) value = numbers.around_zero();
  std::vector<int8_t> int8(count);
  std::vector<int16_t> int16(count);
  std::vector<BlockScale> block_scales(count / kBlock);
  std::vector<int32_t> outlier_counts(static_cast<size_t>(tokens));
  std::vector<Outlier> outliers(count / kBlock);
  for (int32_t t = 0; t < tokens; ++t) {
    const auto at = static_cast<size_t>(t) * kColumns;
    if (kind == WeightKind::kMxfp4)
      outlier_counts[t] = kernels.quantize_int8(&x[at], kColumns, &int8[at],
                                                &block_scales[at / kBlock], &outliers[at / kBlock]);
    else
      kernels.quantize_int16(&x[at], kColumns, &int16[at], &scales[at / kBlock]);
  }
  Activations a;
  a.floats = x.data();
  a.stride = kColumns;
  if (kind == WeightKind::kMxfp4) {
    a.int8 = int8.data();
    a.block_scales = block_scales.data();
    a.outliers = outliers.data();
    a.outlier_counts = outlier_counts.data();
  } else {
    a.int16 = int16.data();
    a.scales = scales.data();
  }
  std::vector<uint8_t> scratch(kernels.matmul_scratch_bytes(kColumns) + 64);
  auto* aligned = reinterpret_cast<uint8_t*>(
      (reinterpret_cast<uintptr_t>(scratch.data()) + 63) / 64 * 64);
  for (int i = 0; i < times; ++i)
    kernels.matmul({&m, nullptr, 0, m.panels(), a, nullptr, tokens, out.data(), kRows, false,
                    aligned});
}

void attention(const Kernels& kernels, int32_t positions, int times) {
  Numbers numbers;
  const int32_t pages = (positions + kPageTokens - 1) / kPageTokens;
  const size_t page_values = 2 * kPageTokens * kHeadDim;
  std::vector<float> values(page_values * static_cast<size_t>(pages));
  for (float& value : values) value = numbers.around_zero();
  std::vector<uint16_t> pool(values.size());
  kernels.to_half(values.data(), static_cast<int32_t>(values.size()), pool.data());
  std::vector<int32_t> table(static_cast<size_t>(pages));
  for (int32_t p = 0; p < pages; ++p) table[static_cast<size_t>(p)] = p;
  std::vector<float> query(kAttentionRows * kHeadDim), out(query.size());
  for (float& value : query) value = numbers.around_zero();
  std::vector<float> scratch(attention_scratch_floats(kHeadDim));
  AttentionTask task{};
  task.rows = kAttentionRows;
  task.head_dim = kHeadDim;
  for (int r = 0; r < kAttentionRows; ++r) {
    task.query[r] = &query[static_cast<size_t>(r) * kHeadDim];
    task.out[r] = &out[static_cast<size_t>(r) * kHeadDim];
    task.last[r] = positions;
  }
  task.pages = table.data();
  task.pool = reinterpret_cast<const uint8_t*>(pool.data());
  task.page_stride = 2 * page_values;
  task.half = true;
  task.scratch = scratch.data();
  for (int i = 0; i < times; ++i) kernels.attention(task);
}

void run(const Kernels& kernels, const std::string& name, int times) {
  if (name == "mxfp4_1_token") return products(kernels, WeightKind::kMxfp4, 1, times);
  if (name == "mxfp4_64_tokens") return products(kernels, WeightKind::kMxfp4, 64, times);
  if (name == "q8_1_token") return products(kernels, WeightKind::kQ8, 1, times);
  if (name == "q8_64_tokens") return products(kernels, WeightKind::kQ8, 64, times);
  if (name == "attention_1024") return attention(kernels, 1024, times);
  throw std::invalid_argument("no case named " + name);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) {
    std::fprintf(stderr, "usage: %s SET CASE TIMES\n", argv[0]);
    return 2;
  }
  run(choose_kernels(argv[1]), argv[2], std::atoi(argv[3]));
  return 0;
}
