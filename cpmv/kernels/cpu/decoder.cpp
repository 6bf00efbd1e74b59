// One decoder layer for a few rows, each the newest of its sequence, over a paged cache: norms, products, rotary
// positions, attention, SwiGLU. In float32 between products; what a layer hands on is rounded by the caller.
#include <cmath>

#include "products.h"
#include "threads.h"

namespace cpmv {
namespace {

struct Layer {
  Matrix query, key, value, output, gate, up, down;
  const float *norm, *mlp_norm, *query_norm, *key_norm;
};

struct Step {
  int64_t count, width;                        // rows, E
  int64_t heads, key_heads, head_dim;
  int64_t block_size, blocks_per_row;
  const int64_t* blocks;                       // [count, blocks_per_row]
  const int64_t* lengths;                      // [count], keys that a row sees, its own included
  const int64_t* slots;                        // [count], where a row's key and value go
  const float *cosines, *sines;                // [count, head_dim]
  double eps, head_eps;
  int64_t is_bf16;                             // what the pools hold, and products take
};

// e^x for x <= 0, to 2 units of float32's last place, 0 below -87.
inline vf exponential(const vf& x) {
  const vf magic = splat(12582912.0f), scaled = x * 1.44269504f + magic;
  const vf whole = scaled + -12582912.0f;
  const vf rest = x + whole * -0.693359375f + whole * 2.12194440e-4f;
  vf out = splat(1.9875691500e-4f);
  for (const float c : {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f}) {
    out = out * rest + splat(c);
  }
  out = out * rest * rest + rest + 1.0f;
  float values[kRows], powers[kRows], inputs[kRows];
  std::memcpy(values, &out, sizeof values);
  std::memcpy(powers, &scaled, sizeof powers);
  std::memcpy(inputs, &x, sizeof inputs);
  for (int i = 0; i < kRows; ++i) {
    uint32_t bits;
    std::memcpy(&bits, &powers[i], 4);
    bits = (bits - 0x4b400000u + 127u) << 23;
    float power;
    std::memcpy(&power, &bits, 4);
    values[i] = inputs[i] < -87.0f ? 0.0f : values[i] * power;
  }
  return load<vf>(values);
}

inline float round_to(float value, bool is_bf16) { return is_bf16 ? from_bf16(to_bf16(value)) : value; }

float dot(const float* a, const float* b, int64_t count) {
  vf sum = splat(0.0f);
  for (int64_t i = 0; i < count; i += kRows) sum += load<vf>(a + i) * load<vf>(b + i);
  return sum_of(sum);
}

void rms_norm(const float* x, const float* weight, int64_t count, double eps, float* out) {
  const float factor = float(1.0 / std::sqrt(double(dot(x, x, count)) / double(count) + eps));
  for (int64_t i = 0; i < count; ++i) out[i] = x[i] * factor * weight[i];
}

void normalise(const Step& s, const float* x, const float* weight, std::vector<float>& out) {
  out.resize(size_t(s.count * s.width));
  for (int64_t m = 0; m < s.count; ++m) {
    rms_norm(x + m * s.width, weight, s.width, s.eps, out.data() + m * s.width);
  }
  if (!s.is_bf16) return;
  for (float& value : out) value = from_bf16(to_bf16(value));
}

// Products of several matrices with the same inputs, [count, columns], in one loop over threads. `then` is called with
// the number of the matrix and its tiles as they are done.
template <size_t N, class Then>
void products(const Step& s, const Matrix* const (&matrices)[N], const float* x, float* const (&out)[N], int threads,
              const Then& then) {
  std::vector<Prepared> inputs;
  size_t of[N];
  int64_t starts[N + 1] = {0};
  for (size_t i = 0; i < N; ++i) {
    size_t same = 0;
    while (same < i && !alike(*matrices[same], *matrices[i])) ++same;
    of[i] = same < i ? of[same] : inputs.size();
    if (same == i) inputs.push_back(prepare(*matrices[i], x, s.count, !s.is_bf16));
    starts[i + 1] = starts[i] + tiles_of(*matrices[i]);
  }
  parallel(threads, starts[N], 4, [&](int64_t begin, int64_t end) {
    for (size_t i = 0; i < N; ++i) {
      const int64_t first = std::max(begin, starts[i]) - starts[i], last = std::min(end, starts[i + 1]) - starts[i];
      if (first >= last) continue;
      compute(*matrices[i], inputs[of[i]], first, last, out[i], matrices[i]->rows);
      then(i, first, last);
    }
  });
}

// out [heads that share a key head, head_dim] of one row: softmax(q k) v over `length` keys.
struct Attention {
  const Step& s;
  std::vector<float> scores, row;

  void load_row(const void* pool, int64_t slot, int64_t head, float* out) const {
    const int64_t at = (slot * s.key_heads + head) * s.head_dim;
    if (!s.is_bf16) {
      std::memcpy(out, (const float*)pool + at, size_t(s.head_dim) * sizeof(float));
      return;
    }
    for (int64_t i = 0; i < s.head_dim; i += kRows) {
      const vf v = bits_as_floats(widen_words((const uint16_t*)pool + at + i) << 16);
      std::memcpy(out + i, &v, sizeof v);
    }
  }

  void run(const float* queries, const void* keys, const void* values, int64_t row_index, int64_t head, float* out) {
    const int64_t length = s.lengths[row_index], shared = s.heads / s.key_heads, d = s.head_dim;
    const int64_t padded = (length + kRows - 1) / kRows * kRows;
    const int64_t* blocks = s.blocks + row_index * s.blocks_per_row;
    scores.assign(size_t(shared * padded), -1e30f);
    row.resize(size_t(d));
    const float scale = 1.0f / std::sqrt(float(d));
    for (int64_t t = 0; t < length; ++t) {
      load_row(keys, blocks[t / s.block_size] * s.block_size + t % s.block_size, head, row.data());
      for (int64_t g = 0; g < shared; ++g) scores[size_t(g * padded + t)] = scale * dot(queries + g * d, row.data(), d);
    }
    std::memset(out, 0, size_t(shared * d) * sizeof(float));
    std::vector<float> sums(static_cast<size_t>(shared));
    for (int64_t g = 0; g < shared; ++g) {
      float* p = scores.data() + g * padded;
      const float most = *std::max_element(p, p + length);
      vf sum = splat(0.0f);
      for (int64_t t = 0; t < padded; t += kRows) {
        const vf e = exponential(load<vf>(p + t) + -most);
        std::memcpy(p + t, &e, sizeof e);
        sum += e;
      }
      sums[size_t(g)] = sum_of(sum);
    }
    for (int64_t t = 0; t < length; ++t) {
      load_row(values, blocks[t / s.block_size] * s.block_size + t % s.block_size, head, row.data());
      for (int64_t g = 0; g < shared; ++g) {
        const float p = scores[size_t(g * padded + t)];
        for (int64_t i = 0; i < d; i += kRows) {
          const vf v = load<vf>(out + g * d + i) + load<vf>(row.data() + i) * p;
          std::memcpy(out + g * d + i, &v, sizeof v);
        }
      }
    }
    for (int64_t g = 0; g < shared; ++g) {
      for (int64_t i = 0; i < d; ++i) out[g * d + i] = round_to(out[g * d + i] / sums[size_t(g)], s.is_bf16);
    }
  }
};

// Normalises and turns one head of a query or key.
void turn(const Step& s, float* head, const float* weight, int64_t row) {
  const int64_t d = s.head_dim, half = d / 2;
  std::vector<float> normed(static_cast<size_t>(d));
  rms_norm(head, weight, d, s.head_eps, normed.data());
  const float *cosines = s.cosines + row * d, *sines = s.sines + row * d;
  for (int64_t i = 0; i < half; ++i) {
    const float a = round_to(normed[size_t(i)], s.is_bf16), b = round_to(normed[size_t(i + half)], s.is_bf16);
    head[i] = a * cosines[i] - b * sines[i];
    head[i + half] = b * cosines[i + half] + a * sines[i + half];
  }
}

void store(const Step& s, const float* from, int64_t row, void* pool) {
  const int64_t width = s.key_heads * s.head_dim, at = s.slots[row] * width;
  for (int64_t i = 0; i < width; ++i) {
    if (s.is_bf16) {
      ((uint16_t*)pool)[at + i] = to_bf16(from[i]);
    } else {
      ((float*)pool)[at + i] = from[i];
    }
  }
}

void attend(const Step& s, const Layer& layer, const float* x, void* keys, void* values, std::vector<float>& out,
            int threads) {
  std::vector<float> q(size_t(s.count * layer.query.rows)), k(size_t(s.count * layer.key.rows)), v(k.size());
  products<3>(s, {&layer.query, &layer.key, &layer.value}, x, {q.data(), k.data(), v.data()}, threads,
              [](size_t, int64_t, int64_t) {});
  for (int64_t m = 0; m < s.count; ++m) {
    for (int64_t h = 0; h < s.heads; ++h) turn(s, q.data() + m * layer.query.rows + h * s.head_dim, layer.query_norm, m);
    for (int64_t h = 0; h < s.key_heads; ++h) turn(s, k.data() + m * layer.key.rows + h * s.head_dim, layer.key_norm, m);
    store(s, k.data() + m * layer.key.rows, m, keys);
    store(s, v.data() + m * layer.key.rows, m, values);
  }
  out.resize(q.size());
  const int64_t shared = s.heads / s.key_heads * s.head_dim;
  parallel(threads, s.count * s.key_heads, 1, [&](int64_t begin, int64_t end) {
    Attention attention{s, {}, {}};
    for (int64_t i = begin; i < end; ++i) {
      const int64_t m = i / s.key_heads, h = i % s.key_heads, at = m * layer.query.rows + h * shared;
      attention.run(q.data() + at, keys, values, m, h, out.data() + at);
    }
  });
}

}  // namespace
}  // namespace cpmv

using namespace cpmv;

// x float32 [count, E] becomes what the layer makes of it; keys and values are the layer's pools, [slots, key heads,
// head_dim].
extern "C" void cpmv_decoder_layer(const Layer* layer, const Step* step, float* x, void* keys, void* values, int threads) {
  const Layer& l = *layer;
  const Step& s = *step;
  static thread_local std::vector<float> normed, attended, gate, up, inner;
  const auto add = [&](const Matrix& matrix, const float* inputs) {
    inner.resize(size_t(s.count * s.width));
    float* const made = inner.data();  // in the lambda, `inner` would be each thread's own
    products<1>(s, {&matrix}, inputs, {made}, threads, [&s, x, made](size_t, int64_t begin, int64_t end) {
      for (int64_t m = 0; m < s.count; ++m) {
        const int64_t last = m * s.width + std::min(s.width, end * kRows);
        for (int64_t n = m * s.width + begin * kRows; n < last; ++n) {
          x[n] = round_to(x[n] + round_to(made[n], s.is_bf16), s.is_bf16);
        }
      }
    });
  };
  normalise(s, x, l.norm, normed);
  attend(s, l, normed.data(), keys, values, attended, threads);
  add(l.output, attended.data());
  normalise(s, x, l.mlp_norm, normed);
  gate.resize(size_t(s.count * l.gate.rows));
  up.resize(gate.size());
  products<2>(s, {&l.gate, &l.up}, normed.data(), {gate.data(), up.data()}, threads, [](size_t, int64_t, int64_t) {});
  for (size_t i = 0; i < gate.size(); i += kRows) {
    alignas(64) float e[kRows];
    for (int j = 0; j < kRows; ++j) e[j] = -std::fabs(gate[i + size_t(j)]);
    const vf decay = exponential(load<vf>(e));
    std::memcpy(e, &decay, sizeof e);
    for (int j = 0; j < kRows; ++j) {
      const float value = gate[i + size_t(j)];
      const float sigmoid = value >= 0 ? 1.0f / (1.0f + e[j]) : e[j] / (1.0f + e[j]);
      gate[i + size_t(j)] = round_to(value * sigmoid * up[i + size_t(j)], s.is_bf16);
    }
  }
  add(l.down, gate.data());
}
