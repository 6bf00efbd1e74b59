// Layer norm of narrow rows: a warp a row, everything in registers, nothing shared, so that it runs as fast as memory.
//
// Macros: SIZE, a multiple of 128 up to 2048; BF16 (else float16); SHIFTED: x + shift is normalised, shift one row of
// float32; WARPS of a block; ROWS that a warp takes one after the other, the next loaded while one is computed.

struct Args {
    void *x;
    const float *shift;
    const void *weight, *bias;
    void *y;
    float eps;
    int rows;
};

constexpr int PARTS = SIZE / 128;  // of a row, four elements a lane each

#ifndef CPMV_EMULATED  // tests run the rest as C++, with tests/kernels/emulated.h
typedef unsigned int u32;
typedef unsigned short u16;
#if BF16
static __device__ __forceinline__ float to_float(u32 bits) { return __uint_as_float(bits << 16); }
static __device__ __forceinline__ u32 join(float a, float b) {
    u32 two;
    asm("cvt.rn.bf16x2.f32 %0, %2, %1;" : "=r"(two) : "f"(a), "f"(b));
    return two;
}
#else
static __device__ __forceinline__ float to_float(u32 bits) {
    float f;
    asm("{.reg .b16 h; cvt.u16.u32 h, %1; cvt.f32.f16 %0, h;}" : "=f"(f) : "r"(bits & 0xffff));
    return f;
}
static __device__ __forceinline__ u32 join(float a, float b) {
    u32 two;
    asm("{.reg .b16 a, b; cvt.rn.f16.f32 a, %1; cvt.rn.f16.f32 b, %2; mov.b32 %0, {a, b};}" : "=r"(two) : "f"(a), "f"(b));
    return two;
}
#endif
#else
static u32 join(float a, float b) { return from_float(a) | from_float(b) << 16; }
#endif

static __device__ __forceinline__ float low(u32 two) { return to_float(two & 0xffff); }
static __device__ __forceinline__ float high(u32 two) { return to_float(two >> 16); }

static __device__ __forceinline__ float sum_of_warp(float value) {
#pragma unroll
    for (int step = 16; step; step >>= 1) value += __shfl_xor_sync(~0u, value, step);
    return value;
}

extern "C" __global__ void __launch_bounds__(WARPS * 32) layer_norm(const Args args) {
    const int lane = threadIdx.x & 31;
    const long first = ((long)blockIdx.x * WARPS + (threadIdx.x >> 5)) * ROWS;
    uint2 next[PARTS];
    if (first < args.rows) {
        const uint2 *row = (const uint2 *)args.x + first * (SIZE / 4) + lane;
#pragma unroll
        for (int i = 0; i < PARTS; i++) next[i] = row[i * 32];
    }
#pragma unroll 1
    for (int r = 0; r < ROWS; r++) {
        const long at = first + r;
        if (at >= args.rows) return;
        float x[PARTS * 4], total = 0.f;
#pragma unroll
        for (int i = 0; i < PARTS; i++) {
            x[4 * i] = low(next[i].x), x[4 * i + 1] = high(next[i].x);
            x[4 * i + 2] = low(next[i].y), x[4 * i + 3] = high(next[i].y);
        }
#if !BF16
        bool outside = false;  // float16 infinities, left where a sum went out of range, become the largest number
#pragma unroll
        for (int i = 0; i < PARTS * 4; i++) {
            const float held = fminf(fmaxf(x[i], -65504.f), 65504.f);
            outside |= held != x[i];
            x[i] = held;
        }
        if (outside) {
            uint2 *row = (uint2 *)args.x + at * (SIZE / 4) + lane;
#pragma unroll
            for (int i = 0; i < PARTS; i++)
                row[i * 32] = make_uint2(join(x[4 * i], x[4 * i + 1]), join(x[4 * i + 2], x[4 * i + 3]));
        }
#endif
        if (ROWS > 1 && r + 1 < ROWS && at + 1 < args.rows) {
            const uint2 *row = (const uint2 *)args.x + (at + 1) * (SIZE / 4) + lane;
#pragma unroll
            for (int i = 0; i < PARTS; i++) next[i] = row[i * 32];
        }
#if SHIFTED
#pragma unroll
        for (int i = 0; i < PARTS; i++) {
            const float4 more = ((const float4 *)args.shift)[i * 32 + lane];
            x[4 * i] += more.x, x[4 * i + 1] += more.y, x[4 * i + 2] += more.z, x[4 * i + 3] += more.w;
        }
#endif
#pragma unroll
        for (int i = 0; i < PARTS * 4; i++) total += x[i];
        const float mean = sum_of_warp(total) * (1.f / SIZE);
        total = 0.f;
#pragma unroll
        for (int i = 0; i < PARTS * 4; i++) {
            x[i] -= mean;
            total += x[i] * x[i];
        }
        const float scale = rsqrtf(sum_of_warp(total) * (1.f / SIZE) + args.eps);
        uint2 *out = (uint2 *)args.y + at * (SIZE / 4) + lane;
#pragma unroll
        for (int i = 0; i < PARTS; i++) {
            const uint2 w = ((const uint2 *)args.weight)[i * 32 + lane], b = ((const uint2 *)args.bias)[i * 32 + lane];
            out[i * 32] = make_uint2(
                join(x[4 * i] * scale * low(w.x) + low(b.x), x[4 * i + 1] * scale * high(w.x) + high(b.x)),
                join(x[4 * i + 2] * scale * low(w.y) + low(b.y), x[4 * i + 3] * scale * high(w.y) + high(b.y)));
        }
    }
}
