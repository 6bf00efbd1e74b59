// Products of few rows with a matrix, quantised or dense, a range of its tiles at a time, so that callers may join
// several matrices in one loop over threads.
#pragma once

#include <vector>

#include "lanes.h"

namespace cpmv {

struct Matrix {
  const Weight* packed;    // or null, and then
  const uint16_t* dense;   // bfloat16 or float16 [rows, columns]; rows a multiple of 4, columns of 16
  int64_t dense_is_bf16;
  int64_t rows, columns;
  const float* bias;       // [rows] or null
};

inline int64_t tiles_of(const Matrix& m) { return (m.rows + kRows - 1) / kRows; }

// Up to 8 rows of inputs side by side, [pairs, width], and each row's sums over groups, [groups, width]. There are
// kernels for 1, 2, 4 and where registers allow it 8 rows; those beyond the inputs' are zero.
struct Block {
  int64_t count;
  int width;
  std::vector<Input> values;
  std::vector<float> sums;
};

// Inputs as matrices of one kind take them.
struct Prepared {
  bool is_split = false;  // float32 rows are two bfloat16 rows each: rounded, and the remainder
  int64_t count = 0;
  std::vector<Block> blocks;  // for packed matrices
  std::vector<float> floats;  // for dense ones, padded to a multiple of four rows
};

// x [count, columns]. exactly: keep float32 inputs as such; otherwise they are bfloat16 numbers.
Prepared prepare(const Matrix& matrix, const float* x, int64_t count, bool exactly);

// Writes out[m * stride + n] for the rows n of tiles [begin, end), bias included.
void compute(const Matrix& matrix, const Prepared& in, int64_t begin, int64_t end, float* out, int64_t stride);

void widen(const void* x, bool is_bf16, int64_t count, float* out);

// Whether two matrices can share prepared inputs.
inline bool alike(const Matrix& a, const Matrix& b) {
  if (!a.packed || !b.packed) return !a.packed && !b.packed;
  return a.packed->group == b.packed->group && a.packed->mode == b.packed->mode;
}

}  // namespace cpmv
