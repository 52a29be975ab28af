/* timing.h - what the GPU's benchmarks share: noise on the device, and the time of some work there. */
#ifndef ASSAY_TESTS_GPU_TIMING_H
#define ASSAY_TESTS_GPU_TIMING_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cuda/gpu.h"
#include "schema/log.h"

#define TIMED_TURNS 7

static void die_on(int rc, const struct err *e)
{
    if (rc != 0)
        die(1, "event=failed error=\"%s\"", e->msg);
}

static size_t tensor_bytes(struct tensor t)
{
    return (size_t)(t.rows * t.stride * dtype_bytes(t.dtype));
}

/* Numbers from -size to size (bytes that are no F8 NaN), so that a device draws the power that real
 * numbers cost. */
static void fill_noise(struct device *d, struct tensor t, float size)
{
    size_t bytes = tensor_bytes(t), part = bytes < 1u << 20 ? bytes : 1u << 20;
    size_t element = (size_t)dtype_bytes(t.dtype);
    uint8_t *host = xcalloc(1, part);
    uint32_t state = 7;
    for (size_t at = 0; at + element <= part; at += element) {
        state = state * 1664525u + 1013904223u;
        float x = (float)(int32_t)state * 0x1p-31f * size;
        if (element == 1)
            host[at] = (uint8_t)(state >> 24 & 0xbf);
        else
            dtype_convert(host + at, t.dtype, &x, DTYPE_F32, 1);
    }
    for (size_t at = 0; at < bytes; at += part)
        gpu_upload(d, (char *)t.data + at, host, bytes - at < part ? bytes - at : part);
    free(host);
}

/* Device memory of its own, with noise; never freed. */
static struct tensor noise_tensor(
    struct device *d, enum dtype type, int64_t rows, int64_t cols, float size)
{
    struct tensor t = tensor_of(NULL, type, rows, cols, (cols + 15) / 16 * 16);
    GPU_MUST(cudaMalloc(&t.data, tensor_bytes(t)));
    fill_noise(d, t, size);
    if (dtype_bytes(type) > 1)
        return t;
    struct tensor scale = tensor_of(NULL, DTYPE_F32, 1, rows, rows);
    GPU_MUST(cudaMalloc(&scale.data, tensor_bytes(scale)));
    fill_noise(d, scale, 1);
    t.scale = scale.data;
    return t;
}

/* Milliseconds of run(arg) on the compute stream: the best of some turns, after one to warm up. */
static float time_of(struct device *d, void (*run)(struct device *d, void *arg), void *arg)
{
    cudaEvent_t start, end;
    float best = 1e30f;
    GPU_MUST(cudaEventCreateWithFlags(&start, cudaEventDefault));
    GPU_MUST(cudaEventCreateWithFlags(&end, cudaEventDefault));
    for (int turn = 0; turn <= TIMED_TURNS; turn++) {
        float ms = 0;
        GPU_MUST(cudaEventRecord(start, d->compute));
        run(d, arg);
        GPU_MUST(cudaEventRecord(end, d->compute));
        GPU_MUST(cudaEventSynchronize(end));
        GPU_MUST(cudaEventElapsedTime(&ms, start, end));
        best = turn > 0 && ms < best ? ms : best;
    }
    GPU_MUST(cudaEventDestroy(start));
    GPU_MUST(cudaEventDestroy(end));
    return best;
}

#endif
