// Products of many rows: a strip of the weight is dequantised into the cache once and multiplied with all of them.
// And whole matrices dequantised, for everyone else.
#include <vector>

#include "lanes.h"
#include "threads.h"

namespace cpmv {
namespace {

// Calls take(number of the pair, weights of 16 rows as float32) for columns [begin, end) of a tile.
template <int BITS, int MODE, bool LOOKUP, class Take>
void decode(const Weight& w, int64_t tile, const Tables& tables, int64_t begin, int64_t end, Take take) {
  typedef Columns<BITS, LOOKUP, AsFloats> Steps;
  const int64_t groups = w.columns / w.group;
  const uint32_t* codes = w.codes + (tile * code_words(BITS, w.columns) + code_words(BITS, begin)) * kRows;
  const uint32_t* high = w.high + (tile * high_words(BITS, w.columns) + high_words(BITS, begin)) * kRows;
  Scale scale{};
  for (int64_t k = begin; k < end; k += Steps::kStep) {
    if (k == begin || k % w.group == 0) scale = scale_of<MODE>(w, tile, k / w.group, groups);
    Floats pairs[Steps::kStep / 2];
    Steps::visit(codes, high, tables, [&](const Floats& pair, int number, bool second) __attribute__((always_inline)) {
      pairs[number] = second ? Floats{pairs[number].even + pair.even, pairs[number].odd + pair.odd} : pair;
    });
    for (int i = 0; i < Steps::kStep / 2; ++i) {
      take(k / 2 + i, Floats{apply<MODE>(pairs[i].even, scale, 1.0f), apply<MODE>(pairs[i].odd, scale, 1.0f)});
    }
    codes += code_words(BITS, Steps::kStep) * kRows;
    high += high_words(BITS, Steps::kStep) * kRows;
  }
}

template <class Take>
void decode(const Weight& w, int64_t tile, const Tables& t, int64_t begin, int64_t end, Take take) {
  if (w.bits == 8 && w.mode == kNone) return decode<8, kNone, false>(w, tile, t, begin, end, take);
  if (w.bits == 8) return decode<8, kFlat, false>(w, tile, t, begin, end, take);
  if (w.bits == 6) return decode<6, kNested, false>(w, tile, t, begin, end, take);
  if (w.mode == kZero) return decode<4, kZero, false>(w, tile, t, begin, end, take);
  if (w.mode == kNestedMinimum) return decode<4, kNestedMinimum, false>(w, tile, t, begin, end, take);
  if (w.lookup) return decode<4, kFlat, true>(w, tile, t, begin, end, take);
  decode<4, kFlat, false>(w, tile, t, begin, end, take);
}

vf row_factors(const Weight& w, int64_t tile) {
  return w.row_scales ? load<vf>(w.row_scales + tile * kRows) : splat(1.0f);
}

constexpr int64_t kStrip = 512;  // columns that are dequantised before they are written out

}  // namespace
}  // namespace cpmv

using namespace cpmv;

// Dequantises rows [first, last) into out [last - first, columns], bfloat16 or float32; first is a multiple of 16.
extern "C" void cpmv_dequantize(
    const Weight* weight, int64_t first, int64_t last, int is_bf16, void* out, int threads) {
  const Weight& w = *weight;
  const Tables tables = tables_of(w);
  const int64_t begin_tile = first / kRows;
  parallel(threads, (last - first + kRows - 1) / kRows, 1, [&](int64_t begin, int64_t end) {
    std::vector<float> strip(size_t(kStrip * kRows));
    for (int64_t t = begin; t < end; ++t) {
      const int64_t tile = begin_tile + t, base = tile * kRows, rows = std::min<int64_t>(kRows, last - base);
      const vf factors = row_factors(w, tile);
      for (int64_t k0 = 0; k0 < w.columns; k0 += kStrip) {
        const int64_t k1 = std::min(w.columns, k0 + kStrip);
        decode(w, tile, tables, k0, k1, [&](int64_t pair, const Floats& v) {
          float* to = strip.data() + (2 * pair - k0) * kRows;
          const vf even = v.even * factors, odd = v.odd * factors;
          std::memcpy(to, &even, sizeof even);
          std::memcpy(to + kRows, &odd, sizeof odd);
        });
        for (int64_t r = 0; r < rows; ++r) {
          const int64_t at = (base + r - first) * w.columns;
          const float* from = strip.data() + r;
          if (is_bf16) {
            uint16_t* to = (uint16_t*)out + at;
            for (int64_t k = k0; k < k1; ++k) to[k] = to_bf16(from[(k - k0) * kRows]);
          } else {
            float* to = (float*)out + at;
            for (int64_t k = k0; k < k1; ++k) to[k] = from[(k - k0) * kRows];
          }
        }
      }
    }
  });
}

#ifdef CPMV_BF16

namespace cpmv {
namespace {

constexpr int kTiles = 2;           // tiles of a strip
constexpr int64_t kDepth = 2048;    // columns of a strip: 128 KiB of bfloat16, which stay in the second cache

// c [MB, 32] (+)= x [pairs, MB] times a strip [pairs, 32]; words are pairs of bfloat16.
template <int MB>
void micro(const uint32_t* strip, const uint32_t* x, int64_t pairs, float* c, bool first) {
  __m512 sums[MB][kTiles];
  for (int m = 0; m < MB; ++m) {
    for (int t = 0; t < kTiles; ++t) {
      sums[m][t] = first ? _mm512_setzero_ps() : _mm512_loadu_ps(c + (m * kTiles + t) * kRows);
    }
  }
  for (int64_t p = 0; p < pairs; ++p, strip += kTiles * kRows, x += MB) {
    __m512bh weights[kTiles];
    for (int t = 0; t < kTiles; ++t) weights[t] = (__m512bh)_mm512_loadu_si512(strip + t * kRows);
#pragma GCC unroll 16
    for (int m = 0; m < MB; ++m) {
      const __m512bh row = (__m512bh)_mm512_set1_epi32(int(x[m]));
      for (int t = 0; t < kTiles; ++t) sums[m][t] = _mm512_dpbf16_ps(sums[m][t], weights[t], row);
    }
  }
  for (int m = 0; m < MB; ++m) {
    for (int t = 0; t < kTiles; ++t) _mm512_storeu_ps(c + (m * kTiles + t) * kRows, sums[m][t]);
  }
}

void micro(int mb, const uint32_t* strip, const uint32_t* x, int64_t pairs, float* c, bool first) {
  if (mb == 4) return micro<4>(strip, x, pairs, c, first);
  if (mb == 8) return micro<8>(strip, x, pairs, c, first);
  micro<12>(strip, x, pairs, c, first);
}

// Words 0 and 16, 1 and 17 ... of a vector become neighbours.
inline __m512i interleaving() {
  alignas(64) uint16_t places[32];
  for (int i = 0; i < 32; ++i) places[i] = uint16_t(i % 2 * 16 + i / 2);
  return _mm512_load_si512(places);
}

inline __m512i as_pairs(const Floats& v, __m512i places) {
  return _mm512_permutexvar_epi16(places, (__m512i)_mm512_cvtne2ps_pbh((__m512)v.odd, (__m512)v.even));
}

// Rows of inputs in blocks of `rows`, [blocks, pairs, rows], zeros behind the last.
struct Blocks {
  int64_t blocks;
  int rows;
  std::vector<uint32_t>& words;
};

Blocks pack_inputs(const uint16_t* x, int64_t count, int64_t columns, int threads) {
  static thread_local std::vector<uint32_t> words;  // kept: large memory that is new each time costs page faults
  const int64_t blocks = (count + 11) / 12, pairs = columns / 2;
  const int rows = int((count + blocks - 1) / blocks + 3) / 4 * 4;
  words.resize(size_t(blocks * pairs * rows));
  uint32_t* out = words.data();
  parallel(threads, blocks, 1, [=](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      uint32_t* to = out + b * pairs * rows;
      for (int m = 0; m < rows; ++m) {
        const int64_t row = b * rows + m;
        for (int64_t p = 0; p < pairs; ++p) {
          to[p * rows + m] = row < count ? load<uint32_t>(x + row * columns + 2 * p) : 0;
        }
      }
    }
  });
  return {blocks, rows, words};
}

// out [count, rows] = x [count, columns] wᵀ times factors plus bias, where fill(first tile, k0, k1, strip) makes a strip
// of the weight: words of columns [k0, k1), [pairs, kTiles, 16].
template <class Fill>
void multiply_strips(int64_t rows, int64_t columns, const uint16_t* x, int64_t count, const float* factors,
                     const float* bias, uint16_t* out, int threads, const Fill& fill) {
  const Blocks in = pack_inputs(x, count, columns, threads);
  const uint32_t* inputs = in.words.data();
  constexpr int64_t kWidth = kTiles * kRows;
  parallel(threads, (rows + kWidth - 1) / kWidth, 1, [&](int64_t begin, int64_t end) {
    static thread_local std::vector<uint32_t> strip;
    static thread_local std::vector<float> sums;
    strip.resize(size_t(kDepth / 2 * kWidth));
    sums.resize(size_t(in.blocks * in.rows * kWidth));
    for (int64_t s = begin; s < end; ++s) {
      for (int64_t k0 = 0; k0 < columns; k0 += kDepth) {
        const int64_t k1 = std::min(columns, k0 + kDepth);
        fill(s * kTiles, k0, k1, strip.data());
        for (int64_t b = 0; b < in.blocks; ++b) {
          micro(in.rows, strip.data(), inputs + (b * columns / 2 + k0 / 2) * in.rows, (k1 - k0) / 2,
                sums.data() + b * in.rows * kWidth, k0 == 0);
        }
      }
      const int64_t first = s * kWidth, last = std::min(rows, first + kWidth);
      for (int64_t m = 0; m < count; ++m) {
        const float* from = sums.data() + m * kWidth;
        for (int64_t n = first; n < last; ++n) {
          float value = from[n - first];
          if (factors) value *= factors[n];
          if (bias) value += bias[n];
          out[m * rows + n] = to_bf16(value);
        }
      }
    }
  });
}

}  // namespace
}  // namespace cpmv

// out [count, rows of w] = x [count, columns] wᵀ + bias, all bfloat16 but the bias, float32 or null. Weights are
// rounded to bfloat16, sums are float32.
extern "C" void cpmv_multiply_many(
    const Weight* weight, const uint16_t* x, int64_t count, const float* bias, uint16_t* out, int threads) {
  const Weight& w = *weight;
  const Tables tables = tables_of(w);
  const __m512i places = interleaving();
  const int64_t tiles = tiles_of(w);
  multiply_strips(w.rows, w.columns, x, count, w.row_scales, bias, out, threads,
                  [&](int64_t first, int64_t k0, int64_t k1, uint32_t* strip) {
    for (int t = 0; t < kTiles; ++t) {
      decode(w, std::min(tiles - 1, first + t), tables, k0, k1, [&](int64_t pair, const Floats& v) {
        _mm512_storeu_si512(strip + ((pair - k0 / 2) * kTiles + t) * kRows, as_pairs(v, places));
      });
    }
  });
}

// The same of a matrix of bfloat16 or float16 numbers, [rows, columns], where it lies; columns is a multiple of 16.
extern "C" void cpmv_multiply_dense_many(const uint16_t* weight, int weight_is_bf16, int64_t rows, int64_t columns,
                                         const uint16_t* x, int64_t count, const float* bias, uint16_t* out,
                                         int threads) {
  multiply_strips(rows, columns, x, count, nullptr, bias, out, threads,
                  [&](int64_t first, int64_t k0, int64_t k1, uint32_t* strip) {
    alignas(64) uint32_t words[kDepth / 2];
    for (int64_t r = 0; r < kTiles * kRows; ++r) {
      const uint16_t* row = weight + std::min(rows - 1, first * kRows + r) * columns;
      for (int64_t k = k0; k < k1; k += 16) {
        __m256i part = _mm256_loadu_si256((const __m256i*)(row + k));
        if (!weight_is_bf16) part = (__m256i)_mm512_cvtneps_pbh(_mm512_cvtph_ps(part));
        _mm256_store_si256((__m256i*)(words + (k - k0) / 2), part);
      }
      for (int64_t p = 0; p < (k1 - k0) / 2; ++p) strip[p * kTiles * kRows + r] = words[p];
    }
  });
}

#else

extern "C" void cpmv_multiply_many(const Weight*, const uint16_t*, int64_t, const float*, uint16_t*, int) {}
extern "C" void cpmv_multiply_dense_many(
    const uint16_t*, int, int64_t, int64_t, const uint16_t*, int64_t, const float*, uint16_t*, int) {}

#endif

// Whether the products of many rows are there and the fastest way: AMX has matrix units that torch's library uses.
extern "C" int cpmv_has_many(void) {
#if defined(CPMV_BF16) && !defined(__AMX_BF16__)
  return 1;
#else
  return 0;
#endif
}
