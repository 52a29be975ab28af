/* peak.h - the peak that arithmetic is set against: what a device's threads reach on nothing but
 * independent fused multiply-adds on registers, of the width that its kernels have. For one program
 * of tests/bench each. */
#ifndef ASSAY_BENCH_PEAK_H
#define ASSAY_BENCH_PEAK_H

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "schema/alloc.h"
#include "worker/cpu/device.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define PEAK_STEPS 2000000 /* some 4 to 8 ms */

static inline double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* Twelve independent chains: enough to hide the latency. */
#if defined(__x86_64__)
__attribute__((target("avx2,fma"))) static void peak_avx2(void *arg, int64_t task, int thread)
{
    __m256 acc[12], x = _mm256_set1_ps(0.999f), y = _mm256_set1_ps(1e-9f);
    float *sink = arg;
    (void)thread;
    for (int i = 0; i < 12; i++)
        acc[i] = _mm256_set1_ps((float)i);
    for (int64_t k = 0; k < PEAK_STEPS; k++) {
#pragma GCC unroll 12
        for (int i = 0; i < 12; i++)
            acc[i] = _mm256_fmadd_ps(acc[i], x, y);
    }
    for (int i = 1; i < 12; i++)
        acc[0] = _mm256_add_ps(acc[0], acc[i]);
    sink[task] = _mm256_cvtss_f32(acc[0]);
}

__attribute__((target("avx512f"))) static void peak_avx512(void *arg, int64_t task, int thread)
{
    __m512 acc[12], x = _mm512_set1_ps(0.999f), y = _mm512_set1_ps(1e-9f);
    float *sink = arg;
    (void)thread;
    for (int i = 0; i < 12; i++)
        acc[i] = _mm512_set1_ps((float)i);
    for (int64_t k = 0; k < PEAK_STEPS; k++) {
#pragma GCC unroll 12
        for (int i = 0; i < 12; i++)
            acc[i] = _mm512_fmadd_ps(acc[i], x, y);
    }
    for (int i = 1; i < 12; i++)
        acc[0] = _mm512_add_ps(acc[0], acc[i]);
    sink[task] = _mm512_cvtss_f32(acc[0]);
}
#endif

/* Where there is no such instruction for sure: a multiplication and an addition of each chain. */
static inline void peak_portable(void *arg, int64_t task, int thread)
{
    float acc[12], *sink = arg;
    (void)thread;
    for (int i = 0; i < 12; i++)
        acc[i] = (float)i;
    for (int64_t k = 0; k < PEAK_STEPS; k++) {
#pragma GCC unroll 12
        for (int i = 0; i < 12; i++)
            acc[i] = acc[i] * 0.999f + 1e-9f;
    }
    for (int i = 1; i < 12; i++)
        acc[0] += acc[i];
    sink[task] = acc[0];
}

struct peak {
    thread_pool_task *task;
    int lanes;
};

static inline struct peak peak_of(const struct cpu_kernels *kernels)
{
#if defined(__x86_64__)
    if (strncmp(kernels->isa, "avx512", 6) == 0)
        return (struct peak){peak_avx512, 16};
    if (strncmp(kernels->isa, "avx2", 4) == 0)
        return (struct peak){peak_avx2, 8};
#endif
    (void)kernels;
    return (struct peak){peak_portable, 1};
}

/* GFLOP/s of all threads of the device, once. */
static inline double measure_peak(struct device *d)
{
    int n = thread_pool_threads(d->pool);
    float *sink = xcalloc((size_t)n, sizeof *sink);
    struct peak peak = peak_of(d->kernels);
    double start = seconds();
    thread_pool_run(d->pool, peak.task, sink, n);
    double took = seconds() - start;
    free(sink);
    return 2.0 * peak.lanes * 12 * PEAK_STEPS * n / took * 1e-9;
}

#endif
