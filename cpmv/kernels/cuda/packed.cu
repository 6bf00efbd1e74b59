// Weight-only quantised products y = x W^T for few rows of x, on tensor cores, from one streaming layout.
//
// Compiled by NVRTC, one program a (format, dtype, kernel). Macros: FMT, GROUP, BF16, DEPTH, and for `tiles` TOKEN_TILES and ROW_TILES.
// The layout (packed_layout.py) is the register layout of mma.m16n8k16: a tile is 16 rows, a chunk 64 inputs; a lane's
// codes of a chunk are 16 (4-bit) or 32 (8-bit) consecutive bytes, so every load is 16 bytes a lane, 512 a warp.
// Tensor cores do the sums (float32), so a weight costs about 1.5 instructions instead of 4 with scalar FMAs.

typedef unsigned int u32;
typedef unsigned short u16;
typedef unsigned char u8;
typedef unsigned long long u64;

#define AWQ 0
#define NF4 1
#define Q4_0 2
#define Q8_0 3
#define Q4_K 4
#define Q6_K 5
#define INT8 6

#define IS_8BIT (FMT == Q8_0 || FMT == INT8)
#define CHUNKS ((FMT == AWQ && GROUP == 128) ? 2 : 1)  // of 64 inputs in a unit: what one load slot holds
#define NC (IS_8BIT ? 2 : CHUNKS)                      // 16-byte loads a lane for a unit
#define UNITS_PER_STEP (2 / CHUNKS)                    // `tiles` walks 128 inputs at a time

// gemv with AWQ may leave zero points to sums of x a group, taken once a block: no subtraction for each pair of codes.
#ifndef SUMS
#define SUMS 0
#endif

struct Args {
    const void* x;
    const uint4* codes;
    const void* scales;
    const void* extra;  // AWQ: zero points; Q4_K, Q6_K: scales of 256
    const uint2* high;  // Q6_K: the two high bits
    void* out;
    const void* residual;
    const void* norm;
    const void* bias;
    float* partial;
    u32* counter;
    float eps, scale;
    int M, N, K, tiles, gated, splits;
};

struct Unit {
    uint4 code[NC];
    uint2 s;
    uint2 d;
    uint2 high;
    u32 z;
};

// ---------------------------------------------------------------- small pieces

#ifndef CPMV_EMULATED  // tests run the rest as C++, with these and CUDA's own words from tests/kernels/emulated.h

static __device__ __forceinline__ void pdl_wait() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

static __device__ __forceinline__ void pdl_launch() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// Weights are read once: keep them out of L1, where x and scales live.
static __device__ __forceinline__ uint4 stream16(const uint4* p) {
    uint4 v;
    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(p));
    return v;
}
static __device__ __forceinline__ uint2 stream8(const void* p) {
    uint2 v;
    asm volatile("ld.global.nc.v2.u32 {%0,%1}, [%2];" : "=r"(v.x), "=r"(v.y) : "l"(p));
    return v;
}
static __device__ __forceinline__ u32 stream4(const void* p) {
    u32 v;
    asm volatile("ld.global.nc.u32 %0, [%1];" : "=r"(v) : "l"(p));
    return v;
}
static __device__ __forceinline__ u32 stream2(const void* p) {
    u16 v;
    asm volatile("ld.global.nc.u16 %0, [%1];" : "=h"(v) : "l"(p));
    return v;
}
static __device__ __forceinline__ u32 stream1(const void* p) {
    u16 v;
    asm volatile("ld.global.nc.u8 %0, [%1];" : "=h"(v) : "l"(p));
    return v;
}

static __device__ __forceinline__ float half_to_float(u32 bits) {
    float f;
    asm("{.reg .b16 h; cvt.u16.u32 h, %1; cvt.f32.f16 %0, h;}" : "=f"(f) : "r"(bits & 0xffff));
    return f;
}

static __device__ __forceinline__ u32 half_from(float f) {
    u16 h;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h) : "f"(f));
    return h;
}

static __device__ __forceinline__ void ask_l2(const char* from, u32 size) {
#if __CUDA_ARCH__ >= 900
    asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(from), "r"(size) : "memory");
#endif
}

#if BF16
#define ONE 0x3F803F80u
static __device__ __forceinline__ u32 fma2(u32 a, u32 b, u32 c) {
    u32 d;
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
    return d;
}
static __device__ __forceinline__ float to_float(u32 bits) { return __uint_as_float(bits << 16); }
static __device__ __forceinline__ u32 from_float(float f) {  // round to nearest even, as torch does
    u16 h;
#if __CUDA_ARCH__ >= 800
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(h) : "f"(f));
#else
    u32 b = __float_as_uint(f);
    h = (u16)((b + 0x7fffu + ((b >> 16) & 1)) >> 16);
#endif
    return h;
}
#else
#define ONE 0x3C003C00u
static __device__ __forceinline__ u32 fma2(u32 a, u32 b, u32 c) {
    u32 d;
    asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
    return d;
}
static __device__ __forceinline__ float to_float(u32 bits) { return half_to_float(bits); }
static __device__ __forceinline__ u32 from_float(float f) { return half_from(f); }
#endif

// (word & mask) | set, one instruction
static __device__ __forceinline__ u32 and_or(u32 word, u32 mask, u32 set) {
    u32 d;
    asm("lop3.b32 %0, %1, %2, %3, 0xEA;" : "=r"(d) : "r"(word), "r"(mask), "r"(set));
    return d;
}
static __device__ __forceinline__ u32 and_xor(u32 word, u32 mask, u32 flip) {
    u32 d;
    asm("lop3.b32 %0, %1, %2, %3, 0x6A;" : "=r"(d) : "r"(word), "r"(mask), "r"(flip));
    return d;
}

static __device__ __forceinline__ void mma(float* c, const u32* a, u32 b0, u32 b1) {
#if __CUDA_ARCH__ >= 800
#if BF16
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
#else
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
#endif
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#elif !BF16  // Turing: two halves of the sum
    asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(b0));
    asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[2]), "r"(a[3]), "r"(b1));
#endif
}

// A lane's own copies to shared memory, which it alone reads, or all after a barrier.
static __device__ __forceinline__ void copy16(void* to, const void* from) {
#if __CUDA_ARCH__ >= 800
    const u32 at = (u32)__cvta_generic_to_shared(to);
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(at), "l"(from) : "memory");
#else
    *(uint4*)to = *(const uint4*)from;
#endif
}
static __device__ __forceinline__ void copies_commit() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}
template <int LEFT> static __device__ __forceinline__ void copies_wait() {  // all but the LEFT latest groups
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_group %0;" ::"n"(LEFT) : "memory");
#endif
}

extern __shared__ __align__(16) char shared_memory[];

#endif

// ---------------------------------------------------------------- one unit of weights

// What stands beside the codes of unit `at` (tile * units + unit); super: tile * units / 4 + unit / 4.
static __device__ __forceinline__ void load_scales(Unit& u, const Args& a, int at, int super, int lane) {
    const int g = lane >> 2;
#if FMT == AWQ && GROUP >= 64
    u.s.x = stream4((const u32*)a.scales + g + (u64)(u32)at * 8);
    u.z = stream1((const u8*)a.extra + g + (u64)(u32)at * 8);
#elif FMT == AWQ
    u.s = stream8((const uint2*)a.scales + g + (u64)(u32)at * 8);
    u.z = stream2((const u16*)a.extra + g + (u64)(u32)at * 8);
#elif FMT == NF4
    u.s.x = stream4((const u32*)a.scales + g + (u64)(u32)at * 8);
#elif FMT == Q4_0 || FMT == Q8_0
    u.s = stream8((const uint2*)a.scales + g + (u64)(u32)at * 8);
#elif FMT == Q4_K
    u.s = stream8((const uint2*)a.scales + g + (u64)(u32)at * 8);
    u.d = stream8((const uint2*)a.extra + g + (u64)(u32)super * 8);
#elif FMT == Q6_K
    u.s = stream8((const uint2*)a.scales + g + (u64)(u32)at * 8);
    u.high = stream8(a.high + lane + (u64)(u32)at * 32);
    u.d.x = stream4((const u32*)a.extra + g + (u64)(u32)super * 8);
#endif
}

static __device__ __forceinline__ void load_unit(Unit& u, const Args& a, int tile, int units, int unit, int lane) {
    const int at = tile * units + unit;
    const uint4* from = a.codes + lane + (u64)(u32)at * (NC * 32);
#pragma unroll
    for (int c = 0; c < NC; ++c) u.code[c] = stream16(from + c * 32);
    load_scales(u, a, at, tile * (units >> 2) + (unit >> 2), lane);
}

static __device__ __forceinline__ u32 word_of(const uint4& v, int j) { return j == 0 ? v.x : j == 1 ? v.y : j == 2 ? v.z : v.w; }

#if FMT == NF4
// The table stands first in shared memory; column: lane * 4.
static __device__ __forceinline__ u32 looked_up(u32 w, u32 column) {
    return *(const u32*)(shared_memory + and_or(w, 0x7f80, column));
}
#endif

// The fragment A of mma j (16 inputs) of chunk c: codes less their zero point, exact in 16 bits.
// zero[0], zero[1]: of the rows g and g + 8, only for AWQ. column: the lane's of the table, only for NF4.
static __device__ __forceinline__ void fragment(u32* A, const Unit& u, int c, int j, const u32* zero, u32 column) {
#if FMT == NF4
    const u32 w = word_of(u.code[c], j);
    // Words are stored turned left by 7 bits: a byte, shifted, is the place of its pair of values.
    A[0] = looked_up(w, column);
    A[1] = looked_up(w >> 8, column);
    A[2] = looked_up(w >> 16, column);
    A[3] = looked_up(__funnelshift_l(w, w, 8), column);
#elif IS_8BIT
#pragma unroll
    for (int p = 0; p < 4; ++p) {
        u32 w = word_of(u.code[j >> 1], (j & 1) * 2 + (p >> 1));
        if (p & 1) w >>= 8;
#if BF16  // m - 128 * bit 7, both parts exact: bfloat16 has 8 bits of mantissa
        A[p] = fma2(and_or(w, 0x007f007f, 0x43004300), ONE, and_or(w, 0x00800080, 0xC300C300));
#else  // 1024 + (q + 128) - 1152
        A[p] = fma2(and_xor(w, 0x00ff00ff, 0x64806480), ONE, 0xE480E480);
#endif
    }
#elif FMT == Q6_K
    const u32 w = word_of(u.code[0], j), h = j < 2 ? u.high.x : u.high.y;
#pragma unroll
    for (int p = 0; p < 4; ++p) {
        const int q = (j & 1) * 4 + p;
        const u32 top = q < 2 ? h << (4 - 2 * q) : h >> (2 * q - 4);
#if BF16
        A[p] = fma2(and_or(top, 0x00300030, and_or(w >> (4 * p), 0x000f000f, 0x43004300)), ONE, 0xC320C320);
#else
        A[p] = fma2(and_or(top, 0x00300030, and_or(w >> (4 * p), 0x000f000f, 0x64006400)), ONE, 0xE420E420);
#endif
    }
#elif SUMS
    const u32 w = word_of(u.code[c], j);
#if BF16  // 128 + q
    A[0] = and_or(w, 0x000f000f, 0x43004300);
    A[1] = and_or(w >> 4, 0x000f000f, 0x43004300);
    A[2] = and_or(w >> 8, 0x000f000f, 0x43004300);
    A[3] = and_or(w >> 12, 0x000f000f, 0x43004300);
#else  // subnormal: q / 2^24 for row g, q / 2^20 for row g + 8
    const u32 v = w >> 8;
    A[0] = w & 0x000f000f;
    A[1] = w & 0x00f000f0;
    A[2] = v & 0x000f000f;
    A[3] = v & 0x00f000f0;
#endif
#else  // 4-bit integers
    const u32 w = word_of(u.code[c], j);
#if BF16
#if FMT == Q4_0
    const u32 z0 = 0xC308C308, z1 = z0;
#elif FMT == Q4_K
    const u32 z0 = 0xC300C300, z1 = z0;
#else
    const u32 z0 = zero[0] | 0xC300C300, z1 = zero[1] | 0xC300C300;
#endif
    A[0] = fma2(and_or(w, 0x000f000f, 0x43004300), ONE, z0);
    A[1] = fma2(and_or(w >> 4, 0x000f000f, 0x43004300), ONE, z1);
    A[2] = fma2(and_or(w >> 8, 0x000f000f, 0x43004300), ONE, z0);
    A[3] = fma2(and_or(w >> 12, 0x000f000f, 0x43004300), ONE, z1);
#else  // nibbles at bits 4..7 are read as 1024 + 16 q: no shift
    const u32 sixteenth = 0x2C002C00;
#if FMT == Q4_0
    const u32 z0 = 0xE408E408, z1 = 0xD480D480;
#elif FMT == Q4_K
    const u32 z0 = 0xE400E400, z1 = 0xD400D400;
#else
    const u32 z0 = zero[0] | 0xE400E400, z1 = (zero[1] << 4) | 0xD400D400;
#endif
    const u32 v = w >> 8;
    A[0] = fma2(and_or(w, 0x000f000f, 0x64006400), ONE, z0);
    A[1] = fma2(and_or(w, 0x00f000f0, 0x64006400), sixteenth, z1);
    A[2] = fma2(and_or(v, 0x000f000f, 0x64006400), ONE, z0);
    A[3] = fma2(and_or(v, 0x00f000f0, 0x64006400), sixteenth, z1);
#endif
#endif
}

template <int NT> static __device__ __forceinline__ void flush(float (&acc)[NT][4], float (&C)[NT][4], float s0, float s1) {
#pragma unroll
    for (int n = 0; n < NT; ++n) {
        acc[n][0] += s0 * C[n][0];
        acc[n][1] += s0 * C[n][1];
        acc[n][2] += s1 * C[n][2];
        acc[n][3] += s1 * C[n][3];
#pragma unroll
        for (int i = 0; i < 4; ++i) C[n][i] = 0.f;
    }
}

static __device__ __forceinline__ float signed_byte(u32 v, int at) { return (float)(int)(signed char)(v >> (8 * at)); }

// Add unit u of NR tiles times its inputs to acc. xs: shared memory at this unit's first input, this lane's token;
// step8: elements from token n to token n + 8.
template <int NR, int NT>
static __device__ __forceinline__ void consume(
    float (&acc)[NR][NT][4], const Unit (&u)[NR], const u16* xs, int step8, int t, u32 column, float2 sum = float2()) {
    float C[NR][NT][4];
    u32 zero[NR][2];
#pragma unroll
    for (int r = 0; r < NR; ++r) {
#pragma unroll
        for (int n = 0; n < NT; ++n)
#pragma unroll
            for (int i = 0; i < 4; ++i) C[r][n][i] = 0.f;
#if FMT == AWQ && GROUP >= 64
        zero[r][0] = (u[r].z & 15) * 0x00010001u;
        zero[r][1] = (u[r].z >> 4) * 0x00010001u;
#else
        zero[r][0] = zero[r][1] = 0;
#endif
    }
#pragma unroll
    for (int c = 0; c < CHUNKS; ++c) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {  // 32 inputs
            uint4 b[NT];
#pragma unroll
            for (int n = 0; n < NT; ++n) {
                const u16* at = xs + n * step8 + c * 64 + h * 32;
#if FMT == Q6_K
                const uint2 lo = *(const uint2*)(at + 4 * t), hi = *(const uint2*)(at + 16 + 4 * t);
                b[n] = make_uint4(lo.x, lo.y, hi.x, hi.y);
#else
                b[n] = *(const uint4*)(at + 8 * t);
#endif
            }
#if FMT == Q4_K  // the sum of the inputs, for the minimum
            float S[NT][4];
            const u32 ones[4] = {ONE, ONE, ONE, ONE};
#pragma unroll
            for (int n = 0; n < NT; ++n) {
#pragma unroll
                for (int i = 0; i < 4; ++i) S[n][i] = 0.f;
                mma(S[n], ones, b[n].x, b[n].y);
                mma(S[n], ones, b[n].z, b[n].w);
            }
#endif
#pragma unroll
            for (int r = 0; r < NR; ++r) {
#if FMT == AWQ && GROUP == 32
                const u32 zz = u[r].z >> (8 * h);
                zero[r][0] = (zz & 15) * 0x00010001u;
                zero[r][1] = (zz >> 4 & 15) * 0x00010001u;
#endif
#pragma unroll
                for (int jj = 0; jj < 2; ++jj) {
                    u32 A[4];
                    fragment(A, u[r], c, 2 * h + jj, zero[r], column);
#pragma unroll
                    for (int n = 0; n < NT; ++n) {
#if FMT == INT8
                        mma(acc[r][n], A, jj ? b[n].z : b[n].x, jj ? b[n].w : b[n].y);
#else
                        mma(C[r][n], A, jj ? b[n].z : b[n].x, jj ? b[n].w : b[n].y);
#endif
                    }
#if FMT == Q6_K
                    const u32 s = h ? u[r].s.y : u[r].s.x;
                    flush(acc[r], C[r], half_to_float(u[r].d.x) * signed_byte(s, 2 * jj),
                          half_to_float(u[r].d.x >> 16) * signed_byte(s, 2 * jj + 1));
#endif
                }
#if FMT == Q4_K
                const u32 s = h ? u[r].s.y : u[r].s.x;
                const float d0 = half_to_float(u[r].d.x), d1 = half_to_float(u[r].d.x >> 16);
                flush(acc[r], C[r], d0 * (float)(s & 255), d1 * (float)(s >> 16 & 255));
                const float m0 = half_to_float(u[r].d.y) * (float)(s >> 8 & 255);
                const float m1 = half_to_float(u[r].d.y >> 16) * (float)(s >> 24);
#pragma unroll
                for (int n = 0; n < NT; ++n) {
                    acc[r][n][0] -= m0 * S[n][0];
                    acc[r][n][1] -= m0 * S[n][1];
                    acc[r][n][2] -= m1 * S[n][2];
                    acc[r][n][3] -= m1 * S[n][3];
                }
#elif GROUP == 32
                const u32 s = h ? u[r].s.y : u[r].s.x;
                flush(acc[r], C[r], half_to_float(s), half_to_float(s >> 16));
#endif
            }
        }
    }
#if SUMS
    {
        const float s0 = half_to_float(u[0].s.x), s1 = half_to_float(u[0].s.x >> 16);
        const float z0 = (float)(u[0].z & 15), z1 = (float)(u[0].z >> 4);
#if BF16
        const float m0 = s0 * (z0 + 128.f), m1 = s1 * (z1 + 128.f), f0 = s0, f1 = s1;
#else
        const float m0 = s0 * z0, m1 = s1 * z1, f0 = s0 * 16777216.f, f1 = s1 * 1048576.f;
#endif
        acc[0][0][0] += f0 * C[0][0][0] - m0 * sum.x;
        acc[0][0][1] += f0 * C[0][0][1] - m0 * sum.y;
        acc[0][0][2] += f1 * C[0][0][2] - m1 * sum.x;
        acc[0][0][3] += f1 * C[0][0][3] - m1 * sum.y;
    }
#elif GROUP >= 64
#pragma unroll
    for (int r = 0; r < NR; ++r) flush(acc[r], C[r], half_to_float(u[r].s.x), half_to_float(u[r].s.x >> 16));
#endif
}

#if FMT == NF4
// Both values of every byte, once for each bank: lookups never collide. 32 KiB.
static __device__ __forceinline__ void fill_table(const u16* book) {
    for (int i = threadIdx.x; i < 256 * 8; i += blockDim.x) {
        const int byte = i >> 3;
        const u32 v = (u32)book[byte & 15] | (u32)book[byte >> 4] << 16;
        *(uint4*)(shared_memory + i * 16) = make_uint4(v, v, v, v);
    }
}
#define LUT_BYTES 32768
#else
#define LUT_BYTES 0
#endif

// ---------------------------------------------------------------- what becomes of a sum

static __device__ __forceinline__ float scaled(const Args& a, float v, int row) {
#if FMT == INT8
    v *= ((const float*)a.scales)[row];
#elif FMT == NF4
    v *= a.scale;
#endif
    if (a.bias) v += to_float(((const u16*)a.bias)[row]);
    return v;
}

static __device__ __forceinline__ void store(const Args& a, float v, int token, int row, int width) {
    const long long at = (long long)token * width + row;
    if (a.residual) {
        v += to_float(((const u16*)a.residual)[at]);
#if !BF16
        v = fminf(fmaxf(v, -65504.f), 65504.f);
#endif
    }
    ((u16*)a.out)[at] = (u16)from_float(v);
}

static __device__ __forceinline__ float swiglu(float gate, float up) { return gate / (1.f + __expf(-gate)) * up; }

static __device__ __forceinline__ float square_sum(const uint4& v) {
    const u32 w[4] = {v.x, v.y, v.z, v.w};
    float s = 0.f;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        const float lo = to_float(w[i] & 0xffff), hi = to_float(w[i] >> 16);
        s += lo * lo + hi * hi;
    }
    return s;
}

// Normalised in float32, rounded, times the weight, rounded: the model's RMSNorm.
static __device__ __forceinline__ uint4 normalised(const uint4& v, const uint4& weight, float rstd) {
    const u32 w[4] = {v.x, v.y, v.z, v.w}, g[4] = {weight.x, weight.y, weight.z, weight.w};
    u32 o[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        const u32 lo = from_float(to_float(from_float(to_float(w[i] & 0xffff) * rstd)) * to_float(g[i] & 0xffff));
        const u32 hi = from_float(to_float(from_float(to_float(w[i] >> 16) * rstd)) * to_float(g[i] >> 16));
        o[i] = lo | hi << 16;
    }
    return make_uint4(o[0], o[1], o[2], o[3]);
}

static __device__ __forceinline__ float warp_sum(float v) {
#pragma unroll
    for (int i = 16; i; i >>= 1) v += __shfl_xor_sync(~0u, v, i);
    return v;
}


// ---------------------------------------------------------------- gemv: 1 to 8 rows of x

#ifdef GEMV
constexpr int warps = THREADS / 32;
// A block takes tiles of 16 rows whole; its warps share the inputs, each with codes on their way to its own places in
// shared memory, and meet in partial sums. x is staged (and normalised) once a block, and blocks stay for several tiles.
// Shared: table, codes [DEPTH][warps][NC][32] 16 bytes, x [M][K + pad], sums [M][units], partial
// [BATCH][tiles of an item][warps][16][MT] float.

static __device__ __forceinline__ float sum_of(const uint4& v) {
    return to_float(v.x & 0xffff) + to_float(v.x >> 16) + to_float(v.y & 0xffff) + to_float(v.y >> 16) +
           to_float(v.z & 0xffff) + to_float(v.z >> 16) + to_float(v.w & 0xffff) + to_float(v.w >> 16);
}

// Keep 8 inputs of x and, where they are asked for, add up every unit's: neighbouring lanes hold neighbouring inputs.
static __device__ __forceinline__ void keep(u16* xs, float* sums, int i, int inputs, const uint4& v, int lane) {
    if (i < inputs) *(uint4*)(xs + i) = v;
#if SUMS
    float s = i < inputs ? sum_of(v) : 0.f;
#pragma unroll
    for (int o = 4 * CHUNKS; o; o >>= 1) s += __shfl_xor_sync(~0u, s, o);
    if (i < inputs && (lane & (8 * CHUNKS - 1)) == 0) sums[i / (64 * CHUNKS)] = s;
#endif
}

static __device__ __forceinline__ void stage_rows(const Args& a, u16* xs, int stride, float* sums, int units, float* scratch, const uint4& weight) {
    const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
    const u16* x = (const u16*)a.x;
    const uint4 none = make_uint4(0, 0, 0, 0);
    if (a.M == 1) {  // the block, a row
        if (!a.norm) {
            for (int at = 0; at < a.K; at += THREADS * 8) {
                const int i = at + threadIdx.x * 8;
                keep(xs, sums, i, a.K, i < a.K ? *(const uint4*)(x + i) : none, lane);
            }
        } else {
            const int own = threadIdx.x * 8;
            const uint4 first = own < a.K ? *(const uint4*)(x + own) : none;
            float s = square_sum(first);
            for (int i = own + THREADS * 8; i < a.K; i += THREADS * 8) s += square_sum(*(const uint4*)(x + i));
            s = warp_sum(s);
            if (lane == 0) scratch[warp] = s;
            __syncthreads();
            s = 0.f;
#pragma unroll
            for (int w = 0; w < warps; ++w) s += scratch[w];
            const float rstd = rsqrtf(s / a.K + a.eps);
            keep(xs, sums, own, a.K, normalised(first, weight, rstd), lane);
            for (int at = THREADS * 8; at < a.K; at += THREADS * 8) {
                const int i = at + own;
                const uint4 v = i < a.K ? *(const uint4*)(x + i) : none;
                const uint4 g = i < a.K ? *(const uint4*)((const u16*)a.norm + i) : none;
                keep(xs, sums, i, a.K, normalised(v, g, rstd), lane);
            }
        }
    } else {  // a warp, a row
        for (int m = warp; m < a.M; m += warps) {
            const u16* row = x + (long long)m * a.K;
            float rstd = 0.f;
            if (a.norm) {
                float s = 0.f;
                for (int i = lane * 8; i < a.K; i += 256) s += square_sum(*(const uint4*)(row + i));
                rstd = rsqrtf(warp_sum(s) / a.K + a.eps);
            }
            for (int at = 0; at < a.K; at += 256) {
                const int i = at + lane * 8;
                uint4 v = i < a.K ? *(const uint4*)(row + i) : none;
                if (a.norm) v = normalised(v, i < a.K ? *(const uint4*)((const u16*)a.norm + i) : none, rstd);
                keep(xs + m * stride, sums + m * units, i, a.K, v, lane);
            }
        }
    }
    __syncthreads();
}

// Ask L2 for the codes of a block's first PREFETCH items, while the kernel ahead is still busy.
static __device__ __forceinline__ void prefetch_tiles(const Args& a, int item, int items, int subs) {
#if PREFETCH && __CUDA_ARCH__ >= 900
    const int bytes = a.K * (IS_8BIT ? 16 : 8), piece = 4096;
    for (int p = 0; p < PREFETCH && item < items; ++p, item += gridDim.x)
        for (int s = 0; s < subs; ++s)
            for (int at = threadIdx.x * piece; at < bytes; at += THREADS * piece) {
                const char* from = (const char*)a.codes + (long long)(item + s * items) * bytes + at;
                const u32 size = (u32)min(piece, bytes - at);
                ask_l2(from, size);
            }
#endif
}

// Add up what the warps left for `count` items, the last of which is `last`.
static __device__ __forceinline__ void finish_items(const Args& a, const float* partial, int count, int last, int items, int MT) {
    const int subs = a.gated ? 2 : 1;
    for (int o = threadIdx.x; o < count * 16 * a.M; o += THREADS) {
        const int r = o & 15, rest = o >> 4, token = MT == 1 ? 0 : rest % a.M, b = MT == 1 ? rest : rest / a.M;
        const int row = (last - (count - 1 - b) * (int)gridDim.x) * 16 + r;
        const float* from = partial + b * subs * warps * 16 * MT + r * MT + token;
        float v = 0.f, up = 0.f;
#pragma unroll
        for (int w = 0; w < warps; ++w) v += from[w * 16 * MT];
        if (a.gated) {
#pragma unroll
            for (int w = 0; w < warps; ++w) up += from[(warps + w) * 16 * MT];
            store(a, swiglu(scaled(a, v, row), scaled(a, up, row + items * 16)), token, row, items * 16);
        } else if (row < a.N) {
            store(a, scaled(a, v, row), token, row, a.N);
        }
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) gemv(const Args a) {
    pdl_launch();
    const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3;
    const int units = a.K / (64 * CHUNKS), steps = (units + warps - 1) / warps;
    const int subs = a.gated ? 2 : 1, items = a.tiles / subs, MT = a.M == 1 ? 1 : 8;
    const int batch = a.splits;  // items whose sums fit
    const int stride = a.K + (FMT == Q6_K ? 16 : 32);
    uint4* codes = (uint4*)(shared_memory + LUT_BYTES) + warp * NC * 32 + lane;
    u16* xs = (u16*)(shared_memory + LUT_BYTES + DEPTH * warps * NC * 512);
    float* sums = (float*)(xs + a.M * stride);
    float* partial = sums + ((a.M * units + 1) & ~1);

    const int own = items > blockIdx.x ? (items - blockIdx.x + gridDim.x - 1) / gridDim.x : 0;
    const int total = own * subs * steps;
    struct { int item, sub, step, at, unit; } ahead = {(int)blockIdx.x, 0, 0, (int)blockIdx.x * units + warp, warp};
    int left = total;  // units to ask for
    Unit ring[DEPTH][1];
    auto fetch = [&](int d) {
        if (left > 0 && ahead.unit < units) {
            const uint4* from = a.codes + lane + (u64)(u32)ahead.at * (NC * 32);
#if __CUDA_ARCH__ >= 800
#pragma unroll
            for (int c = 0; c < NC; ++c) copy16(codes + (d * warps * NC + c) * 32, from + c * 32);
#else
#pragma unroll
            for (int c = 0; c < NC; ++c) ring[d][0].code[c] = stream16(from + c * 32);
#endif
            load_scales(ring[d][0], a, ahead.at, (ahead.at - ahead.unit) / 4 + (ahead.unit >> 2), lane);
        }
        copies_commit();
        --left;
        ahead.at += warps, ahead.unit += warps;
        if (++ahead.step == steps) {
            ahead.step = 0, ahead.unit = warp;
            if (++ahead.sub == subs) ahead.sub = 0, ahead.item += gridDim.x;
            ahead.at = (ahead.item + ahead.sub * items) * units + warp;
        }
    };
#pragma unroll
    for (int d = 0; d < DEPTH; ++d) fetch(d);
    prefetch_tiles(a, blockIdx.x, items, subs);
#if FMT == NF4
    fill_table((const u16*)a.extra);
#endif
    uint4 weight = make_uint4(0, 0, 0, 0);
    if (a.norm && a.M == 1 && threadIdx.x * 8 < a.K) weight = *(const uint4*)((const u16*)a.norm + threadIdx.x * 8);
    pdl_wait();
    stage_rows(a, xs, stride, sums, units, partial, weight);

    const u16* mine = xs + min(g, a.M - 1) * stride;
#if SUMS
    const float* sum0 = sums + min(2 * t, a.M - 1) * units;
    const float* sum1 = sums + min(2 * t + 1, a.M - 1) * units;
#endif
    float acc[1][1][4] = {};
    int item = blockIdx.x, sub = 0, step = 0, unit = warp, kept = 0;
    float* place = partial + warp * 16 * MT;
    for (int i = 0; i < total; i += DEPTH) {
#pragma unroll
        for (int d = 0; d < DEPTH; ++d) {
            if (i + d < total) {
                copies_wait<DEPTH - 1>();
                if (unit < units) {
#if __CUDA_ARCH__ >= 800
#pragma unroll
                    for (int c = 0; c < NC; ++c) ring[d][0].code[c] = codes[(d * warps * NC + c) * 32];
#endif
#if SUMS
                    const float2 sum = make_float2(sum0[unit], sum1[unit]);
#else
                    const float2 sum = make_float2(0.f, 0.f);
#endif
                    consume<1, 1>(acc, ring[d], mine + unit * 64 * CHUNKS, 0, t, lane * 4, sum);
                }
                fetch(d);
                unit += warps;
                if (++step == steps) {  // the tile is complete
                    step = 0, unit = warp;
                    if (MT == 1) {
                        if (t == 0) {
                            place[g] = acc[0][0][0];
                            place[g + 8] = acc[0][0][2];
                        }
                    } else {
                        *(float2*)(place + g * 8 + 2 * t) = make_float2(acc[0][0][0], acc[0][0][1]);
                        *(float2*)(place + (g + 8) * 8 + 2 * t) = make_float2(acc[0][0][2], acc[0][0][3]);
                    }
                    acc[0][0][0] = acc[0][0][1] = acc[0][0][2] = acc[0][0][3] = 0.f;
                    place += warps * 16 * MT;
                    if (++sub == subs) {
                        sub = 0;
                        ++kept;
                        if (kept == batch || i + d + 1 == total) {
                            __syncthreads();
                            finish_items(a, partial, kept, item, items, MT);
                            kept = 0;
                            place = partial + warp * 16 * MT;
                            if (i + d + 1 < total) __syncthreads();
                        }
                        item += gridDim.x;
                    }
                }
            }
        }
    }
}
#endif

// ---------------------------------------------------------------- tiles: up to 8 * NT rows of x

#ifdef TILES
// A warp takes R tiles (a gate and an up tile when gated), a block as many items as it has warps, and one of `splits`
// parts of the inputs. x and codes come through shared memory in steps of 128 inputs, DEPTH - 1 on their way. The last of
// the blocks that share rows adds the parts, in order: the result does not depend on who comes last.
// Shared: table, x [DEPTH][8 NT][ROW], codes [DEPTH][warps][units of a step][R][NC][32] 16 bytes.

constexpr int NT = TOKEN_TILES, R = ROW_TILES, warps = THREADS / 32;
#define ROW (128 + (FMT == Q6_K ? 16 : 32))

static __device__ __forceinline__ void stage_step(const Args& a, u16* to, int step) {
    for (int i = threadIdx.x; i < 8 * NT * 16; i += THREADS) {
        const int token = i >> 4, k = (i & 15) * 8;
        copy16(to + token * ROW + k, (const u16*)a.x + (long long)min(token, a.M - 1) * a.K + step * 128 + k);
    }
}

static __device__ __forceinline__ void finish(const Args& a, const float (&acc)[R][NT][4], const int* tile, int g, int t) {
#pragma unroll
    for (int n = 0; n < NT; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const int token = n * 8 + 2 * t + (i & 1), in_tile = g + (i >> 1) * 8;
            if (token >= a.M) continue;
#if ROW_TILES == 2
            if (a.gated) {
                const int row = tile[0] * 16 + in_tile, width = a.tiles * 8;
                store(a, swiglu(scaled(a, acc[0][n][i], row), scaled(a, acc[1][n][i], row + width)), token, row, width);
                continue;
            }
#endif
#pragma unroll
            for (int r = 0; r < R; ++r) {
                const int row = tile[r] * 16 + in_tile;
                if (row < a.N) store(a, scaled(a, acc[r][n][i], row), token, row, a.N);
            }
        }
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) tiles(const Args a) {
    pdl_launch();
    const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3;
    const int units = a.K / (64 * CHUNKS), all_steps = a.K / 128;
    const int items = a.gated ? a.tiles / 2 : (a.tiles + R - 1) / R, item = blockIdx.x * warps + warp;
    const int first = blockIdx.y * all_steps / a.splits, steps = (blockIdx.y + 1) * all_steps / a.splits - first;
    int tile[R];
#pragma unroll
    for (int r = 0; r < R; ++r) {
        tile[r] = a.gated ? item + r * items : item * R + r;
        if (item >= items) tile[r] = a.tiles;  // nothing to do but to keep in step
    }
    u16* xs = (u16*)(shared_memory + LUT_BYTES);
    const int slot = UNITS_PER_STEP * R * NC * 32;  // of a warp, in 16 bytes
    uint4* codes = (uint4*)(xs + DEPTH * 8 * NT * ROW) + warp * slot + lane;

    Unit ring[DEPTH][UNITS_PER_STEP][R];
    auto fetch = [&](int d, int step) {
        if (step >= steps) return;
#pragma unroll
        for (int q = 0; q < UNITS_PER_STEP; ++q)
#pragma unroll
            for (int r = 0; r < R; ++r)
                if (tile[r] < a.tiles) {
                    const int unit = (first + step) * UNITS_PER_STEP + q, at = tile[r] * units + unit;
                    const uint4* from = a.codes + lane + (u64)(u32)at * (NC * 32);
#pragma unroll
                    for (int c = 0; c < NC; ++c)
                        copy16(codes + d * warps * slot + ((q * R + r) * NC + c) * 32, from + c * 32);
                    load_scales(ring[d][q][r], a, at, tile[r] * (units >> 2) + (unit >> 2), lane);
                }
    };
#pragma unroll
    for (int d = 0; d < DEPTH - 1; ++d) fetch(d, d);
#if FMT == NF4
    fill_table((const u16*)a.extra);
#endif
    pdl_wait();
#pragma unroll
    for (int d = 0; d < DEPTH - 1; ++d) {
        if (d < steps) stage_step(a, xs + d * 8 * NT * ROW, first + d);
        copies_commit();
    }
    float acc[R][NT][4];
#pragma unroll
    for (int r = 0; r < R; ++r)
#pragma unroll
        for (int n = 0; n < NT; ++n)
#pragma unroll
            for (int i = 0; i < 4; ++i) acc[r][n][i] = 0.f;
    for (int i = 0; i < steps; i += DEPTH) {
#pragma unroll
        for (int d = 0; d < DEPTH; ++d) {
            if (i + d < steps) {
                const int free = (d + DEPTH - 1) % DEPTH;  // what the last step used
                copies_wait<DEPTH - 2>();
                __syncthreads();
                if (i + d + DEPTH - 1 < steps) stage_step(a, xs + free * 8 * NT * ROW, first + i + d + DEPTH - 1);
                fetch(free, i + d + DEPTH - 1);
                copies_commit();
                const u16* mine = xs + (d * 8 * NT + g) * ROW;
#pragma unroll
                for (int q = 0; q < UNITS_PER_STEP; ++q) {
#pragma unroll
                    for (int r = 0; r < R; ++r)
#pragma unroll
                        for (int c = 0; c < NC; ++c)
                            ring[d][q][r].code[c] = codes[d * warps * slot + ((q * R + r) * NC + c) * 32];
                    consume<R, NT>(acc, ring[d][q], mine + q * 64, 8 * ROW, t, lane * 4);
                }
            }
        }
    }
    if (a.splits == 1) {
        if (item < items) finish(a, acc, tile, g, t);
        return;
    }
    float4* parts = (float4*)a.partial;
    const long long span = (long long)items * R * NT * 32;
    if (item < items) {
#pragma unroll
        for (int r = 0; r < R; ++r)
#pragma unroll
            for (int n = 0; n < NT; ++n)
                parts[blockIdx.y * span + (((long long)item * R + r) * NT + n) * 32 + lane] =
                    make_float4(acc[r][n][0], acc[r][n][1], acc[r][n][2], acc[r][n][3]);
    }
    __threadfence();
    __syncthreads();
    __shared__ u32 arrived;
    if (threadIdx.x == 0) arrived = atomicAdd(a.counter + blockIdx.x, 1u);
    __syncthreads();
    if (arrived != a.splits - 1) return;
    __threadfence();
    if (threadIdx.x == 0) a.counter[blockIdx.x] = 0;
    if (item >= items) return;
#pragma unroll
    for (int r = 0; r < R; ++r)
#pragma unroll
        for (int n = 0; n < NT; ++n) {
            float4 v = make_float4(0.f, 0.f, 0.f, 0.f);
            for (int s = 0; s < a.splits; ++s) {
                const float4 part = __ldcg(parts + s * span + (((long long)item * R + r) * NT + n) * 32 + lane);
                v.x += part.x, v.y += part.y, v.z += part.z, v.w += part.w;
            }
            acc[r][n][0] = v.x, acc[r][n][1] = v.y, acc[r][n][2] = v.z, acc[r][n][3] = v.w;
        }
    finish(a, acc, tile, g, t);
}
#endif

// ---------------------------------------------------------------- rms: x normalised, a block a row

#ifdef RMS
extern "C" __global__ void __launch_bounds__(256) rms(const Args a) {
    pdl_launch();
    pdl_wait();
    __shared__ float scratch[8];
    const u16* x = (const u16*)a.x + (long long)blockIdx.x * a.K;
    float s = 0.f;
    for (int i = threadIdx.x * 8; i < a.K; i += 2048) s += square_sum(*(const uint4*)(x + i));
    s = warp_sum(s);
    if ((threadIdx.x & 31) == 0) scratch[threadIdx.x >> 5] = s;
    __syncthreads();
    s = 0.f;
    for (int w = 0; w < 8; ++w) s += scratch[w];
    const float rstd = rsqrtf(s / a.K + a.eps);
    for (int i = threadIdx.x * 8; i < a.K; i += 2048)
        *(uint4*)((u16*)a.out + (long long)blockIdx.x * a.K + i) =
            normalised(*(const uint4*)(x + i), *(const uint4*)((const u16*)a.norm + i), rstd);
}
#endif

// ---------------------------------------------------------------- dequantise: the weight in 16 bits

#ifdef DEQUANTIZE
static __device__ __forceinline__ float low(u32 v) { return to_float(v & 0xffff); }
static __device__ __forceinline__ float high(u32 v) { return to_float(v >> 16); }

// The number as the format defines it, from its exact code: rounded to float16 first where the format says so.
static __device__ __forceinline__ u32 valued(float code, float s, float m) {
    float v = code * s - m;
#if FMT == AWQ
    v = half_to_float(half_from(v));
#endif
    return from_float(v);
}

// A warp a unit. Every lane writes runs of 8 (Q6_K: 4) neighbouring inputs of its two rows.
extern "C" __global__ void __launch_bounds__(256) dequantize(const Args a) {
    const int lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3;
    const int units = a.K / (64 * CHUNKS);
#if FMT == NF4
    __shared__ float book[16 * 32];  // a column a lane
    for (int i = threadIdx.x; i < 512; i += 256) book[i] = ((const float*)a.high)[i >> 5];
    __syncthreads();
#endif
    const long long all = (long long)a.tiles * units;
    for (long long at = (long long)blockIdx.x * 8 + (threadIdx.x >> 5); at < all; at += (long long)gridDim.x * 8) {
        const int tile = at / units, unit = at % units;
        Unit u;
        load_unit(u, a, tile, units, unit, lane);
#pragma unroll
        for (int c = 0; c < CHUNKS; ++c) {
#pragma unroll
            for (int h = 0; h < 2; ++h) {
                u32 zero[2] = {0, 0};
#if FMT == AWQ
                const u32 zz = GROUP == 32 ? u.z >> (8 * h) : u.z;
                zero[0] = (zz & 15) * 0x00010001u;
                zero[1] = (zz >> 4 & 15) * 0x00010001u;
#endif
                u32 o[2][4];  // rows g and g + 8
#pragma unroll
                for (int jj = 0; jj < 2; ++jj) {
                    float s[2], m[2] = {0.f, 0.f};
                    const u32 sub = h ? u.s.y : u.s.x;
#pragma unroll
                    for (int r = 0; r < 2; ++r) {
#if FMT == INT8
                        s[r] = ((const float*)a.scales)[tile * 16 + g + 8 * r];
#elif FMT == Q4_K
                        s[r] = half_to_float(u.d.x >> (16 * r)) * (float)(sub >> (16 * r) & 255);
                        m[r] = half_to_float(u.d.y >> (16 * r)) * (float)(sub >> (16 * r + 8) & 255);
#elif FMT == Q6_K
                        s[r] = half_to_float(u.d.x >> (16 * r)) * signed_byte(sub, 2 * jj + r);
#elif GROUP == 32
                        s[r] = half_to_float(sub >> (16 * r));
#else
                        s[r] = half_to_float(u.s.x >> (16 * r)) * (FMT == NF4 ? a.scale : 1.f);
#endif
                    }
#if FMT == NF4
                    u32 w = word_of(u.code[c], 2 * h + jj);
                    w = __funnelshift_r(w, w, 7);
#pragma unroll
                    for (int p = 0; p < 4; ++p) {
                        const float v0 = book[(w >> (8 * p) & 15) * 32 + lane], v1 = book[(w >> (8 * p + 4) & 15) * 32 + lane];
                        o[p & 1][jj * 2 + (p >> 1)] = valued(v0, s[p & 1], 0.f) | valued(v1, s[p & 1], 0.f) << 16;
                    }
#else
                    u32 A[4];
                    fragment(A, u, c, 2 * h + jj, zero, 0);
#pragma unroll
                    for (int p = 0; p < 4; ++p)
                        o[p & 1][jj * 2 + (p >> 1)] =
                            valued(low(A[p]), s[p & 1], m[p & 1]) | valued(high(A[p]), s[p & 1], m[p & 1]) << 16;
#endif
                }
#pragma unroll
                for (int r = 0; r < 2; ++r) {
                    const int row = tile * 16 + g + 8 * r;
                    if (row >= a.N) continue;
                    u16* to = (u16*)a.out + (long long)row * a.K + (unit * CHUNKS + c) * 64 + h * 32;
#if FMT == Q6_K
                    *(uint2*)(to + 4 * t) = make_uint2(o[r][0], o[r][1]);
                    *(uint2*)(to + 16 + 4 * t) = make_uint2(o[r][2], o[r][3]);
#else
                    *(uint4*)(to + 8 * t) = make_uint4(o[r][0], o[r][1], o[r][2], o[r][3]);
#endif
                }
            }
        }
    }
}
#endif
