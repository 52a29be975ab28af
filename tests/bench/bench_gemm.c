/* bench_gemm.c - b1: the rate of `linear` against the peak of fused multiply-adds, measured in the
 * same run.
 *
 *     bench_gemm [THREADS [ISA]]  one line of JSON a shape: shape, tokens, dtype, gflops, peak,
 *                                 ratio. The peak: peak.h */
#include <stdio.h>
#include <unistd.h>

#include "schema/log.h"
#include "tests/bench/rate.h"

struct product_run {
    struct device *d;
    struct tensor out, x;
    struct weight w;
};

static void run_product(void *arg)
{
    struct product_run *r = arg;
    cpu_ops.linear(r->d, r->out, r->x, &r->w, 1, NULL);
}

static void measure(
    struct device *d, const char *name, int64_t in, int64_t out, int64_t tokens, enum dtype dtype)
{
    void *weights = malloc((size_t)(in * out) * 4);
    float *x = malloc((size_t)(tokens * in) * 4), *y = malloc((size_t)(tokens * out) * 4);
    fill(weights, in * out, dtype);
    fill(x, tokens * in, DTYPE_F32);
    struct product_run run = {d, tensor_of(y, DTYPE_F32, tokens, out, out),
        tensor_of(x, DTYPE_F32, tokens, in, in), {weights, dtype, out, in, in, NULL, DTYPE_F32}};
    struct rate r = measure_rate(
        d, 2.0 * (double)in * (double)out * (double)tokens * 1e-9, 0, run_product, &run);
    printf("{\"shape\":\"%s\",\"in\":%lld,\"out\":%lld,\"tokens\":%lld,\"dtype\":\"%s\",\"gflops\":"
           "%.1f,\"peak\":%.1f,\"ratio\":%.3f}\n",
        name, (long long)in, (long long)out, (long long)tokens, dtype_name(dtype), r.gflops, r.peak,
        r.ratio);
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
    int threads = argc > 1 ? atoi(argv[1]) : (int)sysconf(_SC_NPROCESSORS_ONLN);
    const char *isa = argc > 2 ? argv[2] : "auto";
    struct device_options options = {.n_threads = threads, .isa = isa, .arena_bytes = 64};
    if (cpu_ops.open(&d, &options, &e) != 0)
        die(70, "%s", e.msg);
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++)
        for (int t = 0; t < 4; t++)
            measure(d, shapes[i].name, shapes[i].in, shapes[i].out, t < 3 ? 512 : 4096, dtypes[t]);
    measure(d, "0.5B gate_up", 896, 9728, 8, DTYPE_BF16);
    cpu_ops.close(&d);
    return 0;
}
