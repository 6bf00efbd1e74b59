// How a pair of neighbouring columns, for 16 rows at once, is looked up and multiplied: with AVX-512's bfloat16 dot
// products, or in float32 with whatever the compiler makes of vectors.
#pragma once

#include "weight.h"

#if defined(__AVX512BF16__) && defined(__AVX512BW__) && defined(__AVX512VL__)
#define CPMV_BF16 1
#endif

namespace cpmv {

// A pair of columns as float32.
struct Floats {
  vf even, odd;
};

#ifdef CPMV_BF16

// Inputs are bfloat16 pairs, two columns a word.
typedef uint32_t Input;
constexpr int kInputsPerPair = 1;

struct Table {
  __m512i words;  // bfloat16
  __m512 floats;
};
typedef __m512i Pair;

// A lookup of a word reads five bits of the code, of a float four; shorter codes find their entries repeated.
inline Table make_table(const float* entries, int count) {
  alignas(64) uint16_t words[32];
  alignas(64) float floats[16];
  for (int i = 0; i < 32; ++i) words[i] = to_bf16(entries[i % count]);
  for (int i = 0; i < 16; ++i) floats[i] = entries[i % count];
  return {_mm512_load_si512(words), _mm512_load_ps(floats)};
}

template <int SHIFT, int BITS, bool LOOKUP>
CPMV_INLINE Pair look_up(vu codes, const Table& table) {
  return _mm512_permutexvar_epi16(_mm512_srli_epi16((__m512i)codes, SHIFT), table.words);
}

template <int SHIFT, int BITS, bool LOOKUP>
CPMV_INLINE Floats look_up_floats(vu codes, const Table& table) {
  return {(vf)_mm512_permutexvar_ps((__m512i)(codes >> SHIFT), table.floats),
          (vf)_mm512_permutexvar_ps((__m512i)(codes >> (16 + SHIFT)), table.floats)};
}

CPMV_INLINE vf multiply_add(vf sum, Pair weights, const Input* x) {
  return (vf)_mm512_dpbf16_ps((__m512)sum, (__m512bh)weights, (__m512bh)_mm512_set1_epi32(int(*x)));
}

#else

typedef float Input;
constexpr int kInputsPerPair = 2;

struct Table {
  float entries[16];
  uint32_t flip;     // straight lines: value = factor * (code ^ flip) + offset
  float factor, offset;
};
typedef Floats Pair;

inline Table make_table(const float* entries, int count) {
  Table out;
  for (int i = 0; i < 16; ++i) out.entries[i] = entries[i % count];
  out.flip = entries[count / 2] < entries[0] ? uint32_t(count / 2) : 0;
  out.offset = entries[out.flip];
  out.factor = entries[1] - entries[0];
  return out;
}

template <int SHIFT, int BITS, bool LOOKUP>
CPMV_INLINE Pair look_up(vu codes, const Table& table) {
  constexpr uint32_t mask = (1u << BITS) - 1;
  const vu even = codes >> SHIFT & mask, odd = codes >> (16 + SHIFT) & mask;
  if constexpr (LOOKUP) return {entries_of(even, table.entries), entries_of(odd, table.entries)};
  return {to_floats(even ^ table.flip) * table.factor + table.offset,
          to_floats(odd ^ table.flip) * table.factor + table.offset};
}

template <int SHIFT, int BITS, bool LOOKUP>
CPMV_INLINE Floats look_up_floats(vu codes, const Table& table) {
  return look_up<SHIFT, BITS, LOOKUP>(codes, table);
}

CPMV_INLINE vf multiply_add(vf sum, const Pair& weights, const Input* x) {
  return sum + weights.even * x[0] + weights.odd * x[1];
}

#endif

// The tables of one weight: of its low and its high codes.
struct Tables {
  Table low, high;
};

inline Tables tables_of(const Weight& w) {
  float low[16], high[16];
  for (int i = 0; i < 16; ++i) {
    low[i] = w.bits == 4 ? w.table[i] : float(i);
    high[i] = w.bits == 8 ? 16.0f * float(i < 8 ? i : i - 16) : 16.0f * float((i & 3) - 2);
  }
  return {make_table(low, 16), make_table(high, w.bits == 6 ? 4 : 16)};
}

// What `visit` hands out: pairs ready to be multiplied, or float32.
struct AsPairs {
  template <int SHIFT, int BITS, bool LOOKUP>
  static CPMV_INLINE Pair get(vu codes, const Table& table) { return look_up<SHIFT, BITS, LOOKUP>(codes, table); }
};
struct AsFloats {
  template <int SHIFT, int BITS, bool LOOKUP>
  static CPMV_INLINE Floats get(vu codes, const Table& table) { return look_up_floats<SHIFT, BITS, LOOKUP>(codes, table); }
};

// Steps of `kStep` columns: `visit` calls take(pair of weights, number of the pair in the step, whether this is the
// pair's high part, to be added to its low one).
template <int BITS, bool LOOKUP, class As>
struct Columns;

template <bool LOOKUP, class As>
struct Columns<4, LOOKUP, As> {
  static constexpr int kStep = 8;
  template <class Take>
  static CPMV_INLINE void visit(const uint32_t* codes, const uint32_t*, const Tables& t, Take take) {
    const vu c = load<vu>(codes);
    take(As::template get<0, 4, LOOKUP>(c, t.low), 0, false);
    take(As::template get<4, 4, LOOKUP>(c, t.low), 1, false);
    take(As::template get<8, 4, LOOKUP>(c, t.low), 2, false);
    take(As::template get<12, 4, LOOKUP>(c, t.low), 3, false);
  }
};

template <bool LOOKUP, class As>
struct Columns<8, LOOKUP, As> {
  static constexpr int kStep = 4;
  template <class Take>
  static CPMV_INLINE void visit(const uint32_t* codes, const uint32_t*, const Tables& t, Take take) {
    const vu c = load<vu>(codes);
    take(As::template get<0, 4, false>(c, t.low), 0, false);
    take(As::template get<4, 4, false>(c, t.high), 0, true);
    take(As::template get<8, 4, false>(c, t.low), 1, false);
    take(As::template get<12, 4, false>(c, t.high), 1, true);
  }
};

template <bool LOOKUP, class As>
struct Columns<6, LOOKUP, As> {
  static constexpr int kStep = 16;
  template <class Take>
  static CPMV_INLINE void visit(const uint32_t* codes, const uint32_t* high, const Tables& t, Take take) {
    const vu a = load<vu>(codes), b = load<vu>(codes + kRows), h = load<vu>(high);
    take(As::template get<0, 4, false>(a, t.low), 0, false);
    take(As::template get<0, 2, false>(h, t.high), 0, true);
    take(As::template get<4, 4, false>(a, t.low), 1, false);
    take(As::template get<2, 2, false>(h, t.high), 1, true);
    take(As::template get<8, 4, false>(a, t.low), 2, false);
    take(As::template get<4, 2, false>(h, t.high), 2, true);
    take(As::template get<12, 4, false>(a, t.low), 3, false);
    take(As::template get<6, 2, false>(h, t.high), 3, true);
    take(As::template get<0, 4, false>(b, t.low), 4, false);
    take(As::template get<8, 2, false>(h, t.high), 4, true);
    take(As::template get<4, 4, false>(b, t.low), 5, false);
    take(As::template get<10, 2, false>(h, t.high), 5, true);
    take(As::template get<8, 4, false>(b, t.low), 6, false);
    take(As::template get<12, 2, false>(h, t.high), 6, true);
    take(As::template get<12, 4, false>(b, t.low), 7, false);
    take(As::template get<14, 2, false>(h, t.high), 7, true);
  }
};

// Words of codes, and of high codes, that hold `columns` columns of one row.
CPMV_INLINE int64_t code_words(int bits, int64_t columns) { return bits == 8 ? columns / 4 : columns / 8; }
CPMV_INLINE int64_t high_words(int bits, int64_t columns) { return bits == 6 ? columns / 16 : 0; }

}  // namespace cpmv
