// Sixteen numbers at once, one for each row of a tile: one register with AVX-512, else as many as it takes. Sixteen in
// one vector type would be split by the compiler too, but into single numbers.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

namespace cpmv {

#define CPMV_INLINE inline __attribute__((always_inline))

constexpr int kRows = 16;  // rows of a tile

template <class V, class T>
CPMV_INLINE V load(const T* from) {
  V out;
  std::memcpy(&out, from, sizeof(V));
  return out;
}

#if defined(__AVX512F__)

typedef float vf __attribute__((vector_size(64)));
typedef uint32_t vu __attribute__((vector_size(64)));

CPMV_INLINE vf splat(float value) { return (vf)_mm512_set1_ps(value); }
CPMV_INLINE vf to_floats(vu v) { return (vf)_mm512_cvtepi32_ps((__m512i)v); }  // below 2^31
CPMV_INLINE vf bits_as_floats(vu v) { return (vf)v; }
CPMV_INLINE vu widen_words(const uint16_t* from) { return (vu)_mm512_cvtepu16_epi32(load<__m256i>(from)); }
CPMV_INLINE vf halves_to_floats(const uint16_t* from) { return (vf)_mm512_cvtph_ps(load<__m256i>(from)); }
CPMV_INLINE vf numbers(const int8_t* from) { return (vf)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(load<__m128i>(from))); }
CPMV_INLINE vf numbers(const uint8_t* from) { return (vf)_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(load<__m128i>(from))); }
CPMV_INLINE float sum_of(vf v) { return _mm512_reduce_add_ps((__m512)v); }

#else

#if defined(__AVX2__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif
constexpr int kParts = kRows / kLanes;
typedef float part_f __attribute__((vector_size(4 * kLanes)));
typedef int32_t part_i __attribute__((vector_size(4 * kLanes)));
typedef uint32_t part_u __attribute__((vector_size(4 * kLanes)));

#define CPMV_EACH(expression)                                      \
  {                                                                \
    _Pragma("GCC unroll 4") for (int i = 0; i < kParts; ++i) expression; \
  }
#define CPMV_BINARY(type, operation)                          \
  CPMV_INLINE type operator operation(const type& a, const type& b) { \
    type out;                                                 \
    CPMV_EACH(out.parts[i] = a.parts[i] operation b.parts[i]) \
    return out;                                               \
  }

struct vf {
  part_f parts[kParts];
};
struct vu {
  part_u parts[kParts];
};

template <>
CPMV_INLINE vu load<vu, uint32_t>(const uint32_t* from) {
  vu out;
  CPMV_EACH(out.parts[i] = load<part_u>(from + kLanes * i))
  return out;
}
template <>
CPMV_INLINE vf load<vf, float>(const float* from) {
  vf out;
  CPMV_EACH(out.parts[i] = load<part_f>(from + kLanes * i))
  return out;
}

CPMV_BINARY(vf, +)
CPMV_BINARY(vf, *)
CPMV_BINARY(vu, |)

CPMV_INLINE vf splat(float value) {
  vf out;
  CPMV_EACH(out.parts[i] = part_f{} + value)
  return out;
}
CPMV_INLINE vf operator*(const vf& a, float b) { return a * splat(b); }
CPMV_INLINE vf operator+(const vf& a, float b) { return a + splat(b); }
CPMV_INLINE vf operator-(const vf& a) { return a * -1.0f; }
CPMV_INLINE vf& operator+=(vf& a, const vf& b) { return a = a + b; }
CPMV_INLINE vu operator>>(const vu& a, int count) {
  vu out;
  CPMV_EACH(out.parts[i] = a.parts[i] >> count)
  return out;
}
CPMV_INLINE vu operator<<(const vu& a, int count) {
  vu out;
  CPMV_EACH(out.parts[i] = a.parts[i] << count)
  return out;
}
CPMV_INLINE vu operator&(const vu& a, uint32_t mask) {
  vu out;
  CPMV_EACH(out.parts[i] = a.parts[i] & mask)
  return out;
}
CPMV_INLINE vu operator^(const vu& a, uint32_t mask) {
  vu out;
  CPMV_EACH(out.parts[i] = a.parts[i] ^ mask)
  return out;
}
CPMV_INLINE vf to_floats(const vu& v) {
  vf out;
  CPMV_EACH(out.parts[i] = __builtin_convertvector((part_i)v.parts[i], part_f))
  return out;
}
CPMV_INLINE vf bits_as_floats(const vu& v) {
  vf out;
  CPMV_EACH(out.parts[i] = (part_f)v.parts[i])
  return out;
}
CPMV_INLINE vu floats_as_bits(const vf& v) {
  vu out;
  CPMV_EACH(out.parts[i] = (part_u)v.parts[i])
  return out;
}

CPMV_INLINE vu widen_words(const uint16_t* from) {
  vu out;
#if defined(__AVX2__)
  CPMV_EACH(out.parts[i] = (part_u)_mm256_cvtepu16_epi32(load<__m128i>(from + 8 * i)))
#elif defined(__ARM_NEON)
  CPMV_EACH(out.parts[i] = (part_u)vmovl_u16(vld1_u16(from + 4 * i)))
#else
  uint32_t words[kRows];
  for (int i = 0; i < kRows; ++i) words[i] = from[i];
  out = load<vu>(words);
#endif
  return out;
}

// float16, subnormals too; never infinite.
CPMV_INLINE vf halves_to_floats(const uint16_t* from) {
#if defined(__F16C__)
  vf out;
  CPMV_EACH(out.parts[i] = (part_f)_mm256_cvtph_ps(load<__m128i>(from + 8 * i)))
  return out;
#else
  const vu bits = widen_words(from);
  const vf magnitude = bits_as_floats((bits & 0x7fffu) << 13) * 0x1p112f;
  return bits_as_floats(floats_as_bits(magnitude) | (bits & 0x8000u) << 16);
#endif
}

template <class T>
CPMV_INLINE vf numbers(const T* from) {  // of int8_t or uint8_t
  uint32_t wide[kRows];
  for (int i = 0; i < kRows; ++i) wide[i] = uint32_t(int32_t(from[i]));
  return to_floats(load<vu>(wide));
}

CPMV_INLINE float sum_of(const vf& v) {
  float values[kRows], out = 0;
  std::memcpy(values, &v, sizeof v);
  for (int i = 0; i < kRows; ++i) out += values[i];
  return out;
}

#endif

// Entries of a table of 16 by code.
CPMV_INLINE vf entries_of(const vu& codes, const float* table) {
#if defined(__AVX512F__)
  return (vf)_mm512_permutexvar_ps((__m512i)codes, _mm512_loadu_ps(table));
#elif defined(__AVX2__)
  const __m256 low = _mm256_loadu_ps(table), high = _mm256_loadu_ps(table + 8);
  vf out;
  for (int i = 0; i < kParts; ++i) {
    const __m256i index = (__m256i)codes.parts[i];
    const __m256 a = _mm256_permutevar8x32_ps(low, index), b = _mm256_permutevar8x32_ps(high, index);
    out.parts[i] = (part_f)_mm256_blendv_ps(a, b, _mm256_castsi256_ps(_mm256_slli_epi32(index, 28)));
  }
  return out;
#elif defined(__ARM_NEON) && defined(__aarch64__)
  const uint8x16x4_t bytes = {vld1q_u8((const uint8_t*)table), vld1q_u8((const uint8_t*)table + 16),
                              vld1q_u8((const uint8_t*)table + 32), vld1q_u8((const uint8_t*)table + 48)};
  vf out;
  for (int i = 0; i < kParts; ++i) {
    const uint32x4_t places = (uint32x4_t)(codes.parts[i] * 0x04040404u + 0x03020100u);
    out.parts[i] = (part_f)vreinterpretq_f32_u8(vqtbl4q_u8(bytes, vreinterpretq_u8_u32(places)));
  }
  return out;
#else
  uint32_t places[kRows];
  float values[kRows];
  std::memcpy(places, &codes, sizeof places);
  for (int i = 0; i < kRows; ++i) values[i] = table[places[i]];
  return load<vf>(values);
#endif
}

}  // namespace cpmv
