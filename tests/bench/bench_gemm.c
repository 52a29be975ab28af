/* bench_gemm.c - b1: the rate of `linear` against the peak of fused multiply-adds, measured in the
 * same run.
 *
 *     bench_gemm [THREADS [ISA]]  one line of JSON a shape: shape, tokens, dtype, gflops, peak,
 *                                 ratio
 *     bench_gemm THREADS ISA peak  the peak alone: as the clock has it, and by the time that threads
 *                                 had a processor
 *
 * THREADS 0: as many as there are processors.
 *
 * The peak is what the same threads reach on nothing but independent fused multiply-adds on
 * registers, of the width that the kernels have. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "schema/log.h"
#include "worker/cpu/device.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define PEAK_STEPS 2000000 /* some 4 to 8 ms */
#define TURNS 9
#define TURN_SECONDS 0.1

static double seconds(void)
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
    if (kernels == &cpu_kernels_avx512 || kernels == &cpu_kernels_avx512vnni)
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
    double start = seconds();
    pool_run(d->pool, peak.task, sink, n);
    return 2.0 * peak.lanes * 12 * PEAK_STEPS * n / (seconds() - start) * 1e-9;
}

static void print_peak(struct device *d)
{
    struct timespec before, after;
    double best = 0, best_cpu = 0;
    for (int turn = 0; turn < TURNS; turn++) {
        clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &before);
        double start = seconds(), rate = measure_peak(d), took = seconds() - start;
        clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &after);
        double cpu = (double)(after.tv_sec - before.tv_sec) +
                     (double)(after.tv_nsec - before.tv_nsec) * 1e-9;
        double by_cpu = rate * took * pool_threads(d->pool) / cpu;
        best = rate > best ? rate : best;
        best_cpu = by_cpu > best_cpu ? by_cpu : best_cpu;
    }
    printf("{\"peak\":%.1f,\"cpu_peak\":%.1f}\n", best, best_cpu);
}

static int by_value(const void *a, const void *b)
{
    const double *x = a, *y = b;
    return *x < *y ? -1 : *x > *y;
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

static void measure(
    struct device *d, const char *name, int64_t in, int64_t out, int64_t tokens, enum dtype dtype)
{
    void *weights = malloc((size_t)(in * out) * 4);
    float *x = malloc((size_t)(tokens * in) * 4), *y = malloc((size_t)(tokens * out) * 4);
    fill(weights, in * out, dtype);
    fill(x, tokens * in, DTYPE_F32);
    struct weight w = {weights, dtype, out, in, in, NULL};
    struct tensor xt = tensor_of(x, DTYPE_F32, tokens, in, in),
                  yt = tensor_of(y, DTYPE_F32, tokens, out, out);
    /* The clock of a shared machine wanders: each turn is set against the peak just before and after it. */
    double rates[TURNS], ratios[TURNS], peaks[TURNS],
        flops = 2.0 * (double)in * (double)out * (double)tokens * 1e-9;
    cpu_ops.linear(d, yt, xt, &w, 1, NULL);
    for (int turn = 0; turn < TURNS; turn++) {
        double before = measure_peak(d), start = seconds();
        int n = 0;
        do
            cpu_ops.linear(d, yt, xt, &w, 1, NULL);
        while (++n, seconds() - start < TURN_SECONDS);
        rates[turn] = n * flops / (seconds() - start);
        peaks[turn] = (before + measure_peak(d)) / 2;
        ratios[turn] = rates[turn] / peaks[turn];
    }
    qsort(rates, TURNS, sizeof *rates, by_value);
    qsort(peaks, TURNS, sizeof *peaks, by_value);
    qsort(ratios, TURNS, sizeof *ratios, by_value);
    double rate = rates[TURNS / 2], peak = peaks[TURNS / 2];
    printf("{\"shape\":\"%s\",\"in\":%lld,\"out\":%lld,\"tokens\":%lld,\"dtype\":\"%s\",\"gflops\":"
           "%.1f,\"peak\":%.1f,"
           "\"ratio\":%.3f}\n",
        name, (long long)in, (long long)out, (long long)tokens, dtype_name(dtype), rate, peak,
        rate / peak);
    fflush(stdout);
    free(weights);
    free(x);
    free(y);
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        int64_t in, out;
    } shapes[] = {{"0.5B qkv", 896, 1152}, {"0.5B o", 896, 896}, {"0.5B gate_up", 896, 9728},
        {"0.5B down", 4864, 896}, {"1.5B qkv", 1536, 2048}, {"1.5B o", 1536, 1536},
        {"1.5B gate_up", 1536, 17920}, {"1.5B down", 8960, 1536}};
    static const enum dtype dtypes[] = {DTYPE_BF16, DTYPE_F16, DTYPE_F32, DTYPE_BF16};
    struct device *d = NULL;
    struct err e = {0};
    int threads = argc > 1 ? atoi(argv[1]) : 0;
    threads = threads > 0 ? threads : (int)sysconf(_SC_NPROCESSORS_ONLN);
    const char *isa = argc > 2 ? argv[2] : "auto";
    struct device_options options = {.n_threads = threads, .isa = isa, .arena_bytes = 64};
    if (cpu_ops.open(&d, &options, &e) != 0)
        die(70, "%s", e.msg);
    if (argc > 3) {
        print_peak(d);
        cpu_ops.close(&d);
        return 0;
    }
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++)
        for (int t = 0; t < 4; t++)
            measure(d, shapes[i].name, shapes[i].in, shapes[i].out, t < 3 ? 512 : 4096, dtypes[t]);
    measure(d, "0.5B gate_up", 896, 9728, 8, DTYPE_BF16);
    cpu_ops.close(&d);
    return 0;
}
