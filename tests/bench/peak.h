/* peak.h - what the benchmarks of the CPU's arithmetic share: a clock, noise, and the peak rate of
 * fused multiply-adds: what the same threads reach on nothing but independent ones on registers, of
 * the width that the kernels have. */
#ifndef ASSAY_PEAK_H
#define ASSAY_PEAK_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "worker/cpu/device.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define PEAK_STEPS 2000000 /* some 4 to 8 ms */
#define TURNS 9
#define TURN_SECONDS 0.1

/* One thread is measured in its own processor time, so that work beside it counts for less. */
static double seconds(const struct device *d)
{
    struct timespec t;
    clock_gettime(pool_threads(d->pool) == 1 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &t);
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

static void peak_portable(void *arg, int64_t task, int thread)
{
    float *sink = arg;
    (void)thread;
    for (int64_t k = 0; k < PEAK_STEPS * 12; k++)
        sink[task] = sink[task] * 0.999f + 1e-9f;
}

struct peak {
    pool_task *task;
    int lanes;
};

static struct peak peak_of(const struct cpu_kernels *kernels)
{
#if defined(__x86_64__)
    if (kernels == &cpu_kernels_avx512)
        return (struct peak){peak_avx512, 16};
    if (kernels == &cpu_kernels_avx2)
        return (struct peak){peak_avx2, 8};
#endif
    (void)kernels;
    return (struct peak){peak_portable, 1};
}

/* GFLOP/s of all threads of the device, once. */
static double measure_peak(struct device *d)
{
    float sink[256] = {0};
    int n = pool_threads(d->pool);
    struct peak peak = peak_of(d->kernels);
    double start = seconds(d);
    pool_run(d->pool, peak.task, sink, n);
    return 2.0 * peak.lanes * 12 * PEAK_STEPS * n / (seconds(d) - start) * 1e-9;
}

static int by_value(const void *a, const void *b)
{
    const double *x = a, *y = b;
    return *x < *y ? -1 : *x > *y;
}

/* What `run` reaches, all medians of TURNS. The clock of a shared machine wanders: each turn is set
 * against the peak just before and after it. */
struct rate {
    double gflops, peak, ratio;
};

static struct rate measure_rate(struct device *d, double gflop, void (*run)(void *), void *arg)
{
    double rates[TURNS], ratios[TURNS], peaks[TURNS];
    run(arg);
    for (int turn = 0; turn < TURNS; turn++) {
        double before = measure_peak(d), start = seconds(d);
        int n = 0;
        do
            run(arg);
        while (++n, seconds(d) - start < TURN_SECONDS);
        rates[turn] = n * gflop / (seconds(d) - start);
        peaks[turn] = (before + measure_peak(d)) / 2;
        ratios[turn] = rates[turn] / peaks[turn];
    }
    qsort(rates, TURNS, sizeof *rates, by_value);
    qsort(peaks, TURNS, sizeof *peaks, by_value);
    qsort(ratios, TURNS, sizeof *ratios, by_value);
    return (struct rate){rates[TURNS / 2], peaks[TURNS / 2], ratios[TURNS / 2]};
}

static void fill(void *data, int64_t n, enum dtype dtype)
{
    uint32_t state = 1;
    for (int64_t i = 0; i < n; i++) {
        state = state * 1664525 + 1013904223;
        float f = (float)(state >> 8) * 0x1p-24f - 0.5f;
        uint32_t bits;
        memcpy(&bits, &f, 4);
        if (dtype == DTYPE_F32)
            ((float *)data)[i] = f;
        else if (dtype == DTYPE_BF16)
            ((uint16_t *)data)[i] = (uint16_t)(bits >> 16);
        else
            ((uint16_t *)data)[i] = (uint16_t)(0x3000 | (state >> 22));
    }
}

#endif
