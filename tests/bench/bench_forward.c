/* bench_forward.c - tokens/s of the forward and the pooler in process, without broker or shared
 * memory.
 *
 *     bench_forward MODEL ROWS TOKENS BATCH_TOKENS [THREADS [SHARED [TYPE [ISA [NAME=DIR ..]]]]]
 *         one line of JSON
 *
 * TYPE: none or int8, as for --quant, or bf16, as for --dtype.
 *
 * NAME=DIR: adapters (make_lora.py); the rows of a batch choose them in turns. They count for no
 * gflops.
 *
 * SHARED: the first so many tokens are the same in all rows, and each batch has them once. Then
 * BATCH_TOKENS counts the tokens that are computed, and tokens_per_s counts rows' whole tokens.
 *
 * gflops counts what is executed: causal attention of every token in every layer; o_proj and the
 * MLP of the last layer for pooled tokens only. peak is peak.h's, measured before and after and
 * between batches; share is gflops / peak. The cpu_ figures go by the time that threads had a
 * processor: on a busy machine they say more. memory_bytes is the most that activations, input and
 * output take. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "schema/alloc.h"
#include "schema/log.h"
#include "tests/bench/peak.h"
#include "worker/lora.h"
#include "worker/score.h"

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
    struct lora_config adapters;
    struct qwen2_reward_model model;
    char **loras;
    uint32_t n_loras;
    uint32_t tokens, shared, rows_per_batch, batch_tokens;
    size_t memory_bytes; /* activations, input and output at most */
    int32_t *ids, *positions;
    uint32_t *cu_seqlens;
    struct stage_row *rows;
    float *values;
};

static void open_model(
    struct bench *b, const char *dir, int threads, const char *type, const char *isa)
{

    struct err e = {0};
    int is_bf16 = strcmp(type, "bf16") == 0;
    struct qwen2_configs c = {.cache_config = {b->batch_tokens, b->tokens, b->rows_per_batch, 0},
        .quant_config = {is_bf16 ? "none" : type},
        .n_ranks = 1,
        .n_pp_ranks = 1};
    struct device_options options = {.n_threads = threads, .isa = isa};
    die_on(model_config_load(&c.config, dir, "auto", &e), &e);
    die_on(weights_open(&b->weights, dir, &e), &e);
    die_on(model_choose_type(
               &c.config, is_bf16 ? "bf16" : "auto", &c.quant_config, b->weights, &cpu_ops, &e),
        &e);
    die_on(
        lora_open_all(&b->adapters, (const char *const *)b->loras, NULL, b->n_loras, &c.config, &e),
        &e);
    c.lora_config = b->adapters;
    qwen2_device_needs(&options, &c, &cpu_ops);
    b->memory_bytes = options.arena_bytes + options.input_bytes + options.output_bytes;
    die_on(cpu_ops.device->open(&b->device, &options, &e), &e);
    die_on(qwen2_reward_model_init(&b->model, &c, &cpu_ops, b->device, &e), &e);
    die_on(qwen2_reward_model_load_weights(&b->model, b->weights, &e), &e);
    die_on(lora_load(&b->model, &e), &e);
}

/* Gives all rows so many tokens, no more than there is room for, and lets them share so many. */
static void set_tokens(struct bench *b, uint32_t tokens, uint32_t shared)
{
    b->tokens = tokens;
    b->shared = shared;
    for (uint32_t r = 0; r < b->rows_per_batch; r++) {
        uint32_t n_shared = r > 0 ? shared : 0;
        b->cu_seqlens[r + 1] = b->cu_seqlens[r] + tokens - n_shared;
        b->rows[r] = (struct stage_row){.n_tokens = tokens,
            .pool.type = POOL_LAST,
            .pool.activation = ACTIVATION_NONE,
            .n_values = b->model.config.n_labels,
            .n_shared = n_shared,
            .adapter = b->n_loras > 0 ? 1 + r % b->n_loras : 0};
    }
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
}

static void free_rows(struct bench *b)
{
    free(b->ids);
    free(b->positions);
    free(b->cu_seqlens);
    free(b->rows);
    free(b->values);
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
    die_on(score_batch(&b->model, NULL, &batch, b->ids, b->positions, b->values, &e), &e);
    cpu_ops.device->poll(b->device, 1);
}

/* Warms pages and caches: runs some rows, the beginning of a long one, then whole rows while there
 * is room. Touches all of the arena, whose pages the system clears once in a worker's life. */
static void warm_up(struct bench *b)
{
    uint32_t tokens = b->tokens, shared = b->shared;
    uint32_t room = b->batch_tokens < WARM_TOKENS ? b->batch_tokens : WARM_TOKENS;
    uint32_t n = tokens < room ? room / tokens : 1;
    set_tokens(b, tokens < WARM_TOKENS ? tokens : WARM_TOKENS, 0);
    run_batch(b, n < b->rows_per_batch ? n : b->rows_per_batch);
    set_tokens(b, tokens, shared);
    volatile uint8_t *arena = b->device->arena;
    for (size_t at = 0; at < b->device->arena_bytes; at += 4096)
        arena[at] = arena[at];
}

/* Multiply-adds, twice, of n_rows rows, in thousands of millions. */
static double gflop_of(const struct bench *b, double n_rows)
{
    const struct model_config *c = &b->model.config;
    double n_batches = __builtin_ceil(n_rows / b->rows_per_batch), shared = b->shared;
    double tokens = n_rows * (b->tokens - shared) + n_batches * shared;
    double pairs = n_rows * b->tokens * (b->tokens + 1.0) / 2 -
                   (n_rows - n_batches) * shared * (shared + 1) / 2;
    double hidden = c->hidden_size, q = (double)c->n_heads * c->head_dim,
           kv = (double)c->n_kv_heads * c->head_dim;
    double all_tokens = hidden * (q + 2 * kv) * tokens + 2 * q * pairs;
    double rest = q * hidden + 3 * hidden * c->intermediate_size;
    double last = c->head->kind == HEAD_MLP ? hidden * hidden : 0;
    return 2e-9 * (c->n_layers * all_tokens + rest * (tokens * (c->n_layers - 1) + n_rows) +
                      last * n_rows);
}

static double cpu_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* The peak wanders with the machine's clock: its mean over the run; by the clock, and by the time
 * that threads had a processor. */
struct peaks {
    double sum, cpu_sum, last;
    int n;
};

static void take_peak(struct peaks *p, struct device *d)
{
    double start = seconds(), cpu = cpu_seconds(), peak = measure_peak(d);
    p->sum += peak;
    p->cpu_sum += peak * (seconds() - start) * thread_pool_threads(d->pool) / (cpu_seconds() - cpu);
    p->n++;
    p->last = seconds();
}

/* All batches, without the peaks between them. */
struct took {
    double seconds, cpu_seconds;
};

static struct took run(struct bench *b, uint32_t n_rows, struct peaks *peaks)
{
    struct took took = {0};
    take_peak(peaks, b->device);
    for (uint32_t done = 0; done < n_rows; done += b->rows_per_batch) {
        double start = seconds(), cpu = cpu_seconds();
        run_batch(b, n_rows - done < b->rows_per_batch ? n_rows - done : b->rows_per_batch);
        took.seconds += seconds() - start;
        took.cpu_seconds += cpu_seconds() - cpu;
        if (seconds() - peaks->last > PEAK_EVERY_SECONDS)
            take_peak(peaks, b->device);
    }
    take_peak(peaks, b->device);
    return took;
}

/* Rows that share nothing, as many as the room holds; or one whole and the others' own tokens. */
static void set_room(struct bench *b, uint32_t room)
{
    uint32_t own = b->tokens - b->shared;
    b->rows_per_batch = room < b->tokens ? 1 : 1 + (room - b->tokens) / own;
    b->batch_tokens = b->tokens + (b->rows_per_batch - 1) * own;
}

int main(int argc, char **argv)
{
    if (argc < 5) {
        fprintf(stderr, "usage: bench_forward MODEL ROWS TOKENS BATCH_TOKENS [THREADS [SHARED "
                        "[TYPE [ISA [NAME=DIR ..]]]]]\n");
        return 64;
    }
    uint32_t n_rows = (uint32_t)atoi(argv[2]);
    struct bench b = {
        .tokens = (uint32_t)atoi(argv[3]), .shared = argc > 6 ? (uint32_t)atoi(argv[6]) : 0};
    struct peaks peaks = {0};
    if (n_rows < 1 || b.shared >= b.tokens)
        die(64, "expected rows, and fewer shared tokens than %u", b.tokens);
    set_room(&b, (uint32_t)atoi(argv[4]));
    int threads = argc > 5 ? atoi(argv[5]) : (int)sysconf(_SC_NPROCESSORS_ONLN);
    b.n_loras = argc > 9 ? (uint32_t)argc - 9 : 0;
    b.loras = argv + 9;
    open_model(&b, argv[1], threads, argc > 7 ? argv[7] : "none", argc > 8 ? argv[8] : "auto");
    make_rows(&b);
    warm_up(&b);
    struct took took = run(&b, n_rows, &peaks);
    double gflop = gflop_of(&b, n_rows), gflops = gflop / took.seconds, peak = peaks.sum / peaks.n,
           cpu_seconds_each = took.cpu_seconds / threads, cpu_peak = peaks.cpu_sum / peaks.n,
           tokens = (double)n_rows * b.tokens;
    printf(
        "{\"rows\":%u,\"tokens\":%u,\"seconds\":%.3f,\"cpu_seconds\":%.3f,\"tokens_per_s\":%.1f,"
        "\"gflops\":%.1f,\"peak\":%.1f,\"share\":%.4f,\"cpu_tokens_per_s\":%.1f,\"cpu_peak\":%.1f,"
        "\"cpu_share\":%.4f,\"gflop\":%.3f,\"memory_bytes\":%zu}\n",
        n_rows, b.tokens, took.seconds, took.cpu_seconds, tokens / took.seconds, gflops, peak,
        gflops / peak, tokens / cpu_seconds_each, cpu_peak, gflop / cpu_seconds_each / cpu_peak,
        gflop, b.memory_bytes);
    free_rows(&b);
    qwen2_reward_model_release(&b.model);
    weights_close(&b.weights);
    lora_close_all(&b.adapters);
    cpu_ops.device->close(&b.device);
    return 0;
}
