// Products of few rows with a quantised matrix: every code is read once, looked up and multiplied, nothing is written.
#include <vector>

#include "lanes.h"
#include "threads.h"

namespace cpmv {
namespace {

// Rows of inputs that meet a code while it is in a register.
#ifdef CPMV_BF16
constexpr int kMost = 8;
#else
constexpr int kMost = 4;
#endif

// `count` rows of inputs side by side, [pairs, rows], and each row's sums over groups, [groups, rows]. There are
// kernels for 1, 2, 4 and where registers allow it 8 rows; those beyond the inputs' are zero.
struct Inputs {
  int64_t count;
  int rows;
  std::vector<Input> values;
  std::vector<float> sums;
};

int round_up(int64_t rows) { return rows <= 2 ? int(rows) : rows <= 4 ? 4 : 8; }

// x: float32 or bfloat16 [count, columns]. With bfloat16 products a float32 row becomes two, its rounding and the
// remainder, `count` rows apart.
Inputs gather(const Weight& w, const void* x, bool is_bf16, int64_t count) {
  const int64_t columns = w.columns, groups = columns / w.group;
#ifdef CPMV_BF16
  const int rows = round_up(is_bf16 ? count : 2 * count);
#else
  const int rows = round_up(count);
#endif
  Inputs in{count, rows, {}, {}};
  in.values.assign(size_t(columns / 2 * kInputsPerPair * rows), Input{});
  in.sums.assign(size_t(groups * rows), 0.0f);
  for (int64_t m = 0; m < count; ++m) {
    const uint16_t* halves = (const uint16_t*)x + m * columns;
    const float* floats = (const float*)x + m * columns;
    for (int64_t g = 0; g < groups; ++g) {
      float sum = 0;
      for (int64_t k = g * w.group; k < (g + 1) * w.group; ++k) sum += is_bf16 ? from_bf16(halves[k]) : floats[k];
      in.sums[size_t(g * rows + m)] = sum;
    }
#ifdef CPMV_BF16
    for (int64_t p = 0; p < columns / 2; ++p) {
      uint32_t pair[2] = {0, 0};
      for (int i = 0; i < 2; ++i) {
        const int64_t k = 2 * p + i;
        const uint16_t near = is_bf16 ? halves[k] : to_bf16(floats[k]);
        pair[0] |= uint32_t(near) << 16 * i;
        if (!is_bf16) pair[1] |= uint32_t(to_bf16(floats[k] - from_bf16(near))) << 16 * i;
      }
      in.values[size_t(p * rows + m)] = pair[0];
      if (!is_bf16) in.values[size_t(p * rows + m + count)] = pair[1];
    }
#else
    for (int64_t k = 0; k < columns; ++k) {
      in.values[size_t((k / 2 * rows + m) * 2 + k % 2)] = is_bf16 ? from_bf16(halves[k]) : floats[k];
    }
#endif
  }
  return in;
}

template <int BITS, int MODE, bool LOOKUP, int M>
void tile_product(const Weight& w, int64_t tile, const Tables& tables, const Inputs& in, float* out) {
  typedef Columns<BITS, LOOKUP, AsPairs> Steps;
  constexpr int kChains = M == 1 ? 4 : M == 2 ? 2 : 1;  // sums that do not wait for each other
  const int64_t groups = w.columns / w.group, steps = w.group / Steps::kStep;
  const uint32_t* codes = w.codes + tile * code_words(BITS, w.columns) * kRows;
  const uint32_t* high = w.high + tile * high_words(BITS, w.columns) * kRows;
  const Input* x = in.values.data();
  const float* sums = in.sums.data();
  vf total[M] = {};
  for (int64_t g = 0; g < groups; ++g, sums += M) {
    vf part[M][kChains] = {};
    for (int64_t s = 0; s < steps; ++s) {
      __builtin_prefetch((const char*)codes + 2048);
      Steps::visit(codes, high, tables, [&](const Pair& pair, int number, bool second) __attribute__((always_inline)) {
        const int chain = (2 * number + second) / (BITS == 4 ? 2 : 1) % kChains;
        for (int m = 0; m < M; ++m) {
          part[m][chain] = multiply_add(part[m][chain], pair, x + (number * M + m) * kInputsPerPair);
        }
      });
      codes += code_words(BITS, Steps::kStep) * kRows;
      high += high_words(BITS, Steps::kStep) * kRows;
      x += Steps::kStep / 2 * M * kInputsPerPair;
    }
    const Scale scale = scale_of<MODE>(w, tile, g, groups);
    for (int m = 0; m < M; ++m) {
      vf sum = part[m][0];
      for (int c = 1; c < kChains; ++c) sum += part[m][c];
      total[m] += apply<MODE>(sum, scale, sums[m]);
    }
  }
  std::memcpy(out, total, sizeof(total));
}

template <int BITS, int MODE, bool LOOKUP>
void tile_products(int rows, const Weight& w, int64_t tile, const Tables& t, const Inputs& in, float* out) {
  if (rows == 1) return tile_product<BITS, MODE, LOOKUP, 1>(w, tile, t, in, out);
  if (rows == 2) return tile_product<BITS, MODE, LOOKUP, 2>(w, tile, t, in, out);
  if (rows == 4) return tile_product<BITS, MODE, LOOKUP, 4>(w, tile, t, in, out);
#ifdef CPMV_BF16
  tile_product<BITS, MODE, LOOKUP, 8>(w, tile, t, in, out);
#endif
}

void tile_products(int rows, const Weight& w, int64_t tile, const Tables& t, const Inputs& in, float* out) {
  if (w.bits == 8 && w.mode == kNone) return tile_products<8, kNone, false>(rows, w, tile, t, in, out);
  if (w.bits == 8) return tile_products<8, kFlat, false>(rows, w, tile, t, in, out);
  if (w.bits == 6) return tile_products<6, kNested, false>(rows, w, tile, t, in, out);
  if (w.mode == kZero) return tile_products<4, kZero, false>(rows, w, tile, t, in, out);
  if (w.mode == kNestedMinimum) return tile_products<4, kNestedMinimum, false>(rows, w, tile, t, in, out);
  if (w.lookup) return tile_products<4, kFlat, true>(rows, w, tile, t, in, out);
  tile_products<4, kFlat, false>(rows, w, tile, t, in, out);
}

}  // namespace
}  // namespace cpmv

using namespace cpmv;

// out [count, rows of w] = x [count, columns] wᵀ + bias, in x's dtype (bfloat16 or float32). bias is float32 [rows of
// w] or null. A few tiles stay in the cache while eight rows of x after eight meet them.
extern "C" void cpmv_multiply(
    const Weight* weight, const void* x, int is_bf16, int64_t count, const float* bias, void* out, int threads) {
  const Weight& w = *weight;
#ifdef CPMV_BF16
  const bool split = !is_bf16;
#else
  const bool split = false;
#endif
  const int64_t most = split ? kMost / 2 : kMost, size = is_bf16 ? 2 : 4;
  std::vector<Inputs> blocks;
  for (int64_t m = 0; m < count; m += most) {
    blocks.push_back(gather(w, (const char*)x + m * w.columns * size, is_bf16, std::min(most, count - m)));
  }
  const Tables tables = tables_of(w);
  parallel(threads, tiles_of(w), 4, [&](int64_t begin, int64_t end) {
    alignas(64) float sums[kMost * kRows];
    for (size_t b = 0; b < blocks.size(); ++b) {
      const Inputs& in = blocks[b];
      for (int64_t tile = begin; tile < end; ++tile) {
        tile_products(in.rows, w, tile, tables, in, sums);
        const int64_t first = tile * kRows, last = std::min(w.rows, first + kRows);
        for (int64_t m = 0; m < in.count; ++m) {
          const int64_t row = (int64_t(b) * most + m) * w.rows;
          for (int64_t n = first; n < last; ++n) {
            float value = sums[m * kRows + n - first] + (split ? sums[(m + in.count) * kRows + n - first] : 0.0f);
            if (w.row_scales) value *= w.row_scales[n];
            if (bias) value += bias[n];
            if (is_bf16) {
              ((uint16_t*)out)[row + n] = to_bf16(value);
            } else {
              ((float*)out)[row + n] = value;
            }
          }
        }
      }
    }
  });
}

// Up to how many rows of x cpmv_multiply is faster than what dequantises first.
extern "C" int cpmv_most_rows(const Weight* weight, int is_bf16) {
#ifdef CPMV_BF16
  return (weight->bits == 4 ? 96 : 16) / (is_bf16 ? 1 : 2);
#else
  (void)weight, (void)is_bf16;
  return 16;
#endif
}
