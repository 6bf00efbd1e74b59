// A quantised matrix as the kernels read it, and how its codes become numbers.
//
// Rows lie in tiles of 16, one row a lane. A 32-bit word holds one row's next codes of 4 bits: of the columns 2j and
// 2j + 1 of eight, nibble j of its low and of its high half. So a shift and a lookup give pairs of neighbouring
// columns, which is what a bfloat16 dot product takes, and no sum ever crosses lanes. Codes of 8 bits are two of 4;
// codes of 6 are one of 4 and one of 2 in a plane of its own.
#pragma once

#include "vectors.h"

namespace cpmv {

// weight = scale * (table[code] + zero)                      kFlat, kZero: scale is float16
// weight = outer * scale * code - outer_minimum * minimum    kNested, kNestedMinimum: outer ones are float16
// weight = code                                              kNone
// and each times its row's row_scales, where there are any.
enum Mode : int32_t { kNone = 0, kFlat = 1, kZero = 2, kNested = 3, kNestedMinimum = 4 };

struct Weight {
  int32_t bits;     // 4, 6 or 8
  int32_t mode;
  int32_t lookup;   // 4 bits: whether the table is no straight line
  int32_t group;    // columns that share a scale
  int32_t outer;    // groups that share an outer scale
  int32_t padding;
  int64_t rows, columns;
  const uint32_t* codes;          // [tiles, columns * min(bits, 4 or 8) / 32, 16]
  const uint32_t* high;           // [tiles, columns / 16, 16], 6 bits only
  const uint16_t* scales;         // [tiles, groups, 16]
  const int8_t* small;            // [tiles, groups, 16]: zeros, or scales of nested modes
  const uint8_t* minima;          // [tiles, groups, 16]
  const uint16_t* outer_scales;   // [tiles, groups / outer, 16]
  const uint16_t* outer_minima;   // [tiles, groups / outer, 16]
  const float* row_scales;        // [tiles * 16]
  float table[16];
};

CPMV_INLINE int64_t tiles_of(const Weight& w) { return (w.rows + kRows - 1) / kRows; }

CPMV_INLINE float from_bf16(uint16_t value) {
  uint32_t bits = uint32_t(value) << 16;
  float out;
  std::memcpy(&out, &bits, 4);
  return out;
}

CPMV_INLINE uint16_t to_bf16(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return uint16_t(bits >> 16 | 0x40);  // NaN stays NaN
  return uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

// What a group's sum of table values becomes: scale * sum + extra * (sum of inputs).
struct Scale {
  vf scale, extra;
};

template <int MODE>
CPMV_INLINE Scale scale_of(const Weight& w, int64_t tile, int64_t group, int64_t groups) {
  const int64_t at = (tile * groups + group) * kRows;
  if constexpr (MODE == kFlat) return {halves_to_floats(w.scales + at), vf{}};
  if constexpr (MODE == kZero) {
    const vf scale = halves_to_floats(w.scales + at);
    return {scale, scale * numbers(w.small + at)};
  }
  if constexpr (MODE == kNested || MODE == kNestedMinimum) {
    const int64_t outer = (tile * (groups / w.outer) + group / w.outer) * kRows;
    const vf scale = halves_to_floats(w.outer_scales + outer) * numbers(w.small + at);
    if constexpr (MODE == kNested) return {scale, vf{}};
    return {scale, -(halves_to_floats(w.outer_minima + outer) * numbers(w.minima + at))};
  }
  return {splat(1.0f), vf{}};
}

template <int MODE>
CPMV_INLINE vf apply(vf sum, const Scale& s, float inputs) {
  if constexpr (MODE == kNone) return sum;
  if constexpr (MODE == kZero || MODE == kNestedMinimum) return s.scale * sum + s.extra * inputs;
  return s.scale * sum;
}

}  // namespace cpmv
