/* timing.h - what the GPU's benchmarks share: tensors of noise, and the time of some work there. */
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

/* Device memory of its own, with noise; never freed. */
static struct tensor noise_tensor(
    struct device *d, enum dtype type, int64_t rows, int64_t cols, float size)
{
    struct tensor t = tensor_shaped(NULL, type, rows, cols);
    GPU_MUST(cudaMalloc(&t.data, tensor_bytes(t)));
    GPU_MUST(gpu_fill_noise(d, t.data, tensor_bytes(t), type, size));
    if (dtype_bytes(type) > 1)
        return t;
    size_t scales = (size_t)rows * sizeof(float);
    GPU_MUST(cudaMalloc((void **)&t.scale, scales));
    GPU_MUST(gpu_fill_noise(d, t.scale, scales, DTYPE_F32, 1));
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
