// From checkpoint layouts to panels. Rows past the end of the last panel, and columns past the end
// of the last block, are filled with zeros.
#pragma once

#include <cstdint>

#include "kernels/kernels.h"

namespace osslo {

// Source rows [begin, end) of a matrix land in panel rows [begin, end) of `out`, which holds
// m.bytes() and need not be cleared. Sources are contiguous.

// nibbles [rows, blocks, 16], element 2j of a block low and 2j + 1 high in byte j;
// exponents [rows, blocks].
void pack_mxfp4(const PanelMatrix& m, const uint8_t* nibbles, const uint8_t* exponents,
                uint8_t* out);
// values [rows, columns], scales float16 [rows, blocks].
void pack_q8(const PanelMatrix& m, const int8_t* values, const uint16_t* scales, uint8_t* out);
// Rows of 2-byte (BF16) or 4-byte (F32) elements.
void pack_plain(const PanelMatrix& m, const uint8_t* rows, uint8_t* out);

// Q8_0: per block of 32, scale = float16(amax / 127) and values rounded to nearest even of x / scale.
void quantize_q8(const float* x, int64_t rows, int32_t columns, int8_t* values, uint16_t* scales);

}  // namespace osslo
