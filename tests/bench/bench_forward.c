/* bench_forward.c - tokens/s of the forward and the pooler in process, without broker or shared memory.
 *
 *     bench_forward MODEL ROWS TOKENS BATCH_TOKENS [THREADS [SHARED]]      one line of JSON
 *
 * SHARED: the first so many tokens are the same in all rows, and each batch has them once; then
 * BATCH_TOKENS are those that are computed. tokens_per_s counts rows' whole tokens. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "schema/log.h"
#include "worker/score.h"

static double seconds(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
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
    uint32_t tokens, shared, rows_per_batch, batch_tokens;
    int32_t *ids, *positions;
    uint32_t *cu_seqlens;
    struct stage_row *rows;
    float *values;
};

static void open_model(struct bench *b, const char *dir, int threads)
{
    struct err e = {0};
    struct model_config config;
    struct quant_config quant = {"none"};
    struct lora_config lora = {0, NULL, NULL};
    die_on(model_config_load(&config, dir, &e), &e);
    struct cache_config cache = {b->batch_tokens, b->tokens, b->rows_per_batch, "none"};
    struct device_options options = {.n_threads = threads, .isa = "auto"};
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
    b->ids = xcalloc(b->batch_tokens, sizeof *b->ids);
    b->positions = xcalloc(b->batch_tokens, sizeof *b->positions);
    b->cu_seqlens = xcalloc(b->rows_per_batch + 1u, sizeof *b->cu_seqlens);
    b->rows = xcalloc(b->rows_per_batch, sizeof *b->rows);
    b->values = xcalloc((size_t)b->rows_per_batch * b->model.config.n_labels, sizeof *b->values);
    for (uint32_t i = 0; i < b->batch_tokens; i++)
        b->ids[i] = (int32_t)((i * 7919u) % b->model.config.vocab_size);
    for (uint32_t r = 0; r < b->rows_per_batch; r++) {
        uint32_t shared = r > 0 ? b->shared : 0;
        b->cu_seqlens[r + 1] = b->cu_seqlens[r] + b->tokens - shared;
        b->rows[r] = (struct stage_row){.n_tokens = b->tokens,
            .pool_type = POOL_LAST,
            .activation = ACTIVATION_NONE,
            .n_values = b->model.config.n_labels,
            .n_shared = shared};
    }
}

static void run_batch(struct bench *b, uint32_t n_rows)
{
    struct err e = {0};
    struct stage_batch batch = {.n_rows = n_rows,
        .n_tokens = b->cu_seqlens[n_rows],
        .n_values = n_rows * b->model.config.n_labels,
        .rows = b->rows,
        .ids = b->ids,
        .cu_seqlens = b->cu_seqlens};
    die_on(score_batch(&b->model, &batch, b->ids, b->positions, b->values, &e), &e);
    cpu_ops.poll(b->device, 1);
}

int main(int argc, char **argv)
{
    if (argc < 5) {
        fprintf(stderr, "usage: bench_forward MODEL ROWS TOKENS BATCH_TOKENS [THREADS [SHARED]]\n");
        return 64;
    }
    uint32_t n_rows = (uint32_t)atoi(argv[2]);
    struct bench b = {
        .tokens = (uint32_t)atoi(argv[3]), .shared = argc > 6 ? (uint32_t)atoi(argv[6]) : 0};
    if (n_rows < 1 || b.shared >= b.tokens)
        die(64, "expected rows, and fewer shared tokens than %u", b.tokens);
    uint32_t room = (uint32_t)atoi(argv[4]), own = b.tokens - b.shared;
    b.rows_per_batch = room < b.tokens ? 1 : 1 + (room - b.tokens) / own;
    b.batch_tokens = b.tokens + (b.rows_per_batch - 1) * own;
    open_model(&b, argv[1], argc > 5 ? atoi(argv[5]) : (int)sysconf(_SC_NPROCESSORS_ONLN));
    make_rows(&b);
    run_batch(&b, 1); /* pages and caches warm */
    double start = seconds(CLOCK_MONOTONIC), cpu = seconds(CLOCK_PROCESS_CPUTIME_ID);
    for (uint32_t done = 0; done < n_rows; done += b.rows_per_batch)
        run_batch(&b, n_rows - done < b.rows_per_batch ? n_rows - done : b.rows_per_batch);
    double took = seconds(CLOCK_MONOTONIC) - start;
    printf(
        "{\"rows\":%u,\"tokens\":%u,\"seconds\":%.3f,\"cpu_seconds\":%.3f,\"tokens_per_s\":%.1f}\n",
        n_rows, b.tokens, took, seconds(CLOCK_PROCESS_CPUTIME_ID) - cpu, n_rows * b.tokens / took);
    qwen2_reward_model_release(&b.model);
    weights_close(&b.weights);
    cpu_ops.close(&b.device);
    return 0;
}
