/* bench_attention.c - the rate of causal attention against the peak of fused multiply-adds, measured
 * in the same run.
 *
 *     bench_attention [THREADS [ISA]]  one line of JSON a shape: shape, tokens (of one row),
 *                                      gflops, peak, ratio
 *
 * Counted are the multiply-adds of Q K^T and of P V over visible keys alone; the softmax is not, so
 * its time is part of the distance to 1. */
#include <stdio.h>
#include <unistd.h>

#include "schema/log.h"
#include "tests/bench/rate.h"

#define ARENA (2ull << 30) /* all shapes lie in it, as a batch would; of address space */

struct attention_run {
    struct device *d;
    struct tensor out, q, k, v;
    struct attention_shape shape;
    struct attn_metadata meta;
};

static void run_attention(void *arg)
{
    struct attention_run *r = arg;
    cpu_ops.attention(r->d, r->out, r->q, r->k, r->v, &r->shape, &r->meta);
}

/* Rows of `length`, as many as make 4,096 tokens, one at least. */
static void measure(struct device *d, const char *name, uint32_t heads, uint32_t kv_heads,
    uint32_t dim, uint32_t length)
{
    uint32_t n_rows = length < 4096 ? 4096 / length : 1, cu[4097];
    for (uint32_t i = 0; i <= n_rows; i++)
        cu[i] = i * length;
    int64_t tokens = cu[n_rows], q = heads * dim, kv = kv_heads * dim, all = q + 2 * kv;
    float *qkv = cpu_ops.alloc(d, (size_t)(tokens * all) * 4);
    float *out = cpu_ops.alloc(d, (size_t)(tokens * q) * 4);
    if (!qkv || !out)
        die(71, "arena: too small");
    fill(qkv, tokens * all, DTYPE_F32);
    struct tensor t = tensor_of(qkv, DTYPE_F32, tokens, all, all);
    struct attention_run run = {d, tensor_of(out, DTYPE_F32, tokens, q, q), tensor_columns(t, 0, q),
        tensor_columns(t, q, kv), tensor_columns(t, q + kv, kv),
        {heads, kv_heads, dim, 1.0f / __builtin_sqrtf((float)dim), 0},
        {.n_rows = n_rows, .cu_seqlens = cu, .max_seqlen = length}};
    double pairs = n_rows * ((double)length * (length + 1) / 2) * heads;
    struct rate r = measure_rate(d, pairs * 4 * dim * 1e-9, 0, run_attention, &run);
    printf("{\"shape\":\"%s\",\"tokens\":%u,\"gflops\":%.1f,\"peak\":%.1f,\"ratio\":%.3f}\n", name,
        length, r.gflops, r.peak, r.ratio);
    fflush(stdout);
}

int main(int argc, char **argv)
{
    static const uint32_t lengths[] = {8, 64, 512, 4096, 16384};
    struct device *d = NULL;
    struct err e = {0};
    int threads = argc > 1 ? atoi(argv[1]) : (int)sysconf(_SC_NPROCESSORS_ONLN);
    struct device_options options = {
        .n_threads = threads, .isa = argc > 2 ? argv[2] : "auto", .arena_bytes = ARENA};
    if (cpu_ops.open(&d, &options, &e) != 0)
        die(70, "%s", e.msg);
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        measure(d, "0.5B", 14, 2, 64, lengths[i]);
        measure(d, "1.5B", 12, 2, 128, lengths[i]);
    }
    cpu_ops.close(&d);
    return 0;
}
