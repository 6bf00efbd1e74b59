// Products of few rows with a matrix of 16-bit numbers where it lies, row after row: a head, or a whole decoder.
#include "products.h"

#include <algorithm>

namespace cpmv {
namespace {

inline vf bf16_to_floats(const uint16_t* from) { return bits_as_floats(widen_words(from) << 16); }

// Four rows of the weight at a time, so that as many streams come from memory.
constexpr int kTogether = 4;
constexpr int kMost = 4;  // rows of x

template <bool BF16, int M>
void rows_product(const uint16_t* weight, int64_t columns, const float* x, float* out) {
  vf sums[M][kTogether] = {};
  for (int64_t k = 0; k < columns; k += kRows) {
    for (int r = 0; r < kTogether; ++r) {
      const uint16_t* from = weight + r * columns + k;
      __builtin_prefetch(from + 1024);
      const vf w = BF16 ? bf16_to_floats(from) : halves_to_floats(from);
      for (int m = 0; m < M; ++m) sums[m][r] += w * load<vf>(x + m * columns + k);
    }
  }
  for (int m = 0; m < M; ++m) {
    for (int r = 0; r < kTogether; ++r) out[m * kTogether + r] = sum_of(sums[m][r]);
  }
}

template <bool BF16>
void rows_product(int rows, const uint16_t* weight, int64_t columns, const float* x, float* out) {
  if (rows == 1) return rows_product<BF16, 1>(weight, columns, x, out);
  if (rows == 2) return rows_product<BF16, 2>(weight, columns, x, out);
  rows_product<BF16, 4>(weight, columns, x, out);
}

}  // namespace

// `compute` of products.h. Four rows of x after four meet rows of the weight that stay in the cache.
void compute_dense(const Matrix& matrix, const Prepared& in, int64_t begin, int64_t end, float* out, int64_t stride) {
  const int64_t columns = matrix.columns, last = std::min(matrix.rows, end * kRows);
  float sums[kMost * kTogether];
  for (int64_t first = 0; first < in.count; first += kMost) {
    const int64_t here = std::min<int64_t>(kMost, in.count - first);
    const float* inputs = in.floats.data() + first * columns;
    for (int64_t n = begin * kRows; n < last; n += kTogether) {
      const uint16_t* from = matrix.dense + n * columns;
      if (matrix.dense_is_bf16) {
        rows_product<true>(int(here), from, columns, inputs, sums);
      } else {
        rows_product<false>(int(here), from, columns, inputs, sums);
      }
      for (int64_t m = 0; m < here; ++m) {
        for (int r = 0; r < kTogether; ++r) {
          out[(first + m) * stride + n + r] = sums[m * kTogether + r] + (matrix.bias ? matrix.bias[n + r] : 0.0f);
        }
      }
    }
  }
}

}  // namespace cpmv
