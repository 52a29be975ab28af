/* simt.h - the only header of intrinsics; every .cu file includes it. Under nvcc it maps to CUDA
 * and PTX. If ASSAY_SIMT_BENCH is defined, it maps to the header named there: the test bench, which
 * runs the same kernels on the CPU. Kernels use nothing else of the device.
 *
 * Both provide:
 *     threadIdx, blockIdx, blockDim, gridDim, __syncthreads(), __syncwarp()
 *     SIMT_SHARED(type, name)     the block's dynamic shared memory; one per kernel, no other kind
 *     SIMT_LAUNCH(stream, kernel, grid, block, shared_bytes, arguments...) -> cudaError_t
 *     bf16_t, f16_t, f8_t (e4m3), to_float, from_float<T>, pack_pair<T>
 *     load_16, store_16, cp_async_16, cp_async_commit, cp_async_wait<N>
 *     shfl_xor, shfl, vote_mask, any_lane, all_lanes              (the whole warp takes part)
 *     ldmatrix_x4, ldmatrix_x4_trans, mma_16816<T>             (PTX ISA, "mma.sync" fragments)
 *     fma_rn, div_rn, sqrt_rn, rsqrt_precise, exp_precise, exp2_approx
 *
 * Kernels are compiled with -fmad=false: a multiply and an add are fused only where fma_rn says so,
 * so that both ways of running them agree and a row's bits do not depend on how a loop was
 * unrolled. */
#ifndef ASSAY_CUDA_SIMT_H
#define ASSAY_CUDA_SIMT_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "cuda/kernels.h"

typedef float f32_t;
typedef int8_t i8_t;
struct bf16_t {
    uint16_t bits;
};
struct f16_t {
    uint16_t bits;
};
struct f8_t { /* e4m3: sign, 4 bits of exponent with bias 7, 3 of mantissa; no infinity */
    uint8_t bits;
};
struct alignas(16) simt_vec16 {
    uint32_t w[4];
};

/* For tests on a device, which convert on the host too. */
#ifdef ASSAY_SIMT_BENCH
#define SIMT_BOTH inline
#else
#define SIMT_BOTH __host__ __device__ __forceinline__
#endif

SIMT_BOTH uint32_t float_bits(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

SIMT_BOTH float float_from_bits(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

#ifdef ASSAY_SIMT_BENCH
#include ASSAY_SIMT_BENCH
#else

#define SIMT_DEVICE __device__ __forceinline__
#define WHOLE_WARP 0xffffffffu

#define SIMT_SHARED(type, name)                                                                    \
    extern __shared__ __align__(16) unsigned char simt_shared_memory[];                            \
    type *name = reinterpret_cast<type *>(simt_shared_memory)

/* A kernel must request more than 48 KiB of shared memory explicitly. What the launch itself
 * returns counts: the thread's last error may be another call's. */
template <typename... Parameters, typename... Arguments>
static cudaError_t simt_launch(void (*kernel)(Parameters...), cudaStream_t stream, dim3 grid,
    dim3 block, size_t shared_bytes, Arguments... arguments)
{
    if (shared_bytes > 48 * 1024) {
        cudaError_t rc = cudaFuncSetAttribute(reinterpret_cast<const void *>(kernel),
            cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes));
        if (rc != cudaSuccess)
            return rc;
    }
    cudaLaunchConfig_t config = {};
    config.gridDim = grid;
    config.blockDim = block;
    config.dynamicSmemBytes = shared_bytes;
    config.stream = stream;
    return cudaLaunchKernelEx(&config, kernel, arguments...);
}
#define SIMT_LAUNCH(stream, kernel, grid, block, shared_bytes, ...)                                \
    simt_launch(kernel, stream, grid, block, shared_bytes, __VA_ARGS__)

/* ---- memory ---- */

SIMT_DEVICE simt_vec16 load_16(const void *from)
{
    uint4 v = *static_cast<const uint4 *>(from);
    return {{v.x, v.y, v.z, v.w}};
}

SIMT_DEVICE void store_16(void *to, simt_vec16 v)
{
    *static_cast<uint4 *>(to) = make_uint4(v.w[0], v.w[1], v.w[2], v.w[3]);
}

SIMT_DEVICE uint32_t shared_address(const void *p)
{
    return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

/* Copies 16 bytes from global to shared memory, asynchronously; if not valid, reads nothing and
 * stores zeros. */
SIMT_DEVICE void cp_async_16(void *shared, const void *global, bool valid)
{
    int bytes = valid ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)),
                 "l"(global), "r"(bytes)
                 : "memory");
}

SIMT_DEVICE void cp_async_commit()
{
    asm volatile("cp.async.commit_group;" ::: "memory");
}

/* Waits until at most N of this thread's groups are in flight. For other threads' copies a barrier
 * is needed too. */
template <int N> SIMT_DEVICE void cp_async_wait()
{
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

/* ---- the warp ---- */

template <typename T> SIMT_DEVICE T shfl_xor(T v, int lane_mask)
{
    return __shfl_xor_sync(WHOLE_WARP, v, lane_mask);
}

template <typename T> SIMT_DEVICE T shfl(T v, int lane)
{
    return __shfl_sync(WHOLE_WARP, v, lane);
}

SIMT_DEVICE uint32_t vote_mask(bool p)
{
    return __ballot_sync(WHOLE_WARP, p);
}

SIMT_DEVICE bool any_lane(bool p)
{
    return __any_sync(WHOLE_WARP, p);
}

SIMT_DEVICE bool all_lanes(bool p)
{
    return __all_sync(WHOLE_WARP, p);
}

/* ---- arithmetic, rounded to nearest even ---- */

SIMT_DEVICE float fma_rn(float a, float b, float c)
{
    return __fmaf_rn(a, b, c);
}

SIMT_DEVICE float div_rn(float a, float b)
{
    return __fdiv_rn(a, b);
}

SIMT_DEVICE float sqrt_rn(float x)
{
    return __fsqrt_rn(x);
}

SIMT_DEVICE float exp_precise(float x)
{
    return expf(x);
}

SIMT_DEVICE float exp2_approx(float x)
{
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

/* ---- 16-bit floats ---- */

SIMT_BOTH float to_float(f16_t x)
{
    float y;
#ifdef __CUDA_ARCH__
    asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits));
#else
    dtype_convert(&y, DTYPE_F32, &x, DTYPE_F16, 1);
#endif
    return y;
}

SIMT_BOTH uint16_t narrow_f16(float x)
{
    uint16_t y;
#ifdef __CUDA_ARCH__
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y) : "f"(x));
#else
    dtype_convert(&y, DTYPE_F16, &x, DTYPE_F32, 1);
#endif
    return y;
}

SIMT_BOTH uint16_t narrow_bf16(float x)
{
    uint16_t y;
#ifdef __CUDA_ARCH__
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y) : "f"(x));
#else
    dtype_convert(&y, DTYPE_BF16, &x, DTYPE_F32, 1);
#endif
    return y;
}

/* ---- tensor cores ---- */

/* Loads four 8 x 8 matrices of 16-bit elements: lane i gives the address of row i % 8 of matrix i /
 * 8. */
SIMT_DEVICE void ldmatrix_x4(uint32_t r[4], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}

SIMT_DEVICE void ldmatrix_x4_trans(uint32_t r[4], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}

/* d [16, 8] += a [16, 16] * b [16, 8], sums in float32 */
template <typename T>
SIMT_DEVICE void mma_16816(float d[4], const uint32_t a[4], uint32_t b0, uint32_t b1);

template <>
SIMT_DEVICE void mma_16816<bf16_t>(float d[4], const uint32_t a[4], uint32_t b0, uint32_t b1)
{
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

template <>
SIMT_DEVICE void mma_16816<f16_t>(float d[4], const uint32_t a[4], uint32_t b0, uint32_t b1)
{
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

#endif /* nvcc */

/* ---- the same in both ---- */

SIMT_BOTH float to_float(float x)
{
    return x;
}

SIMT_BOTH float to_float(bf16_t x)
{
    return float_from_bits(static_cast<uint32_t>(x.bits) << 16);
}

template <typename T> SIMT_BOTH T from_float(float x);

template <> SIMT_BOTH float from_float<float>(float x)
{
    return x;
}

template <> SIMT_BOTH bf16_t from_float<bf16_t>(float x)
{
    return {narrow_bf16(x)};
}

template <> SIMT_BOTH f16_t from_float<f16_t>(float x)
{
    return {narrow_f16(x)};
}

template <typename T> SIMT_BOTH uint32_t pack_pair(float low, float high)
{
    return static_cast<uint32_t>(from_float<T>(low).bits) |
           static_cast<uint32_t>(from_float<T>(high).bits) << 16;
}

/* Rounds to the nearest integer, halves to even; magnitudes above 127 become 127; NaN becomes 0. */
template <> SIMT_BOTH i8_t from_float<i8_t>(float x)
{
    float kept = x > 127 ? 127 : x < -127 ? -127 : x == x ? x : 0;
    return static_cast<i8_t>(rintf(kept));
}

/* Rounds to the nearest e4m3, halves to even; magnitudes above 448 become 448; NaN stays NaN.
 * Normal values drop 20 bits of mantissa; values below 2^-6 become multiples of 2^-9, by adding
 * 2^14. */
template <> SIMT_BOTH f8_t from_float<f8_t>(float x)
{
    uint32_t bits = float_bits(x), sign = bits >> 24 & 0x80, magnitude = bits & 0x7fffffff;
    if (magnitude > 0x7f800000)
        return {static_cast<uint8_t>(sign | 0x7f)};
    if (magnitude >= 0x43e00000)
        return {static_cast<uint8_t>(sign | 0x7e)};
    if (magnitude < 0x3c800000)
        return {static_cast<uint8_t>(
            sign | (float_bits(float_from_bits(magnitude) + 16384.0f) - 0x46800000))};
    uint32_t rounded = magnitude + 0x7ffff + (magnitude >> 20 & 1);
    return {static_cast<uint8_t>(sign | ((rounded - 0x3c000000) >> 20))};
}

SIMT_BOTH float to_float(i8_t x)
{
    return x;
}

SIMT_BOTH float to_float(f8_t x)
{
    uint32_t sign = static_cast<uint32_t>(x.bits & 0x80) << 24, magnitude = x.bits & 0x7f;
    float subnormal = static_cast<float>(magnitude) * 0.001953125f;
    uint32_t bits = magnitude == 0x7f ? 0x7fc00000
                    : magnitude < 8   ? float_bits(subnormal)
                                      : (magnitude << 20) + 0x3c000000;
    return float_from_bits(bits | sign);
}

SIMT_DEVICE float rsqrt_precise(float x)
{
    return div_rn(1.0f, sqrt_rn(x));
}

/* Moves a counter that the host sees; called by one thread of a block. Several calls at once may
 * count as one. progress may be NULL. */
SIMT_DEVICE void show_progress(uint32_t *progress)
{
    if (progress)
        *static_cast<volatile uint32_t *>(progress) = *progress + 1;
}

#endif
