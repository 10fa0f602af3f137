#include "model/packing.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "simd/half.h"

namespace osslo {
namespace {

// E2M1 has a zero of its own (nibble 0), and any exponent serves a block of zeros.
constexpr uint8_t kZeroExponent = 127;

uint8_t nibble_at(const uint8_t* block, int column) {
  const uint8_t byte = block[column / 2];
  return column % 2 ? byte >> 4 : byte & 15;
}

}  // namespace

void pack_mxfp4(const PanelMatrix& m, const uint8_t* nibbles, const uint8_t* exponents,
                uint8_t* out) {
  const auto blocks = static_cast<size_t>(m.blocks());
  std::memset(out, 0, m.bytes());
  for (int32_t panel = 0; panel < m.panels(); ++panel) {
    uint8_t* scales = out + m.panel_bytes() * static_cast<size_t>(panel);
    uint8_t* weights = scales + m.scales_bytes();
    for (int32_t r = 0; r < kPanelRows; ++r) {
      const int32_t row = panel * kPanelRows + r;
      for (size_t b = 0; b < blocks; ++b) {
        if (row >= m.rows) {
          scales[b * kPanelRows + static_cast<size_t>(r)] = kZeroExponent;
          continue;
        }
        const size_t source = static_cast<size_t>(row) * blocks + b;
        scales[b * kPanelRows + static_cast<size_t>(r)] = exponents[source];
        const uint8_t* from = nibbles + source * 16;
        for (int i = 0; i < 4; ++i)
          for (int j = 0; j < 4; ++j) {
            const int low = nibble_at(from, 8 * i + j);
            const int high = nibble_at(from, 8 * i + 4 + j);
            weights[b * 128 + static_cast<size_t>(32 * i + 4 * r + j)] =
                static_cast<uint8_t>(low | high << 4);
          }
      }
    }
  }
}

void pack_q8(const PanelMatrix& m, const int8_t* values, const uint16_t* scales, uint8_t* out) {
  const auto blocks = static_cast<size_t>(m.blocks());
  std::memset(out, 0, m.bytes());
  for (int32_t row = 0; row < m.rows; ++row) {
    const auto r = static_cast<size_t>(row % kPanelRows);
    uint8_t* panel = out + m.panel_bytes() * static_cast<size_t>(row / kPanelRows);
    auto* to_scales = reinterpret_cast<uint16_t*>(panel);
    auto* weights = reinterpret_cast<int8_t*>(panel + m.scales_bytes());
    const int8_t* from = values + static_cast<ptrdiff_t>(row) * m.columns;
    for (size_t b = 0; b < blocks; ++b)
      to_scales[b * kPanelRows + r] = scales[static_cast<size_t>(row) * blocks + b];
    for (int32_t k = 0; k < m.columns; k += 4)
      for (int32_t j = 0; j < std::min(4, m.columns - k); ++j)
        weights[static_cast<size_t>(k / 4) * 32 + r * 4 + static_cast<size_t>(j)] = from[k + j];
  }
}

void pack_plain(const PanelMatrix& m, const uint8_t* rows, uint8_t* out) {
  const size_t size = m.kind == WeightKind::kBf16 ? 2 : 4;
  const auto columns = static_cast<size_t>(m.columns);
  std::memset(out, 0, m.bytes());
  for (int32_t row = 0; row < m.rows; ++row) {
    const auto r = static_cast<size_t>(row % kPanelRows);
    uint8_t* panel = out + m.panel_bytes() * static_cast<size_t>(row / kPanelRows);
    const uint8_t* from = rows + static_cast<size_t>(row) * columns * size;
    for (size_t k = 0; k < columns; ++k)
      std::memcpy(panel + (k * kPanelRows + r) * size, from + k * size, size);
  }
}

void quantize_q8(const float* x, int64_t rows, int32_t columns, int8_t* values, uint16_t* scales) {
  for (int64_t row = 0; row < rows; ++row) {
    const float* from = x + row * columns;
    int8_t* to = values + row * columns;
    for (int32_t begin = 0; begin < columns; begin += kBlock) {
      const int32_t end = std::min(columns, begin + kBlock);
      float amax = 0;
      for (int32_t i = begin; i < end; ++i) amax = std::max(amax, std::fabs(from[i]));
      const uint16_t stored = float_to_half(amax / 127.0f);
      const float scale = half_to_float(stored);
      for (int32_t i = begin; i < end; ++i) {
        const float q = scale > 0 ? std::nearbyintf(from[i] / scale) : 0.0f;
        to[i] = static_cast<int8_t>(std::clamp(q, -127.0f, 127.0f));
      }
      *scales++ = stored;
    }
  }
}

}  // namespace osslo
