/* tensors.h - tensors for the kernels' tests: memory of exactly the size that a kernel may touch,
 * so that AddressSanitizer sees any access beyond; what lies between rows is NaN and must stay.
 *
 * The same tests run on a device (make gpu-check). Memory is the host's then too, pinned so that
 * kernels reach it, and CUDA_LAUNCH_BLOCKING=1 makes a launch end before it returns. */
#ifndef ASSAY_TESTS_TENSORS_H
#define ASSAY_TESTS_TENSORS_H

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <vector>

#include "cuda/simt.h"

#ifdef ASSAY_SIMT_BENCH
inline void *test_memory(size_t bytes)
{
    void *at;
    return posix_memalign(&at, 16, bytes ? bytes : 1) == 0 ? at : nullptr;
}
inline void test_memory_free(void *at)
{
    free(at);
}
#else
inline void *test_memory(size_t bytes)
{
    void *at;
    return cudaHostAlloc(&at, bytes ? bytes : 1, cudaHostAllocDefault) == cudaSuccess ? at
                                                                                      : nullptr;
}
inline void test_memory_free(void *at)
{
    cudaFreeHost(at);
}
inline void simt_set_seed(uint64_t)
{
    /* a device has its own order */
}
#endif

/* Numbers for a kernel to read or write. */
template <typename T> struct test_array {
    T *data;

    test_array(const std::vector<T> &from)
        : data(static_cast<T *>(test_memory(from.size() * sizeof(T))))
    {
        if (!data)
            abort();
        if (!from.empty())
            memcpy(data, from.data(), from.size() * sizeof(T));
    }
    test_array(const test_array &) = delete;
    test_array &operator=(const test_array &) = delete;
    ~test_array()
    {
        test_memory_free(data);
    }
};

struct random_numbers {
    uint64_t state;

    double next() /* -1 .. 1 */
    {
        state = state * 6364136223846793005u + 1442695040888963407u;
        return static_cast<double>(state >> 11) * 0x1p-52 - 1;
    }
};

/* Element i of memory of a type, as a double. */
inline double element_at(const void *data, enum dtype t, int64_t i)
{
    switch (t) {
    case DTYPE_F32:
        return static_cast<double>(static_cast<const float *>(data)[i]);
    case DTYPE_F16:
        return static_cast<double>(to_float(static_cast<const f16_t *>(data)[i]));
    case DTYPE_BF16:
        return static_cast<double>(to_float(static_cast<const bf16_t *>(data)[i]));
    case DTYPE_F8:
        return static_cast<double>(to_float(static_cast<const f8_t *>(data)[i]));
    default:
        return static_cast<double>(static_cast<const i8_t *>(data)[i]);
    }
}

inline void set_element(void *data, enum dtype t, int64_t i, double x)
{
    float f = static_cast<float>(x);
    switch (t) {
    case DTYPE_F32:
        static_cast<float *>(data)[i] = f;
        break;
    case DTYPE_F16:
        static_cast<f16_t *>(data)[i] = from_float<f16_t>(f);
        break;
    case DTYPE_BF16:
        static_cast<bf16_t *>(data)[i] = from_float<bf16_t>(f);
        break;
    case DTYPE_F8:
        static_cast<f8_t *>(data)[i] = from_float<f8_t>(f);
        break;
    default:
        static_cast<i8_t *>(data)[i] = from_float<i8_t>(f);
    }
}

/* Relative error of one rounding to the type. */
inline double unit_of(enum dtype t)
{
    return t == DTYPE_F32 ? 0x1p-24 : t == DTYPE_F16 ? 0x1p-11 : 0x1p-8;
}

/* A tensor that owns its memory. shift: elements that the first row lies off a multiple of 16
 * bytes; pad: elements between rows. */
struct owned_tensor {
    struct tensor t;
    void *memory;
    int64_t shift, elements;
    test_array<float> scales; /* [rows + 1] */

    owned_tensor(enum dtype dtype, int64_t rows, int64_t cols, int64_t pad = 0, int64_t off = 0)
        : memory(nullptr), shift(off),
          scales(std::vector<float>(static_cast<size_t>(rows) + 1, -1.0f))
    {
        int64_t stride = cols + pad;
        elements = off + (rows > 0 ? (rows - 1) * stride + cols : 0);
        size_t bytes = static_cast<size_t>(elements * dtype_bytes(dtype));
        memory = test_memory(bytes);
        if (!memory)
            abort();
        memset(memory, 0xff, bytes);
        t = tensor_of(
            static_cast<char *>(memory) + off * dtype_bytes(dtype), dtype, rows, cols, stride);
        if (dtype == DTYPE_F8 || dtype == DTYPE_I8)
            t.scale = scales.data;
    }
    owned_tensor(const owned_tensor &) = delete;
    owned_tensor &operator=(const owned_tensor &) = delete;
    ~owned_tensor()
    {
        test_memory_free(memory);
    }

    double at(int64_t row, int64_t col) const
    {
        return element_at(t.data, t.dtype, row * t.stride + col);
    }
    void set(int64_t row, int64_t col, double x)
    {
        set_element(t.data, t.dtype, row * t.stride + col, x);
    }
    void fill(random_numbers &r, double scale = 1)
    {
        for (int64_t i = 0; i < t.rows; i++)
            for (int64_t j = 0; j < t.cols; j++)
                set(i, j, r.next() * scale);
    }
    void copy(const owned_tensor &from)
    {
        for (int64_t i = 0; i < t.rows; i++)
            for (int64_t j = 0; j < t.cols; j++)
                set(i, j, from.at(i, j));
    }
    /* What is not the tensor's has kept its pattern. */
    bool rest_untouched() const
    {
        const unsigned char *bytes = static_cast<const unsigned char *>(memory);
        int64_t size = dtype_bytes(t.dtype);
        for (int64_t i = 0; i < elements; i++) {
            if (i >= shift && (i - shift) % t.stride < t.cols)
                continue;
            for (int64_t k = 0; k < size; k++)
                if (bytes[i * size + k] != 0xff)
                    return false;
        }
        return true;
    }
};

inline bool same_bits(const owned_tensor &a, const owned_tensor &b)
{
    for (int64_t i = 0; i < a.t.rows; i++)
        if (memcmp(static_cast<char *>(a.t.data) + i * a.t.stride * dtype_bytes(a.t.dtype),
                static_cast<char *>(b.t.data) + i * b.t.stride * dtype_bytes(b.t.dtype),
                static_cast<size_t>(a.t.cols * dtype_bytes(a.t.dtype))) != 0)
            return false;
    return true;
}

#endif
