// From the layouts of files to tiles (weight.h), once. The formats themselves are described, and dequantised as plain
// tensors, in cpmv/weights.
#include <vector>

#include "lanes.h"
#include "threads.h"

namespace cpmv {
namespace {

enum Kind : int32_t { kQ4_0 = 0, kQ8_0 = 1, kQ4_K = 2, kQ6_K = 3, kNF4 = 4, kInt8 = 5 };

// Eight bytes of 0..15 as nibbles in column order: the even ones in the low half, the odd ones in the high.
inline uint32_t join_nibbles(const uint8_t* codes) {
  const uint64_t bytes = load<uint64_t>(codes);
  const auto gather = [](uint64_t v) {  // a nibble in each of four 16-bit fields
    v &= 0x000f000f000f000full;
    return uint32_t((v | v >> 12 | v >> 24 | v >> 36) & 0xffff);
  };
  return gather(bytes) | gather(bytes >> 8) << 16;
}

void pack_nibbles(const uint8_t* codes, int64_t columns, int lane, uint32_t* out) {
  for (int64_t k = 0; k < columns; k += 8) out[k / 8 * kRows + lane] = join_nibbles(codes + k);
}

void pack_bytes(const uint8_t* codes, int64_t columns, int lane, uint32_t* out) {
  for (int64_t k = 0; k < columns; k += 4) {
    const uint32_t b = load<uint32_t>(codes + k);
    out[k / 4 * kRows + lane] = (b & 0xff0000ffu) | (b & 0xff00u) << 8 | (b & 0xff0000u) >> 8;
  }
}

void pack_high(const uint8_t* codes, int64_t columns, int lane, uint32_t* out) {
  for (int64_t k = 0; k < columns; k += 16) {
    uint32_t word = 0;
    for (int p = 0; p < 8; ++p) {
      word |= uint32_t(codes[k + 2 * p] >> 4 & 3) << 2 * p | uint32_t(codes[k + 2 * p + 1] >> 4 & 3) << (16 + 2 * p);
    }
    out[k / 16 * kRows + lane] = word;
  }
}

// Where the scales of a row's group go.
struct Place {
  const Weight& w;
  int64_t tile;
  int lane;
  int64_t at(int64_t group) const { return (tile * (w.columns / w.group) + group) * kRows + lane; }
  int64_t outer(int64_t block) const {
    return (tile * (w.columns / w.group / w.outer) + block) * kRows + lane;
  }
};

void read_q4_0(const uint8_t* row, const Place& p, uint8_t* codes) {
  for (int64_t g = 0; g < p.w.columns / 32; ++g, row += 18, codes += 32) {
    ((uint16_t*)p.w.scales)[p.at(g)] = load<uint16_t>(row);
    for (int i = 0; i < 16; ++i) {
      codes[i] = row[2 + i] & 15;
      codes[16 + i] = row[2 + i] >> 4;
    }
  }
}

void read_q8_0(const uint8_t* row, const Place& p, uint8_t* codes) {
  for (int64_t g = 0; g < p.w.columns / 32; ++g, row += 34, codes += 32) {
    ((uint16_t*)p.w.scales)[p.at(g)] = load<uint16_t>(row);
    std::memcpy(codes, row + 2, 32);
  }
}

void read_q4_k(const uint8_t* row, const Place& p, uint8_t* codes) {
  for (int64_t b = 0; b < p.w.columns / 256; ++b, row += 144) {
    ((uint16_t*)p.w.outer_scales)[p.outer(b)] = load<uint16_t>(row);
    ((uint16_t*)p.w.outer_minima)[p.outer(b)] = load<uint16_t>(row + 2);
    const uint8_t* s = row + 4;
    for (int i = 0; i < 8; ++i) {
      const int j = i & 3;
      const uint8_t scale = i < 4 ? s[j] & 63 : (s[8 + j] & 15) | (s[j] >> 6) << 4;
      const uint8_t minimum = i < 4 ? s[4 + j] & 63 : s[8 + j] >> 4 | (s[4 + j] >> 6) << 4;
      ((int8_t*)p.w.small)[p.at(8 * b + i)] = int8_t(scale);
      ((uint8_t*)p.w.minima)[p.at(8 * b + i)] = minimum;
    }
    for (int run = 0; run < 4; ++run, codes += 64) {
      const uint8_t* q = row + 16 + 32 * run;
      for (int i = 0; i < 32; ++i) {
        codes[i] = q[i] & 15;
        codes[32 + i] = q[i] >> 4;
      }
    }
  }
}

void read_q6_k(const uint8_t* row, const Place& p, uint8_t* codes) {
  for (int64_t b = 0; b < p.w.columns / 256; ++b, row += 210) {
    ((uint16_t*)p.w.outer_scales)[p.outer(b)] = load<uint16_t>(row + 208);
    for (int i = 0; i < 16; ++i) ((int8_t*)p.w.small)[p.at(16 * b + i)] = int8_t(row[192 + i]);
    for (int half = 0; half < 2; ++half, codes += 128) {
      for (int e = 0; e < 128; ++e) {
        const uint8_t low = row[64 * half + e % 64], high = row[128 + 32 * half + e % 32];
        codes[e] = uint8_t((e < 64 ? low & 15 : low >> 4) | (high >> 2 * (e / 32) & 3) << 4);
      }
    }
  }
}

void read_nf4(const uint8_t* row, const Place& p, uint8_t* codes) {
  for (int64_t i = 0; i < p.w.columns / 2; ++i) {
    codes[2 * i] = row[i] >> 4;
    codes[2 * i + 1] = row[i] & 15;
  }
}

void read_row(int kind, const uint8_t* row, const Place& p, uint8_t* codes) {
  if (kind == kQ4_0) return read_q4_0(row, p, codes);
  if (kind == kQ8_0) return read_q8_0(row, p, codes);
  if (kind == kQ4_K) return read_q4_k(row, p, codes);
  if (kind == kQ6_K) return read_q6_k(row, p, codes);
  if (kind == kNF4) return read_nf4(row, p, codes);
  std::memcpy(codes, row, size_t(p.w.columns));
}

constexpr int kWords = 16;  // int32 of AWQ that are read together: 128 rows, one cache line

}  // namespace
}  // namespace cpmv

using namespace cpmv;

// Fills the zeroed tensors of `weight` from rows of a file, [rows, row_bytes]. Scales that stand apart from the codes
// are the caller's.
extern "C" void cpmv_repack(const Weight* weight, int kind, const uint8_t* raw, int64_t row_bytes, int threads) {
  const Weight& w = *weight;
  parallel(threads, tiles_of(w), 1, [&](int64_t begin, int64_t end) {
    std::vector<uint8_t> codes(static_cast<size_t>(w.columns));
    for (int64_t tile = begin; tile < end; ++tile) {
      uint32_t* out = (uint32_t*)w.codes + tile * code_words(w.bits, w.columns) * kRows;
      for (int lane = 0; lane < kRows && tile * kRows + lane < w.rows; ++lane) {
        read_row(kind, raw + (tile * kRows + lane) * row_bytes, Place{w, tile, lane}, codes.data());
        if (w.bits == 8) {
          pack_bytes(codes.data(), w.columns, lane, out);
          continue;
        }
        if (w.bits == 6) {
          pack_high(codes.data(), w.columns, lane, (uint32_t*)w.high + tile * high_words(6, w.columns) * kRows);
        }
        pack_nibbles(codes.data(), w.columns, lane, out);
      }
    }
  });
}

// The codes of AWQ's "gemm" layout, int32 [columns, rows / 8]: rows are read across, a cache line at a time.
extern "C" void cpmv_repack_awq(const Weight* weight, const uint32_t* packed, int threads) {
  const Weight& w = *weight;
  const int64_t words = w.rows / 8, stride = code_words(4, w.columns) * kRows;
  parallel(threads, (words + kWords - 1) / kWords, 1, [&](int64_t begin, int64_t end) {
    alignas(64) uint8_t codes[kWords * 8][8];
    for (int64_t part = begin; part < end; ++part) {
      const int64_t first = part * kWords, last = std::min(words, first + kWords);
      for (int64_t k = 0; k < w.columns; k += 8) {
        for (int64_t i = 0; i < 8; ++i) {
          for (int64_t word = first; word < last; ++word) {
            const uint32_t v = packed[(k + i) * words + word];
            for (int n = 0; n < 8; ++n) {  // nibbles are rows 0 2 4 6 1 3 5 7
              codes[(word - first) * 8 + (n < 4 ? 2 * n : 2 * n - 7)][i] = v >> 4 * n & 15;
            }
          }
        }
        for (int64_t row = first * 8; row < last * 8; ++row) {
          uint32_t* out = (uint32_t*)w.codes + row / kRows * stride + k / 8 * kRows + row % kRows;
          *out = join_nibbles(codes[row - first * 8]);
        }
      }
    }
  });
}
