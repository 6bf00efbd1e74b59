// CUDA's words as C++, enough to run packed.cu on a CPU: the threads of a block are fibres that take turns, a barrier is
// where they wait for one another, and a warp's collective operations exchange their operands through memory.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

#include <vector>

typedef unsigned int u32;
typedef unsigned short u16;
typedef unsigned char u8;
typedef unsigned long long u64;

#define __device__
#define __global__
#define __shared__ static
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(n)
#define CPMV_EMULATED 1
#define __CUDA_ARCH__ 900

struct uint2 { u32 x, y; };
struct alignas(16) uint4 { u32 x, y, z, w; };
struct float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
struct dim3 { unsigned x, y, z; };
static uint4 make_uint4(u32 x, u32 y, u32 z, u32 w) { return {x, y, z, w}; }
static uint2 make_uint2(u32 x, u32 y) { return {x, y}; }
static float2 make_float2(float x, float y) { return {x, y}; }
static float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
static int min(int a, int b) { return a < b ? a : b; }
static float rsqrtf(float x) { return 1.f / sqrtf(x); }
#define __expf expf

// ---------------------------------------------------------------- fibres

struct Barrier { int arrived = 0, generation = 0; };
struct Fibre { ucontext_t context; dim3 index; bool done; char* stack; };
static std::vector<Fibre> fibres;
static std::vector<Barrier> warp_barriers;
static Barrier block_barrier;
static ucontext_t scheduler;
static int now;
static dim3 gridDim, blockIdx, blockDim;
#define threadIdx (fibres[now].index)
alignas(128) char shared_memory[256 << 10];

static void give_turn() { swapcontext(&fibres[now].context, &scheduler); }
static void wait_at(Barrier& barrier, int count) {
    const int generation = barrier.generation;
    if (++barrier.arrived == count) {
        barrier.arrived = 0;
        ++barrier.generation;
    } else {
        long turns = 0;
        while (barrier.generation == generation) {
            if (++turns > 10000000) { fprintf(stderr, "threads wait for one that never comes\n"); abort(); }
            give_turn();
        }
    }
}
static void __syncthreads() { wait_at(block_barrier, blockDim.x); }
static void __threadfence() {}
static u32 atomicAdd(u32* at, u32 value) { const u32 old = *at; *at += value; return old; }
template <class T> static T __ldcg(const T* at) { return *at; }
static void sync_warp() { wait_at(warp_barriers[threadIdx.x / 32], 32); }

static float exchanged[64][32];
static float __shfl_xor_sync(u32, float value, int lanes) {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    exchanged[warp][lane] = value;
    sync_warp();
    const float got = exchanged[warp][lane ^ lanes];
    sync_warp();
    return got;
}
static u32 __funnelshift_l(u32 low, u32 high, int by) { return by ? high << by | low >> (32 - by) : high; }
static u32 __funnelshift_r(u32 low, u32 high, int by) { return by ? low >> by | high << (32 - by) : low; }

// ---------------------------------------------------------------- the small pieces of packed.cu

static void pdl_wait() {}
static void pdl_launch() {}
static void ask_l2(const char*, u32) {}
static uint4 stream16(const uint4* p) { return *p; }
static uint2 stream8(const void* p) { return *(const uint2*)p; }
static u32 stream4(const void* p) { return *(const u32*)p; }
static u32 stream2(const void* p) { return *(const u16*)p; }
static u32 stream1(const void* p) { return *(const u8*)p; }
static void copy16(void* to, const void* from) { memcpy(to, from, 16); }
static void copies_commit() {}
template <int LEFT> static void copies_wait() {}

static float half_to_float(u32 bits) {
    const u16 low = (u16)bits;
    _Float16 h;
    memcpy(&h, &low, 2);
    return (float)h;
}
static u16 half_from(float f) {
    const _Float16 h = (_Float16)f;
    u16 bits;
    memcpy(&bits, &h, 2);
    return bits;
}
#if BF16
#define ONE 0x3F803F80u
static float to_float(u32 bits) {
    const u32 wide = bits << 16;
    float f;
    memcpy(&f, &wide, 4);
    return f;
}
static u32 from_float(float f) {
    u32 b;
    memcpy(&b, &f, 4);
    return (b + 0x7fffu + ((b >> 16) & 1)) >> 16;
}
#else
#define ONE 0x3C003C00u
static float to_float(u32 bits) { return half_to_float(bits); }
static u32 from_float(float f) { return half_from(f); }
#endif
static u32 fma2(u32 a, u32 b, u32 c) {
    const float low = to_float(a & 0xffff) * to_float(b & 0xffff) + to_float(c & 0xffff);
    const float high = to_float(a >> 16) * to_float(b >> 16) + to_float(c >> 16);
    return from_float(low) | from_float(high) << 16;
}
static u32 and_or(u32 word, u32 mask, u32 set) { return (word & mask) | set; }
static u32 and_xor(u32 word, u32 mask, u32 flip) { return (word & mask) ^ flip; }

static u32 operand_a[64][32][4], operand_b[64][32][2];
static float element(u32 word, int high) { return to_float(high ? word >> 16 : word & 0xffff); }
static void mma(float* c, const u32* a, u32 b0, u32 b1) {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    for (int i = 0; i < 4; ++i) operand_a[warp][lane][i] = a[i];
    operand_b[warp][lane][0] = b0;
    operand_b[warp][lane][1] = b1;
    sync_warp();
    for (int i = 0; i < 4; ++i) {
        const int row = g + i / 2 * 8, column = 2 * t + i % 2;
        float sum = 0.f;
        for (int k = 0; k < 16; ++k)
            sum += element(operand_a[warp][row % 8 * 4 + k % 8 / 2][row / 8 + k / 8 * 2], k % 2) *
                   element(operand_b[warp][column * 4 + k % 8 / 2][k / 8], k % 2);
        c[i] += sum;
    }
    sync_warp();
}
