/* bench_blas.c - the yardstick of b1 and b2: OpenBLAS's sgemm on the products of a forward.
 *
 *     bench_blas forward MODEL ROWS TOKENS BATCH_TOKENS [THREADS]   its time for all products of it
 *     bench_blas shapes [THREADS]                                   its rate on bench_gemm's shapes
 *
 * Float32 times float32, x * w^T as the model has them. One layer's weights serve all layers.
 * `forward` counts what bench_forward's forward has: o_proj and the MLP of the last layer for
 * pooled tokens only. The library is opened at run time (libopenblas.so.0), because nothing of
 * Assay needs it; exit code 69 if there is none. Output: JSON lines. */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>
#include <unistd.h>

#include "schema/alloc.h"
#include "schema/log.h"
#include "tests/bench/rate.h"
#include "worker/config.h"

enum { ROW_MAJOR = 101, NO_TRANS = 111, TRANS = 112 };

typedef void sgemm_function(int order, int trans_a, int trans_b, int m, int n, int k, float alpha,
    const float *a, int lda, const float *b, int ldb, float beta, float *c, int ldc);

struct blas {
    sgemm_function *sgemm;
    struct device *device; /* for the peak */
    double peak;           /* taken before its threads are there: they spin on after a product */
    float *w, *x, *y;
    size_t w_room, x_room, y_room;
};

static void open_blas(struct blas *b, int threads)
{
    struct device_options options = {.n_threads = threads, .isa = "auto", .arena_bytes = 64};
    struct err e = {0};
    if (cpu_ops.device->open(&b->device, &options, &e) != 0)
        die(EX_SOFTWARE, "%s", e.msg);
    b->peak = median_peak(b->device);
    void *library = dlopen("libopenblas.so.0", RTLD_NOW);
    if (!library)
        die(EX_UNAVAILABLE, "event=no_openblas error=\"%s\"", dlerror());
    void (*set_threads)(int) = NULL;
    void *symbols[] = {dlsym(library, "cblas_sgemm"), dlsym(library, "openblas_set_num_threads")};
    if (!symbols[0] || !symbols[1])
        die(EX_UNAVAILABLE, "event=no_openblas error=\"libopenblas.so.0 has no cblas_sgemm\"");
    memcpy(&b->sgemm, &symbols[0], sizeof symbols[0]);
    memcpy(&set_threads, &symbols[1], sizeof symbols[1]);
    set_threads(threads);
}

static void need(float **at, size_t *room, size_t n)
{
    if (n <= *room)
        return;
    free(*at);
    *at = xcalloc(n, sizeof **at);
    *room = n;
    for (size_t i = 0; i < n; i++)
        (*at)[i] = (float)(i * 7919 % 1000) * 0.001f - 0.5f;
}

static void multiply(struct blas *b, int64_t tokens, int64_t in, int64_t out)
{
    need(&b->w, &b->w_room, (size_t)(in * out));
    need(&b->x, &b->x_room, (size_t)(tokens * in));
    need(&b->y, &b->y_room, (size_t)(tokens * out));
    b->sgemm(ROW_MAJOR, NO_TRANS, TRANS, (int)tokens, (int)out, (int)in, 1, b->x, (int)in, b->w,
        (int)in, 0, b->y, (int)out);
}

/* ---- the products of a forward ---- */

static void multiply_rest(struct blas *b, const struct model_config *c, int64_t tokens)
{
    int64_t h = c->hidden_size, mlp = c->intermediate_size;
    multiply(b, tokens, (int64_t)c->n_heads * c->head_dim, h);
    multiply(b, tokens, h, 2 * mlp);
    multiply(b, tokens, mlp, h);
}

static void multiply_batch(
    struct blas *b, const struct model_config *c, int64_t tokens, int64_t pooled)
{
    int64_t h = c->hidden_size, qkv = ((int64_t)c->n_heads + 2 * c->n_kv_heads) * c->head_dim;
    for (uint32_t i = 0; i < c->n_layers; i++) {
        multiply(b, tokens, h, qkv);
        multiply_rest(b, c, i + 1 < c->n_layers ? tokens : pooled);
    }
    if (c->head->kind == HEAD_MLP)
        multiply(b, pooled, h, h);
    multiply(b, pooled, h, c->n_labels);
}

static int forward(int argc, char **argv)
{
    struct blas b = {0};
    struct model_config c;
    struct err e = {0};
    if (argc < 6)
        return EX_USAGE;
    uint32_t n_rows = (uint32_t)atoi(argv[3]), tokens = (uint32_t)atoi(argv[4]),
             per_batch = (uint32_t)atoi(argv[5]) / tokens;
    open_blas(&b, argc > 6 ? atoi(argv[6]) : (int)sysconf(_SC_NPROCESSORS_ONLN));
    if (per_batch < 1 || model_config_load(&c, argv[2], "auto", &e) != 0)
        die(EX_DATAERR, "expected a model and batches of a row or more; %s", e.msg);
    struct model_config warm = c;
    warm.n_layers = 1;
    multiply_batch(&b, &warm, (int64_t)per_batch * tokens, (int64_t)per_batch * tokens);
    double start = seconds();
    for (uint32_t done = 0; done < n_rows; done += per_batch) {
        uint32_t n = n_rows - done < per_batch ? n_rows - done : per_batch;
        multiply_batch(&b, &c, (int64_t)n * tokens, n);
    }
    printf("{\"seconds\":%.3f}\n", seconds() - start);
    return 0;
}

/* ---- shapes ---- */

struct product_run {
    struct blas *b;
    int64_t in, out, tokens;
};

static void run_product(void *arg)
{
    const struct product_run *r = arg;
    multiply(r->b, r->tokens, r->in, r->out);
}

static void measure(struct blas *b, int64_t in, int64_t out, int64_t tokens)
{
    double gflop = 2e-9 * (double)in * (double)out * (double)tokens;
    struct product_run run = {b, in, out, tokens};
    struct rate r = measure_rate(b->device, gflop, b->peak, run_product, &run);
    printf("{\"in\":%lld,\"out\":%lld,\"tokens\":%lld,\"gflops\":%.1f,\"ratio\":%.3f}\n",
        (long long)in, (long long)out, (long long)tokens, r.gflops, r.ratio);
    fflush(stdout);
}

static int shapes(int argc, char **argv)
{
    static const int64_t sizes[][2] = {{896, 1152}, {896, 896}, {896, 9728}, {4864, 896},
        {1536, 2048}, {1536, 1536}, {1536, 17920}, {8960, 1536}};
    struct blas b = {0};
    open_blas(&b, argc > 2 ? atoi(argv[2]) : (int)sysconf(_SC_NPROCESSORS_ONLN));
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (int64_t tokens = 512; tokens <= 4096; tokens *= 8)
            measure(&b, sizes[i][0], sizes[i][1], tokens);
    return 0;
}

int main(int argc, char **argv)
{
    log_init("bench", -1, LOG_LEVEL_WARN);
    int rc = argc > 1 && strcmp(argv[1], "forward") == 0  ? forward(argc, argv)
             : argc > 1 && strcmp(argv[1], "shapes") == 0 ? shapes(argc, argv)
                                                          : EX_USAGE;
    if (rc == EX_USAGE)
        fprintf(stderr, "usage: bench_blas forward MODEL ROWS TOKENS BATCH_TOKENS [THREADS] | "
                        "bench_blas shapes [THREADS]\n");
    return rc;
}
