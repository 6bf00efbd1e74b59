// Products of few rows with a quantised matrix: every code is read once, looked up and multiplied, nothing is written.
#include "products.h"
#include "threads.h"

namespace cpmv {
namespace {

// Rows of inputs that meet a code while it is in a register.
#ifdef CPMV_BF16
constexpr int kMost = 8;
constexpr bool kProductsAreBf16 = true;
#else
constexpr int kMost = 4;
constexpr bool kProductsAreBf16 = false;
#endif

int round_up(int64_t rows) { return rows <= 2 ? int(rows) : rows <= 4 ? 4 : 8; }

bool needs_sums(const Weight& w) { return w.mode == kZero || w.mode == kNestedMinimum; }

void sum_groups(const float* x, const Weight& w, int width, float* sums) {
  for (int64_t k = 0; k < w.columns; k += w.group, sums += width) {
    vf wide = splat(0.0f);
    int64_t i = 0;
    for (; i + kRows <= w.group; i += kRows) wide += load<vf>(x + k + i);
    float sum = sum_of(wide);
    for (; i < w.group; ++i) sum += x[k + i];
    *sums = sum;
  }
}

// One row into its place, as bfloat16 pairs where products are such: `rest` is where the remainder of rounding goes.
void place_row(const float* x, int64_t columns, int width, Input* values, Input* rest) {
#ifdef CPMV_BF16
  for (int64_t p = 0; p < columns / 2; ++p) {
    const uint32_t even = to_bf16(x[2 * p]), odd = to_bf16(x[2 * p + 1]);
    values[p * width] = even | odd << 16;
    if (rest) {
      const uint32_t even_rest = to_bf16(x[2 * p] - from_bf16(uint16_t(even)));
      const uint32_t odd_rest = to_bf16(x[2 * p + 1] - from_bf16(uint16_t(odd)));
      rest[p * width] = even_rest | odd_rest << 16;
    }
  }
#else
  (void)rest;
  for (int64_t k = 0; k < columns; ++k) values[k / 2 * width * 2 + k % 2] = x[k];
#endif
}

Block make_block(const Weight& w, const float* x, int64_t count, bool split) {
  Block out{count, round_up(split ? 2 * count : count), {}, {}};
  out.values.assign(size_t(w.columns / 2 * kInputsPerPair * out.width), Input{});
  if (needs_sums(w)) out.sums.assign(size_t(w.columns / w.group * out.width), 0.0f);
  for (int64_t m = 0; m < count; ++m) {
    const float* row = x + m * w.columns;
    Input* to = out.values.data() + m * kInputsPerPair;
    place_row(row, w.columns, out.width, to, split ? to + count : nullptr);
    if (needs_sums(w)) sum_groups(row, w, out.width, out.sums.data() + m);
  }
  return out;
}

template <int BITS, int MODE, bool LOOKUP, int M>
void tile_product(const Weight& w, int64_t tile, const Tables& tables, const Block& in, float* out) {
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
      __builtin_prefetch((const char*)codes + 4096);
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
      total[m] += apply<MODE>(sum, scale, MODE == kZero || MODE == kNestedMinimum ? sums[m] : 0.0f);
    }
  }
  std::memcpy(out, total, sizeof(total));
}

template <int BITS, int MODE, bool LOOKUP>
void tile_products(int rows, const Weight& w, int64_t tile, const Tables& t, const Block& in, float* out) {
  if (rows == 1) return tile_product<BITS, MODE, LOOKUP, 1>(w, tile, t, in, out);
  if (rows == 2) return tile_product<BITS, MODE, LOOKUP, 2>(w, tile, t, in, out);
  if (rows == 4) return tile_product<BITS, MODE, LOOKUP, 4>(w, tile, t, in, out);
#ifdef CPMV_BF16
  tile_product<BITS, MODE, LOOKUP, 8>(w, tile, t, in, out);
#endif
}

void tile_products(int rows, const Weight& w, int64_t tile, const Tables& t, const Block& in, float* out) {
  if (w.bits == 8 && w.mode == kNone) return tile_products<8, kNone, false>(rows, w, tile, t, in, out);
  if (w.bits == 8) return tile_products<8, kFlat, false>(rows, w, tile, t, in, out);
  if (w.bits == 6) return tile_products<6, kNested, false>(rows, w, tile, t, in, out);
  if (w.mode == kZero) return tile_products<4, kZero, false>(rows, w, tile, t, in, out);
  if (w.mode == kNestedMinimum) return tile_products<4, kNestedMinimum, false>(rows, w, tile, t, in, out);
  if (w.lookup) return tile_products<4, kFlat, true>(rows, w, tile, t, in, out);
  tile_products<4, kFlat, false>(rows, w, tile, t, in, out);
}

}  // namespace

void compute_dense(const Matrix& matrix, const Prepared& in, int64_t begin, int64_t end, float* out, int64_t stride);

Prepared prepare(const Matrix& matrix, const float* x, int64_t count, bool exactly) {
  Prepared out;
  out.count = count;
  if (!matrix.packed) {
    const int64_t padded = count <= 2 ? count : (count + 3) / 4 * 4;
    out.floats.assign(size_t(padded * matrix.columns), 0.0f);
    std::memcpy(out.floats.data(), x, size_t(count * matrix.columns) * sizeof(float));
    return out;
  }
  out.is_split = exactly && kProductsAreBf16;
  const int64_t most = out.is_split ? kMost / 2 : kMost;
  for (int64_t m = 0; m < count; m += most) {
    const float* rows = x + m * matrix.columns;
    out.blocks.push_back(make_block(*matrix.packed, rows, std::min(most, count - m), out.is_split));
  }
  return out;
}

// A few tiles stay in the cache while eight rows of x after eight meet them.
void compute(const Matrix& matrix, const Prepared& in, int64_t begin, int64_t end, float* out, int64_t stride) {
  if (!matrix.packed) return compute_dense(matrix, in, begin, end, out, stride);
  const Weight& w = *matrix.packed;
  const Tables tables = tables_of(w);
  alignas(64) float sums[kMost * kRows];
  for (const Block& block : in.blocks) {
    for (int64_t tile = begin; tile < end; ++tile) {
      tile_products(block.width, w, tile, tables, block, sums);
      const int64_t first = tile * kRows, last = std::min(w.rows, first + kRows);
      for (int64_t m = 0; m < block.count; ++m) {
        const float* from = sums + m * kRows;
        const float* rest = in.is_split ? from + block.count * kRows : nullptr;
        for (int64_t n = first; n < last; ++n) {
          float value = from[n - first] + (rest ? rest[n - first] : 0.0f);
          if (w.row_scales) value *= w.row_scales[n];
          if (matrix.bias) value += matrix.bias[n];
          out[m * stride + n] = value;
        }
      }
    }
    out += block.count * stride;
  }
}

void widen(const void* x, bool is_bf16, int64_t count, float* out) {
  if (!is_bf16) {
    std::memcpy(out, x, size_t(count) * sizeof(float));
    return;
  }
  for (int64_t i = 0; i < count; ++i) out[i] = from_bf16(((const uint16_t*)x)[i]);
}

}  // namespace cpmv

using namespace cpmv;

// out [count, rows of the matrix] = x [count, columns] weightᵀ + bias; x and out bfloat16 or float32.
extern "C" void cpmv_multiply(
    const Matrix* matrix, const void* x, int is_bf16, int64_t count, void* out, int threads) {
  std::vector<float> floats(size_t(count * matrix->columns)), result;
  widen(x, is_bf16, count * matrix->columns, floats.data());
  const Prepared in = prepare(*matrix, floats.data(), count, !is_bf16);
  if (is_bf16) result.resize(size_t(count * matrix->rows));
  float* to = is_bf16 ? result.data() : (float*)out;
  parallel(threads, tiles_of(*matrix), 4, [&](int64_t begin, int64_t end) {
    compute(*matrix, in, begin, end, to, matrix->rows);
    if (!is_bf16) return;
    for (int64_t m = 0; m < count; ++m) {
      const int64_t last = std::min(matrix->rows, end * kRows);
      for (int64_t n = begin * kRows; n < last; ++n) {
        ((uint16_t*)out)[m * matrix->rows + n] = to_bf16(to[m * matrix->rows + n]);
      }
    }
  });
}

// Up to how many rows of x cpmv_multiply is faster than what dequantises first.
extern "C" int cpmv_most_rows(const Weight* weight, int is_bf16) {
  if (!kProductsAreBf16) return 16;
  return (weight->bits == 4 ? 96 : 16) / (is_bf16 ? 1 : 2);
}
