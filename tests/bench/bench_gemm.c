/* bench_gemm.c - b1: the rate of `linear` against the peak of fused multiply-adds, measured in the
 * same run.
 *
 *     bench_gemm [THREADS [ISA]]  one line of JSON a shape: shape, tokens, dtype, gflops, peak,
 *                                 ratio; tile: the ratio of the tile kernel alone. The peak: peak.h
 *
 * The tile alone multiplies panels that stay in each thread's second-level cache, of the shape's K:
 * what packing, and memory and caches that are shared with others, take away is the difference.
 * Activations are in memory as the arena's is. */
#include <stdio.h>
#include <sys/mman.h>
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

#define TILE_K 1024 /* at most, and about: as the pieces of K are (gemm.c) */
#define TILE_PANELS 8
#define TILE_TURNS 16

struct tile_run {
    struct device *d;
    float *memory; /* of each thread its panels of x, of the weights, and its sums */
    int64_t k, columns;
};

static int64_t tile_floats(const struct tile_run *r)
{
    int64_t rows = TILE_PANELS * r->d->kernels->mr;
    return rows * r->k + r->columns * r->k + rows * r->columns;
}

static void run_tiles(void *arg, int64_t task, int thread)
{
    const struct tile_run *r = arg;
    const struct cpu_kernels *s = r->d->kernels;
    float *a = r->memory + task * tile_floats(r), *b = a + TILE_PANELS * s->mr * r->k;
    float *c = b + r->columns * r->k;
    (void)thread;
    for (int turn = 0; turn < TILE_TURNS; turn++)
        for (int64_t row = 0; row < TILE_PANELS * s->mr; row += s->mr)
            for (int64_t column = 0; column < r->columns; column += s->nr)
                s->f32.tile(&(struct product){.a = a + row * r->k,
                    .a_step = s->mr,
                    .b = b + column * r->k,
                    .k = r->k,
                    .c = c + row * r->columns + column,
                    .ldc = r->columns,
                    .mr = s->mr,
                    .nr = s->nr,
                    .first = 1});
}

static void run_all_tiles(void *arg)
{
    struct tile_run *r = arg;
    thread_pool_run(r->d->pool, run_tiles, r, thread_pool_threads(r->d->pool));
}

/* Zeroed, in large pages where the system gives them. */
static void *take_pages(size_t bytes)
{
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED)
        die(71, "no memory for %zu bytes", bytes);
    madvise(p, bytes, MADV_HUGEPAGE);
    return p;
}

/* The tile alone, with K in equal pieces. */
static struct rate measure_tile(struct device *d, int64_t in)
{
    int64_t pieces = (in + TILE_K - 1) / TILE_K;
    struct tile_run r = {d, NULL, (in + pieces - 1) / pieces, TILE_COLUMNS * 2};
    int64_t n = thread_pool_threads(d->pool) * tile_floats(&r);
    r.memory = take_pages((size_t)n * sizeof *r.memory);
    fill(r.memory, n, DTYPE_F32);
    double flop = 2.0 * TILE_TURNS * TILE_PANELS * (double)(d->kernels->mr * r.columns * r.k);
    struct rate rate =
        measure_rate(d, flop * thread_pool_threads(d->pool) * 1e-9, 0, run_all_tiles, &r);
    munmap(r.memory, (size_t)n * sizeof *r.memory);
    return rate;
}

static void measure(
    struct device *d, const char *name, int64_t in, int64_t out, int64_t tokens, enum dtype dtype)
{
    void *weights = malloc((size_t)(in * out) * 4);
    size_t x_bytes = (size_t)(tokens * in) * 4, y_bytes = (size_t)(tokens * out) * 4;
    float *x = take_pages(x_bytes), *y = take_pages(y_bytes);
    fill(weights, in * out, dtype);
    fill(x, tokens * in, DTYPE_F32);
    struct product_run run = {d, tensor_of(y, DTYPE_F32, tokens, out, out),
        tensor_of(x, DTYPE_F32, tokens, in, in),
        {weights, dtype, out, in, in, NULL, DTYPE_F32, NULL}};
    struct rate r = measure_rate(
        d, 2.0 * (double)in * (double)out * (double)tokens * 1e-9, 0, run_product, &run);
    struct rate tile = measure_tile(d, in);
    printf("{\"shape\":\"%s\",\"in\":%lld,\"out\":%lld,\"tokens\":%lld,\"dtype\":\"%s\",\"gflops\":"
           "%.1f,\"peak\":%.1f,\"ratio\":%.3f,\"tile\":%.3f}\n",
        name, (long long)in, (long long)out, (long long)tokens, dtype_name(dtype), r.gflops, r.peak,
        r.ratio, tile.ratio);
    fflush(stdout);
    free(weights);
    munmap(x, x_bytes);
    munmap(y, y_bytes);
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
    if (cpu_ops.device->open(&d, &options, &e) != 0)
        die(70, "%s", e.msg);
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++)
        for (int t = 0; t < 4; t++)
            measure(d, shapes[i].name, shapes[i].in, shapes[i].out, t < 3 ? 512 : 4096, dtypes[t]);
    measure(d, "0.5B gate_up", 896, 9728, 8, DTYPE_BF16);
    cpu_ops.device->close(&d);
    return 0;
}
