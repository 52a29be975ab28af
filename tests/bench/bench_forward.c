/* bench_forward.c - tokens/s of the forward and the pooler in process, without broker or shared memory.
 *
 *     bench_forward MODEL ROWS TOKENS BATCH_TOKENS [THREADS [QUANT [ISA]]]
 *         one line of JSON
 *
 * THREADS 0: as many as there are processors. QUANT: none or int8. cpu_tokens_per_s is by the time
 * that threads had a processor: on a busy machine it says more. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "schema/log.h"
#include "worker/pooler.h"

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* Of all threads together. */
static double processor_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void die_on(int rc, const struct err *e)
{
    if (rc != 0)
        die(70, "%s", e->msg);
}

struct bench {
    struct device *device;
    struct weights *weights;
    struct qwen2_reward_model model;
    uint32_t tokens, rows_per_batch;
    int32_t *ids, *positions;
    uint32_t *cu_seqlens;
    struct stage_row *rows;
    float *values;
};

static void open_model(
    struct bench *b, const char *dir, int threads, const char *method, const char *isa)
{
    struct err e = {0};
    struct model_config config;
    struct quant_config quant = {method};
    struct lora_config lora = {0, NULL, NULL};
    die_on(model_config_load(&config, dir, &e), &e);
    struct cache_config cache = {
        b->tokens * b->rows_per_batch, b->tokens, b->rows_per_batch, "none"};
    struct device_options options = {.n_threads = threads, .isa = isa};
    qwen2_device_needs(&options, &config, &cache, &quant, &cpu_ops, 1);
    die_on(cpu_ops.open(&b->device, &options, &e), &e);
    die_on(qwen2_reward_model_init(
               &b->model, &config, &cache, &quant, &lora, &cpu_ops, b->device, 0, 1, &e),
        &e);
    die_on(weights_open(&b->weights, dir, &e), &e);
    die_on(qwen2_reward_model_load_weights(&b->model, b->weights, &e), &e);
}

static void make_rows(struct bench *b)
{
    uint32_t n = b->tokens * b->rows_per_batch;
    b->ids = xcalloc(n, sizeof *b->ids);
    b->positions = xcalloc(n, sizeof *b->positions);
    b->cu_seqlens = xcalloc(b->rows_per_batch + 1u, sizeof *b->cu_seqlens);
    b->rows = xcalloc(b->rows_per_batch, sizeof *b->rows);
    b->values = xcalloc((size_t)b->rows_per_batch * b->model.config.n_labels, sizeof *b->values);
    for (uint32_t i = 0; i < n; i++) {
        b->ids[i] = (int32_t)((i * 7919u) % b->model.config.vocab_size);
        b->positions[i] = (int32_t)(i % b->tokens);
    }
    for (uint32_t r = 0; r < b->rows_per_batch; r++) {
        b->cu_seqlens[r + 1] = b->cu_seqlens[r] + b->tokens;
        b->rows[r] = (struct stage_row){.n_tokens = b->tokens,
            .pool_type = POOL_LAST,
            .activation = ACTIVATION_NONE,
            .n_values = b->model.config.n_labels};
    }
}

static void run_batch(struct bench *b, uint32_t n_rows)
{
    struct err e = {0};
    struct pooling_metadata pooling;
    struct tensor hidden;
    struct stage_batch batch = {.n_rows = n_rows,
        .n_tokens = n_rows * b->tokens,
        .n_values = n_rows * b->model.config.n_labels,
        .rows = b->rows,
        .ids = b->ids,
        .cu_seqlens = b->cu_seqlens};
    die_on(pooling_metadata_init(&pooling, &batch, b->model.config.n_labels, &e), &e);
    struct attn_metadata meta = {
        n_rows, b->cu_seqlens, b->tokens, pooling.out_rows, pooling.n_out_rows, NULL};
    die_on(
        qwen2_reward_model_forward(&b->model, b->ids, b->positions, NULL, &meta, NULL, &hidden, &e),
        &e);
    pooler(&b->model, hidden, &pooling, b->values);
    cpu_ops.poll(b->device, 1);
    pooling_metadata_release(&pooling);
}

int main(int argc, char **argv)
{
    if (argc < 5) {
        fprintf(stderr,
            "usage: bench_forward MODEL ROWS TOKENS BATCH_TOKENS [THREADS [QUANT [ISA]]]\n");
        return 64;
    }
    uint32_t n_rows = (uint32_t)atoi(argv[2]);
    struct bench b = {.tokens = (uint32_t)atoi(argv[3])};
    b.rows_per_batch = (uint32_t)atoi(argv[4]) / b.tokens;
    if (b.rows_per_batch < 1)
        b.rows_per_batch = 1;
    int threads = argc > 5 ? atoi(argv[5]) : 0;
    threads = threads > 0 ? threads : (int)sysconf(_SC_NPROCESSORS_ONLN);
    open_model(&b, argv[1], threads, argc > 6 ? argv[6] : "none", argc > 7 ? argv[7] : "auto");
    make_rows(&b);
    run_batch(&b, 1); /* pages and caches warm */
    double start = seconds(), processor = processor_seconds();
    for (uint32_t done = 0; done < n_rows; done += b.rows_per_batch)
        run_batch(&b, n_rows - done < b.rows_per_batch ? n_rows - done : b.rows_per_batch);
    double took = seconds() - start, n = (double)n_rows * b.tokens;
    processor = processor_seconds() - processor;
    printf("{\"rows\":%u,\"tokens\":%u,\"seconds\":%.3f,\"tokens_per_s\":%.1f,"
           "\"cpu_tokens_per_s\":%.1f}\n",
        n_rows, b.tokens, took, n / took, n * threads / processor);
    qwen2_reward_model_release(&b.model);
    weights_close(&b.weights);
    cpu_ops.close(&b.device);
    return 0;
}
