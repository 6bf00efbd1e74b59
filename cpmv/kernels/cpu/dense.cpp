// Products of few rows with a matrix of 16-bit numbers where it lies, row after row: a head, or a whole decoder.
#include <vector>

#include "lanes.h"
#include "threads.h"

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
}  // namespace cpmv

using namespace cpmv;

// out [count, rows] = x [count, columns] weightᵀ + bias: weight bfloat16 or float16 [rows, columns], x and out bfloat16
// or float32, bias float32 or null. rows is a multiple of 4, columns of 16. Four rows of x after four meet rows of the
// weight that stay in the cache.
extern "C" void cpmv_multiply_dense(const uint16_t* weight, int weight_is_bf16, int64_t rows, int64_t columns,
                                    const void* x, int is_bf16, int64_t count, const float* bias, void* out,
                                    int threads) {
  const int64_t padded = count <= 2 ? count : (count + kMost - 1) / kMost * kMost;
  std::vector<float> floats(size_t(padded * columns), 0.0f);
  for (int64_t i = 0; i < count * columns; ++i) {
    floats[size_t(i)] = is_bf16 ? from_bf16(((const uint16_t*)x)[i]) : ((const float*)x)[i];
  }
  parallel(threads, rows / kTogether, 8, [&](int64_t begin, int64_t end) {
    float sums[kMost * kTogether];
    for (int64_t first = 0; first < count; first += kMost) {
      const int64_t here = std::min<int64_t>(kMost, count - first);
      for (int64_t part = begin; part < end; ++part) {
        const uint16_t* from = weight + part * kTogether * columns;
        const float* inputs = floats.data() + first * columns;
        if (weight_is_bf16) {
          rows_product<true>(int(here), from, columns, inputs, sums);
        } else {
          rows_product<false>(int(here), from, columns, inputs, sums);
        }
        for (int64_t m = 0; m < here; ++m) {
          for (int r = 0; r < kTogether; ++r) {
            const int64_t n = part * kTogether + r, at = (first + m) * rows + n;
            const float value = sums[m * kTogether + r] + (bias ? bias[n] : 0.0f);
            if (is_bf16) {
              ((uint16_t*)out)[at] = to_bf16(value);
            } else {
              ((float*)out)[at] = value;
            }
          }
        }
      }
    }
  });
}
