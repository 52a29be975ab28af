/* stream.c - driver calls that must succeed, the compute stream, numbers as the host
 * sees them, and noise for trying products
 * (gpu.h). */
#include "cuda/gpu.h"

#include <math.h>

#include "schema/log.h"

#define NOISE_BYTES ((size_t)16 << 20)

void gpu_must(cudaError_t rc, const char *call)
{
    if (rc != cudaSuccess)
        die(GPU_EXIT_ERROR, "event=gpu_error error=%s call=%.100s text=%s", cudaGetErrorName(rc),
            call, cudaGetErrorString(rc));
}

int gpu_try(cudaError_t rc, const char *call, struct err *e)
{
    if (rc == cudaSuccess)
        return 0;
    int code = rc == cudaErrorMemoryAllocation ? ASSAY_ENOMEM : ASSAY_EUNSUPPORTED;
    return err_set(
        e, code, "GPU: %s (%s, from %.100s)", cudaGetErrorString(rc), cudaGetErrorName(rc), call);
}

cudaStream_t gpu_stream(struct device *d)
{
    if (d->copies_pending) {
        GPU_MUST(cudaEventRecord(d->copied, d->copy));
        GPU_MUST(cudaStreamWaitEvent(d->compute, d->copied, 0));
        d->copies_pending = 0;
    }
    return d->compute;
}

static float e4m3_value(uint8_t bits)
{
    int exponent = bits >> 3 & 15, mantissa = bits & 7;
    float x =
        exponent > 0 ? ldexpf((float)(8 + mantissa), exponent - 10) : ldexpf((float)mantissa, -9);
    return (bits & 0x7f) == 0x7f ? NAN : bits & 0x80 ? -x : x;
}

float gpu_element(const void *data, enum dtype type, int64_t i)
{
    float x;
    if (type == DTYPE_F8)
        return e4m3_value(((const uint8_t *)data)[i]);
    if (type == DTYPE_I8)
        return ((const int8_t *)data)[i];
    dtype_convert(&x, DTYPE_F32, (const char *)data + i * dtype_bytes(type), type, 1);
    return x;
}

/* Makes one piece of noise, in pinned memory of its own: the lanes may hold a batch's inputs. */
cudaError_t gpu_fill_noise(struct device *d, void *to, size_t bytes, enum dtype type, float size)
{
    size_t piece = bytes < NOISE_BYTES ? bytes : NOISE_BYTES, one = (size_t)dtype_bytes(type);
    uint32_t state = 1;
    uint8_t *noise = NULL;
    cudaError_t rc = cudaHostAlloc((void **)&noise, piece, cudaHostAllocDefault);
    for (size_t at = 0; rc == cudaSuccess && at + one <= piece; at += one) {
        state = state * 1664525u + 1013904223u;
        float x = (float)(int32_t)state * 0x1p-31f * size;
        if (one == 1)
            noise[at] = (uint8_t)(state >> 24 & 0xbf);
        else
            dtype_convert(noise + at, type, &x, DTYPE_F32, 1);
    }
    for (size_t at = 0; rc == cudaSuccess && at < bytes; at += piece)
        rc = cudaMemcpyAsync((char *)to + at, noise, bytes - at < piece ? bytes - at : piece,
            cudaMemcpyHostToDevice, d->compute);
    if (rc == cudaSuccess)
        rc = cudaStreamSynchronize(d->compute);
    cudaFreeHost(noise);
    return rc;
}
