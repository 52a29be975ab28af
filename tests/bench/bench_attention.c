/* bench_attention.c - the rate of causal attention against the peak of fused multiply-adds,
 * measured in the same run.
 *
 *     bench_attention [THREADS [ISA]]  one line of JSON a shape: shape, tokens (of one row),
 *                                      gflops, peak, ratio, limit, of_limit
 *
 * Only the multiply-adds of Q K^T and of P V over visible keys are counted. The softmax is not, so
 * its time keeps the ratio below 1. `limit` is the ratio if the products ran at the peak and the
 * softmax step took as long as it does alone, on scores in the first-level cache. */
#include <math.h>
#include <stdio.h>
#include <unistd.h>

#include "schema/log.h"
#include "tests/bench/rate.h"

#define ARENA (2ull << 30) /* all shapes lie in it, as a batch would; of address space */

struct model_heads {
    const char *name;
    uint32_t heads, kv_heads, dim;
};

struct attention_run {
    struct device *d;
    struct tensor out;
    struct attention_input in;
    struct attention_shape shape;
    struct attn_metadata meta;
};

static void run_attention(void *arg)
{
    struct attention_run *r = arg;
    cpu_ops.attention(r->d, r->out, &r->in, &r->shape, &r->meta);
}

#define PANEL_KEYS 64
#define PANELS 20000

/* The softmax step of a panel, again and again: the scores go in as they came out. */
static void weigh_panels(void *arg, int64_t task, int thread)
{
    const struct cpu_kernels *k = arg;
    float scores[PANEL_KEYS * TILE_COLUMNS], m[TILE_COLUMNS], l[TILE_COLUMNS] = {0};
    float alpha[TILE_COLUMNS];
    (void)task;
    (void)thread;
    fill(scores, PANEL_KEYS * TILE_COLUMNS, DTYPE_F32);
    for (int j = 0; j < TILE_COLUMNS; j++)
        m[j] = -INFINITY;
    for (int i = 0; i < PANELS; i++)
        k->softmax_columns(scores, PANEL_KEYS, NULL, NULL, m, l, alpha);
}

/* Multiply-adds at the peak that take as long as the softmax of one score. */
static double softmax_cost(struct device *d)
{
    double costs[TURNS];
    for (int turn = 0; turn < TURNS; turn++) {
        double peak = measure_peak(d), start = seconds();
        thread_pool_run(d->pool, weigh_panels, (void *)d->kernels, thread_pool_threads(d->pool));
        double scores = (double)PANELS * PANEL_KEYS * d->kernels->nr * thread_pool_threads(d->pool);
        costs[turn] = (seconds() - start) / scores * peak * 1e9 / 2;
    }
    qsort(costs, TURNS, sizeof *costs, by_value);
    return costs[TURNS / 2];
}

/* Rows of `length`, as many as make 4,096 tokens, one at least. */
static void measure(struct device *d, const struct model_heads *h, uint32_t length, double cost)
{
    uint32_t n_rows = length < 4096 ? 4096 / length : 1, cu[4097];
    for (uint32_t i = 0; i <= n_rows; i++)
        cu[i] = i * length;
    int64_t tokens = cu[n_rows], q = h->heads * h->dim, kv = h->kv_heads * h->dim, all = q + 2 * kv;
    float *qkv = cpu_ops.device->alloc(d, (size_t)(tokens * all) * 4);
    float *out = cpu_ops.device->alloc(d, (size_t)(tokens * q) * 4);
    if (!qkv || !out)
        die(71, "arena: too small");
    fill(qkv, tokens * all, DTYPE_F32);
    struct tensor t = tensor_of(qkv, DTYPE_F32, tokens, all, all);
    struct attention_run run = {d, tensor_of(out, DTYPE_F32, tokens, q, q),
        {.q = tensor_columns(t, 0, q),
            .k = tensor_columns(t, q, kv),
            .v = tensor_columns(t, q + kv, kv)},
        {h->heads, h->kv_heads, h->dim, 1.0f / __builtin_sqrtf((float)h->dim), 0},
        {.n_rows = n_rows, .cu_seqlens = cu, .max_seqlen = length}};
    double pairs = n_rows * ((double)length * (length + 1) / 2) * h->heads;
    struct rate r = measure_rate(d, pairs * 4 * h->dim * 1e-9, 0, run_attention, &run);
    double limit = 2 * h->dim / (2 * h->dim + cost);
    printf("{\"shape\":\"%s\",\"tokens\":%u,\"gflops\":%.1f,\"peak\":%.1f,\"ratio\":%.3f,"
           "\"limit\":%.3f,\"of_limit\":%.3f}\n",
        h->name, length, r.gflops, r.peak, r.ratio, limit, r.ratio / limit);
    fflush(stdout);
}

int main(int argc, char **argv)
{
    static const uint32_t lengths[] = {8, 64, 512, 4096, 16384};
    static const struct model_heads models[] = {{"0.5B", 14, 2, 64}, {"1.5B", 12, 2, 128}};
    struct device *d = NULL;
    struct err e = {0};
    int threads = argc > 1 ? atoi(argv[1]) : (int)sysconf(_SC_NPROCESSORS_ONLN);
    struct device_options options = {
        .n_threads = threads, .isa = argc > 2 ? argv[2] : "auto", .arena_bytes = ARENA};
    if (cpu_ops.device->open(&d, &options, &e) != 0)
        die(70, "%s", e.msg);
    double cost = softmax_cost(d);
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++)
        for (size_t k = 0; k < sizeof models / sizeof *models; k++)
            measure(d, &models[k], lengths[i], cost);
    cpu_ops.device->close(&d);
    return 0;
}
