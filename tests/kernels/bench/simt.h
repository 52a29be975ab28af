/* simt.h - the CPU's side of cuda/simt.h: a kernel's block runs as a group of fibers, one a thread,
 * which switch where threads of a GPU wait for each other: at barriers and at what a warp does
 * together. Included by cuda/simt.h alone; tests include bench.h.
 *
 * Which fiber goes on is drawn from a seed (simt_set_seed), blocks come in an order drawn from it
 * too, and an asynchronous copy is made at some time between its issue and the wait that covers it.
 * So what lacks a barrier or a wait gives other values under another seed. Shared memory has
 * exactly the size that was asked for, begins as garbage (all ones: NaN), and has ends that
 * AddressSanitizer sees. A thread that waits alone, at another place than its warp, or at a barrier
 * that others left out, ends the program with a message that names kernel, block and threads. */
#ifndef ASSAY_BENCH_SIMT_H
#define ASSAY_BENCH_SIMT_H

#include <math.h>
#include <string.h>

#include "tests/kernels/bench/bench.h"
#include "worker/dtype.h"

#define __global__ static
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define SIMT_DEVICE inline
#define WARP_LANES 32

struct simt_index {
    uint32_t x, y, z;
};
/* The running thread, as the kernel sees itself. */
struct simt_self {
    simt_index thread, block;
    dim3 block_dim, grid_dim;
    uint32_t lane;
};
const simt_self &simt_me();
#define threadIdx (simt_me().thread)
#define blockIdx (simt_me().block)
#define blockDim (simt_me().block_dim)
#define gridDim (simt_me().grid_dim)

void *simt_shared(); /* of the running block */
#define SIMT_SHARED(type, name) type *name = static_cast<type *>(simt_shared())

/* ---- waiting for each other ---- */

/* What a warp does together. */
enum simt_meeting { SIMT_SYNCWARP, SIMT_SHUFFLE, SIMT_VOTE, SIMT_LDMATRIX, SIMT_MMA };

struct simt_deposit {
    alignas(8) unsigned char bytes[40];
};

/* Leave `bytes` of *value; when all lanes of the warp did, the last to come calls `all` on the 32
 * deposits, and every lane goes on with them. They stay as they are until the lane's next meeting.
 */
const simt_deposit *simt_meet(
    simt_meeting kind, const void *value, size_t bytes, void (*all)(simt_deposit *) = nullptr);
void simt_barrier();
[[noreturn]] void simt_fault(const char *what); /* by the running thread */

inline void __syncthreads()
{
    simt_barrier();
}

inline void __syncwarp()
{
    simt_meet(SIMT_SYNCWARP, nullptr, 0);
}

template <typename T> inline T simt_value_of(const simt_deposit &d)
{
    T v;
    memcpy(&v, d.bytes, sizeof v);
    return v;
}

template <typename T> inline T shfl(T v, int lane)
{
    return simt_value_of<T>(simt_meet(SIMT_SHUFFLE, &v, sizeof v)[lane & 31]);
}

template <typename T> inline T shfl_xor(T v, int lane_mask)
{
    uint32_t lane = simt_me().lane ^ static_cast<uint32_t>(lane_mask);
    return simt_value_of<T>(simt_meet(SIMT_SHUFFLE, &v, sizeof v)[lane & 31]);
}

inline uint32_t vote_mask(bool p)
{
    uint32_t votes = 0;
    const simt_deposit *all = simt_meet(SIMT_VOTE, &p, sizeof p);
    for (uint32_t lane = 0; lane < WARP_LANES; lane++)
        votes |= static_cast<uint32_t>(simt_value_of<bool>(all[lane])) << lane;
    return votes;
}

inline bool any_lane(bool p)
{
    return vote_mask(p) != 0;
}

inline bool all_lanes(bool p)
{
    return vote_mask(p) == 0xffffffffu;
}

/* ---- memory ---- */

inline void simt_check_aligned(const void *p)
{
    if (reinterpret_cast<uintptr_t>(p) % 16 != 0)
        simt_fault("16 bytes accessed at an address that is no multiple of 16");
}

inline simt_vec16 load_16(const void *from)
{
    simt_vec16 v;
    simt_check_aligned(from);
    memcpy(&v, from, sizeof v);
    return v;
}

inline void store_16(void *to, simt_vec16 v)
{
    simt_check_aligned(to);
    memcpy(to, &v, sizeof v);
}

void cp_async_16(void *shared, const void *global, bool valid);
void cp_async_commit();
void simt_cp_async_wait(unsigned newest);
template <int N> inline void cp_async_wait()
{
    simt_cp_async_wait(N);
}

/* ---- arithmetic ---- */

inline float fma_rn(float a, float b, float c)
{
    return fmaf(a, b, c);
}

inline float div_rn(float a, float b)
{
    return a / b;
}

inline float sqrt_rn(float x)
{
    return sqrtf(x);
}

inline float exp_precise(float x)
{
    return expf(x);
}

inline float exp2_approx(float x)
{
    return exp2f(x);
}

/* Not every C++ has the type: GCC's has from 12 on, for aarch64 from 13 on. */
#if defined(__FLT16_MANT_DIG__) && defined(__x86_64__)
inline float to_float(f16_t x)
{
    _Float16 h;
    memcpy(&h, &x, sizeof h);
    return static_cast<float>(h);
}

inline uint16_t narrow_f16(float x)
{
    _Float16 h = static_cast<_Float16>(x);
    uint16_t bits;
    memcpy(&bits, &h, sizeof bits);
    return bits;
}
#else
inline float to_float(f16_t x)
{
    float f;
    dtype_convert(&f, DTYPE_F32, &x, DTYPE_F16, 1);
    return f;
}

inline uint16_t narrow_f16(float x)
{
    uint16_t bits;
    dtype_convert(&bits, DTYPE_F16, &x, DTYPE_F32, 1);
    return bits;
}
#endif

inline uint16_t narrow_bf16(float x)
{
    uint32_t bits = float_bits(x);
    if ((bits & 0x7fffffff) > 0x7f800000)
        return 0x7fff;
    return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

/* ---- tensor cores ---- */

void ldmatrix_x4(uint32_t r[4], const void *row);
void ldmatrix_x4_trans(uint32_t r[4], const void *row);
void simt_mma_16816(
    float d[4], const uint32_t a[4], uint32_t b0, uint32_t b1, void (*all)(simt_deposit *));
void simt_mma_bf16(simt_deposit *all);
void simt_mma_f16(simt_deposit *all);

template <typename T>
inline void mma_16816(float d[4], const uint32_t a[4], uint32_t b0, uint32_t b1);

/* ---- launching ---- */

void simt_run(const char *kernel, dim3 grid, dim3 block, size_t shared_bytes,
    const std::function<void()> &thread);
cudaError_t simt_check_launch(dim3 grid, dim3 block, size_t shared_bytes);

template <typename... Parameters, typename... Arguments>
inline cudaError_t simt_launch(const char *name, void (*kernel)(Parameters...), cudaStream_t stream,
    dim3 grid, dim3 block, size_t shared_bytes, Arguments... arguments)
{
    cudaError_t rc = simt_check_launch(grid, block, shared_bytes);
    if (rc != cudaSuccess)
        return rc;
    return simt_submit(stream, name,
        [=] { simt_run(name, grid, block, shared_bytes, [=] { kernel(arguments...); }); });
}
#define SIMT_LAUNCH(stream, kernel, grid, block, shared_bytes, ...)                                \
    simt_launch(#kernel, kernel, stream, grid, block, shared_bytes, __VA_ARGS__)

template <> inline void mma_16816<bf16_t>(float d[4], const uint32_t a[4], uint32_t b0, uint32_t b1)
{
    simt_mma_16816(d, a, b0, b1, simt_mma_bf16);
}

template <> inline void mma_16816<f16_t>(float d[4], const uint32_t a[4], uint32_t b0, uint32_t b1)
{
    simt_mma_16816(d, a, b0, b1, simt_mma_f16);
}

#endif
