/* bench_forward.c - tokens/s of the forward and the pooler in process, without broker or shared memory.
 *
 *     bench_forward MODEL ROWS TOKENS BATCH_TOKENS [THREADS]      one line of JSON
 *
 * gflops counts what is executed: causal attention of every token in every layer; o_proj and the MLP
 * of the last layer for pooled tokens only. peak: peak.h, before and after, and between batches; share:
 * gflops in it. memory_bytes: what activations, input and output take at most. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "schema/log.h"
#include "tests/bench/peak.h"
#include "worker/pooler.h"

static void die_on(int rc, const struct err *e)
{
    if (rc != 0)
        die(70, "%s", e->msg);
}

#define PEAK_EVERY_SECONDS 0.2
#define WARM_TOKENS 512u

struct bench {
    struct device *device;
    struct weights *weights;
    struct qwen2_reward_model model;
    uint32_t tokens, rows_per_batch;
    size_t memory_bytes; /* activations, input and output at most */
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
    struct cache_config cache = {
        b->tokens * b->rows_per_batch, b->tokens, b->rows_per_batch, "none"};
    struct device_options options = {.n_threads = threads, .isa = "auto"};
    qwen2_device_needs(&options, &config, &cache, &quant, &cpu_ops, 1);
    b->memory_bytes = options.arena_bytes + options.input_bytes + options.output_bytes;
    die_on(cpu_ops.open(&b->device, &options, &e), &e);
    die_on(qwen2_reward_model_init(
               &b->model, &config, &cache, &quant, &lora, &cpu_ops, b->device, 0, 1, &e),
        &e);
    die_on(weights_open(&b->weights, dir, &e), &e);
    die_on(qwen2_reward_model_load_weights(&b->model, b->weights, &e), &e);
}

/* All rows get so many tokens, no more than there is room for. */
static void set_tokens(struct bench *b, uint32_t tokens)
{
    b->tokens = tokens;
    for (uint32_t i = 0; i < tokens * b->rows_per_batch; i++)
        b->positions[i] = (int32_t)(i % tokens);
    for (uint32_t r = 0; r < b->rows_per_batch; r++) {
        b->cu_seqlens[r + 1] = b->cu_seqlens[r] + tokens;
        b->rows[r] = (struct stage_row){.n_tokens = tokens,
            .pool_type = POOL_LAST,
            .activation = ACTIVATION_NONE,
            .n_values = b->model.config.n_labels};
    }
}

static void make_rows(struct bench *b)
{
    uint32_t n = b->tokens * b->rows_per_batch;
    b->ids = xcalloc(n, sizeof *b->ids);
    b->positions = xcalloc(n, sizeof *b->positions);
    b->cu_seqlens = xcalloc(b->rows_per_batch + 1u, sizeof *b->cu_seqlens);
    b->rows = xcalloc(b->rows_per_batch, sizeof *b->rows);
    b->values = xcalloc((size_t)b->rows_per_batch * b->model.config.n_labels, sizeof *b->values);
    for (uint32_t i = 0; i < n; i++)
        b->ids[i] = (int32_t)((i * 7919u) % b->model.config.vocab_size);
    set_tokens(b, b->tokens);
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

/* Pages and caches warm: some rows, of a long one its beginning. */
static void warm_up(struct bench *b)
{
    uint32_t tokens = b->tokens, n = tokens < WARM_TOKENS ? WARM_TOKENS / tokens : 1;
    set_tokens(b, tokens < WARM_TOKENS ? tokens : WARM_TOKENS);
    run_batch(b, n < b->rows_per_batch ? n : b->rows_per_batch);
    set_tokens(b, tokens);
}

/* Multiply-adds, twice, of a batch of n_rows rows, in thousands of millions. */
static double gflop_of(const struct bench *b, double n_rows)
{
    const struct model_config *c = &b->model.config;
    double tokens = n_rows * b->tokens, pairs = tokens * (b->tokens + 1.0) / 2;
    double hidden = c->hidden_size, q = (double)c->n_heads * c->head_dim,
           kv = (double)c->n_kv_heads * c->head_dim;
    double all_tokens = hidden * (q + 2 * kv) * tokens + 2 * q * pairs;
    double rest = q * hidden + 3 * hidden * c->intermediate_size;
    double last = c->mlp_head ? hidden * hidden : 0;
    return 2e-9 * (c->n_layers * all_tokens + rest * (tokens * (c->n_layers - 1) + n_rows) +
                      last * n_rows);
}

/* The peak wanders with the machine's clock: its mean over the run. */
struct peaks {
    double sum, last;
    int n;
};

static void take_peak(struct peaks *p, struct device *d)
{
    p->sum += measure_peak(d);
    p->n++;
    p->last = seconds();
}

/* Seconds of all batches, without those of the peaks between them. */
static double run(struct bench *b, uint32_t n_rows, struct peaks *peaks)
{
    double took = 0;
    take_peak(peaks, b->device);
    for (uint32_t done = 0; done < n_rows; done += b->rows_per_batch) {
        double start = seconds();
        run_batch(b, n_rows - done < b->rows_per_batch ? n_rows - done : b->rows_per_batch);
        took += seconds() - start;
        if (seconds() - peaks->last > PEAK_EVERY_SECONDS)
            take_peak(peaks, b->device);
    }
    take_peak(peaks, b->device);
    return took;
}

int main(int argc, char **argv)
{
    if (argc < 5) {
        fprintf(stderr, "usage: bench_forward MODEL ROWS TOKENS BATCH_TOKENS [THREADS]\n");
        return 64;
    }
    uint32_t n_rows = (uint32_t)atoi(argv[2]);
    struct bench b = {.tokens = (uint32_t)atoi(argv[3])};
    struct peaks peaks = {0};
    b.rows_per_batch = (uint32_t)atoi(argv[4]) / b.tokens;
    if (b.rows_per_batch < 1)
        b.rows_per_batch = 1;
    open_model(&b, argv[1], argc > 5 ? atoi(argv[5]) : (int)sysconf(_SC_NPROCESSORS_ONLN));
    make_rows(&b);
    warm_up(&b);
    double took = run(&b, n_rows, &peaks), gflops = gflop_of(&b, n_rows) / took,
           peak = peaks.sum / peaks.n;
    printf("{\"rows\":%u,\"tokens\":%u,\"seconds\":%.3f,\"tokens_per_s\":%.1f,\"gflops\":%.1f,"
           "\"peak\":%.1f,\"share\":%.4f,\"memory_bytes\":%zu}\n",
        n_rows, b.tokens, took, n_rows * b.tokens / took, gflops, peak, gflops / peak,
        b.memory_bytes);
    qwen2_reward_model_release(&b.model);
    weights_close(&b.weights);
    cpu_ops.close(&b.device);
    return 0;
}
