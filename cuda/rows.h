/* rows.h - shared by the kernels over rows: rows as groups of eight elements, sums and maxima over
 * a block in a fixed order, choice of a kernel by type.
 *
 * Thread t of a row's block takes the groups t, t + threads, t + 2 threads, .. in order, and the
 * elements of a group in order. Then the lanes of a warp are summed in a butterfly, then the warps
 * in order. The block's size depends on the number of columns alone, so a sum's order does too.
 * Whether a group is moved by 16-byte accesses or one by one changes no value. */
#ifndef ASSAY_CUDA_ROWS_H
#define ASSAY_CUDA_ROWS_H

#include "cuda/simt.h"

#define GROUP 8
#define MAX_BLOCK 1024

/* A tensor's rows, as a kernel sees them. */
template <typename T> struct rows_of {
    T *data;
    int64_t stride;
    bool vectors; /* every row begins at a multiple of 16 bytes */

    SIMT_DEVICE T *row(int64_t i) const
    {
        return data + i * stride;
    }
};

template <typename T> static rows_of<T> rows_view(struct tensor t)
{
    uintptr_t at = reinterpret_cast<uintptr_t>(t.data);
    uintptr_t step = static_cast<uintptr_t>(t.stride) * sizeof(T);
    uintptr_t unit = sizeof(T) == 1 ? 8 : 16;
    return {static_cast<T *>(t.data), t.stride, at % unit == 0 && (t.rows < 2 || step % unit == 0)};
}

static inline unsigned block_for(int64_t cols)
{
    int64_t groups = (cols + GROUP - 1) / GROUP, warps = (groups + 31) / 32;
    return static_cast<unsigned>(warps * 32 < MAX_BLOCK ? warps * 32 : MAX_BLOCK);
}

/* Calls f with a value of the type, for float types; refuses the launch for others. */
template <typename F> static cudaError_t with_float_type(enum dtype t, F f)
{
    switch (t) {
    case DTYPE_F32:
        return f(f32_t{});
    case DTYPE_F16:
        return f(f16_t{});
    case DTYPE_BF16:
        return f(bf16_t{});
    default:
        return cudaErrorInvalidValue;
    }
}

template <typename F> static cudaError_t with_any_type(enum dtype t, F f)
{
    switch (t) {
    case DTYPE_F8:
        return f(f8_t{});
    case DTYPE_I8:
        return f(i8_t{});
    default:
        return with_float_type(t, f);
    }
}

/* ---- groups of eight ---- */

template <typename T> SIMT_DEVICE void unpack_16(float *v, simt_vec16 packed);

template <> SIMT_DEVICE void unpack_16<f32_t>(float *v, simt_vec16 packed)
{
    for (int i = 0; i < 4; i++)
        v[i] = float_from_bits(packed.w[i]);
}

template <> SIMT_DEVICE void unpack_16<bf16_t>(float *v, simt_vec16 packed)
{
    for (int i = 0; i < 8; i++)
        v[i] = to_float(bf16_t{static_cast<uint16_t>(packed.w[i / 2] >> i % 2 * 16)});
}

template <> SIMT_DEVICE void unpack_16<f16_t>(float *v, simt_vec16 packed)
{
    for (int i = 0; i < 8; i++)
        v[i] = to_float(f16_t{static_cast<uint16_t>(packed.w[i / 2] >> i % 2 * 16)});
}

/* Loads eight elements from p on, with zeros from the n-th. vectors: p is 16-byte aligned. */
template <typename T>
SIMT_DEVICE void load_group(float v[GROUP], const T *p, int64_t n, bool vectors)
{
    const int per_access = 16 / sizeof(T);
    if (vectors && n >= GROUP) {
#pragma unroll
        for (int i = 0; i < GROUP; i += per_access)
            unpack_16<T>(v + i, load_16(p + i));
        return;
    }
#pragma unroll
    for (int i = 0; i < GROUP; i++)
        v[i] = i < n ? to_float(p[i]) : 0.0f;
}

template <typename T> SIMT_DEVICE void store_packed(T *p, const float v[GROUP])
{
    simt_vec16 packed = {{pack_pair<T>(v[0], v[1]), pack_pair<T>(v[2], v[3]),
        pack_pair<T>(v[4], v[5]), pack_pair<T>(v[6], v[7])}};
    store_16(p, packed);
}

template <> SIMT_DEVICE void store_packed<f32_t>(f32_t *p, const float v[GROUP])
{
#pragma unroll
    for (int i = 0; i < GROUP; i += 4)
        store_16(p + i,
            {{float_bits(v[i]), float_bits(v[i + 1]), float_bits(v[i + 2]), float_bits(v[i + 3])}});
}

template <typename T> SIMT_DEVICE void store_bytes(T *p, const float v[GROUP])
{
    uint64_t packed = 0;
#pragma unroll
    for (int i = 0; i < GROUP; i++) {
        T x = from_float<T>(v[i]);
        uint8_t byte;
        memcpy(&byte, &x, 1);
        packed |= static_cast<uint64_t>(byte) << 8 * i;
    }
    *reinterpret_cast<uint64_t *>(p) = packed;
}

template <> SIMT_DEVICE void store_packed<f8_t>(f8_t *p, const float v[GROUP])
{
    store_bytes(p, v);
}

template <> SIMT_DEVICE void store_packed<i8_t>(i8_t *p, const float v[GROUP])
{
    store_bytes(p, v);
}

/* Stores the first n of eight elements at p. vectors: p is 16-byte aligned (8 for one-byte
 * types). */
template <typename T>
SIMT_DEVICE void store_group(T *p, const float v[GROUP], int64_t n, bool vectors)
{
    if (vectors && n >= GROUP) {
        store_packed(p, v);
        return;
    }
#pragma unroll
    for (int i = 0; i < GROUP; i++)
        if (i < n)
            p[i] = from_float<T>(v[i]);
}

/* ---- over the block ---- */

struct add_values {
    SIMT_DEVICE static float of(float a, float b)
    {
        return a + b;
    }
};

/* NaN wins. */
struct larger_value {
    SIMT_DEVICE static float of(float a, float b)
    {
        return a > b || a != a ? a : b;
    }
};

template <typename How> SIMT_DEVICE float over_warp(float v)
{
#pragma unroll
    for (int mask = 16; mask > 0; mask /= 2)
        v = How::of(v, shfl_xor(v, mask));
    return v;
}

/* Reduces over a one-dimensional block of whole warps; all threads get the result. scratch: 32
 * floats of shared memory. */
template <typename How> SIMT_DEVICE float over_block(float v, float *scratch)
{
    v = over_warp<How>(v);
    __syncthreads(); /* earlier uses of scratch are done */
    if (threadIdx.x % 32 == 0)
        scratch[threadIdx.x / 32] = v;
    __syncthreads();
    v = scratch[0];
    for (unsigned warp = 1; warp < blockDim.x / 32; warp++)
        v = How::of(v, scratch[warp]);
    return v;
}

/* ---- scales of quantized rows ---- */

template <typename T> struct is_quantized {
    static constexpr bool value = false;
    static constexpr float largest = 1;
};
template <> struct is_quantized<f8_t> {
    static constexpr bool value = true;
    static constexpr float largest = 448;
};
template <> struct is_quantized<i8_t> {
    static constexpr bool value = true;
    static constexpr float largest = 127;
};

/* The scale of a row whose largest magnitude is `largest`. */
template <typename T> SIMT_DEVICE float scale_for(float largest)
{
    return largest == 0 ? 1.0f : div_rn(largest, is_quantized<T>::largest);
}

SIMT_DEVICE float largest_magnitude(const float v[GROUP], float so_far)
{
#pragma unroll
    for (int i = 0; i < GROUP; i++)
        so_far = larger_value::of(fabsf(v[i]), so_far);
    return so_far;
}

SIMT_DEVICE void divide_group(float v[GROUP], float by)
{
#pragma unroll
    for (int i = 0; i < GROUP; i++)
        v[i] = div_rn(v[i], by);
}

#endif
