// Products of few rows with a matrix of 16-bit numbers where it lies, row after row: a head, or a whole decoder.
#include <vector>

#include "lanes.h"
#include "threads.h"

namespace cpmv {
namespace {

enum Type : int32_t { kBf16 = 0, kHalf = 1, kFloat = 2 };

inline float as_float(const void* from, int type, int64_t at) {
  if (type == kBf16) return from_bf16(((const uint16_t*)from)[at]);
  if (type == kFloat) return ((const float*)from)[at];
  alignas(32) uint16_t halves[kRows] = {((const uint16_t*)from)[at]};
  return widen(halves)[0];
}

inline vf bf16_to_floats(const uint16_t* from) {
  return (vf)(__builtin_convertvector(load<vh>(from), vu) << 16);
}

inline float sum_of(vf v) {
  float out = 0;
  for (int i = 0; i < kRows; ++i) out += v[i];
  return out;
}

// Four rows of the weight at a time, so that as many streams come from memory.
constexpr int kTogether = 4;

template <int TYPE, int M>
void rows_product(const uint16_t* weight, int64_t columns, const float* x, float* out) {
  vf sums[M][kTogether] = {};
  for (int64_t k = 0; k < columns; k += kRows) {
    for (int r = 0; r < kTogether; ++r) {
      const uint16_t* from = weight + r * columns + k;
      __builtin_prefetch(from + 1024);
      const vf w = TYPE == kBf16 ? bf16_to_floats(from) : widen(from);
      for (int m = 0; m < M; ++m) sums[m][r] += w * load<vf>(x + m * columns + k);
    }
  }
  for (int m = 0; m < M; ++m) {
    for (int r = 0; r < kTogether; ++r) out[m * kTogether + r] = sum_of(sums[m][r]);
  }
}

template <int TYPE>
void rows_product(int rows, const uint16_t* weight, int64_t columns, const float* x, float* out) {
  if (rows == 1) return rows_product<TYPE, 1>(weight, columns, x, out);
  if (rows == 2) return rows_product<TYPE, 2>(weight, columns, x, out);
  rows_product<TYPE, 4>(weight, columns, x, out);
}

}  // namespace
}  // namespace cpmv

using namespace cpmv;

// out [count, rows] = x [count, columns] weightᵀ + bias: weight bfloat16 or float16 [rows, columns], x and out of
// x_type, bias float32 or null. rows is a multiple of 4, columns of 16, count at most 4.
extern "C" void cpmv_multiply_dense(const uint16_t* weight, int weight_type, int64_t rows, int64_t columns,
                                    const void* x, int x_type, int64_t count, const float* bias, void* out,
                                    int threads) {
  const int together = count <= 2 ? int(count) : 4;
  std::vector<float> floats(size_t(together * columns), 0.0f);
  for (int64_t i = 0; i < count * columns; ++i) floats[size_t(i)] = as_float(x, x_type, i);
  parallel(threads, rows / kTogether, 16, [&](int64_t begin, int64_t end) {
    float sums[4 * kTogether];
    for (int64_t part = begin; part < end; ++part) {
      const uint16_t* from = weight + part * kTogether * columns;
      if (weight_type == kBf16) rows_product<kBf16>(together, from, columns, floats.data(), sums);
      if (weight_type == kHalf) rows_product<kHalf>(together, from, columns, floats.data(), sums);
      for (int64_t m = 0; m < count; ++m) {
        for (int r = 0; r < kTogether; ++r) {
          const int64_t n = part * kTogether + r;
          const float value = sums[m * kTogether + r] + (bias ? bias[n] : 0.0f);
          if (x_type == kBf16) {
            ((uint16_t*)out)[m * rows + n] = to_bf16(value);
          } else {
            ((float*)out)[m * rows + n] = value;
          }
        }
      }
    }
  });
}
