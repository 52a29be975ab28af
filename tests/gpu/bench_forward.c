/* bench_forward.c - the forward and pooler of a model in process, two batches in flight, on a GPU.
 *
 *     bench_forward MODEL QUANT BATCH_TOKENS BATCHES ROW_TOKENS...
 *
 * MODEL needs a config.json and a checkpoint of that shape; matrices are noise (shapes_only). Rows
 * take the given lengths by turns. One line of JSON: tokens_per_s, tflop_s (work that is executed:
 * the last layer is pruned, attention is causal), ms of a batch, idle_share (of the compute stream,
 * by events around each batch), best_products_ms (the sum over a batch's products of the fastest of
 * cuBLASLt's algorithms, whether or not it keeps a row's bits). */
#include "cuda/gemm_private.h"
#include "schema/alloc.h"
#include "schema/clock.h"
#include "tests/gpu/timing.h"
#include "worker/score.h"

struct bench {
    struct device *d;
    struct weights *weights;
    struct qwen2_reward_model model;
    struct stage_row *rows;
    uint32_t *cu_seqlens, n_rows, n_tokens;
    int32_t *ids, *positions;
    float *values[2];
    const char *quant;
};

static void open_model(struct bench *b, const char *dir, uint32_t max_tokens, uint32_t max_len)
{
    struct err e = {0};
    struct qwen2_configs c = {.cache_config = {max_tokens, max_len, max_tokens, 0},
        .quant_config = {b->quant},
        .n_ranks = 1,
        .n_pp_ranks = 1};
    struct device_options options = {.shapes_only = 1};
    die_on(model_config_load(&c.config, dir, "auto", &e), &e);
    die_on(weights_open(&b->weights, dir, &e), &e);
    die_on(model_choose_type(&c.config, "auto", &c.quant_config, b->weights, &gpu_ops, &e), &e);
    qwen2_device_needs(&options, &c, &gpu_ops);
    die_on(gpu_ops.device->open(&b->d, &options, &e), &e);
    die_on(qwen2_reward_model_init(&b->model, &c, &gpu_ops, b->d, &e), &e);
    die_on(qwen2_reward_model_load_weights(&b->model, b->weights, &e), &e);
}

static void make_rows(struct bench *b, uint32_t max_tokens, const uint32_t *lengths, int n_lengths)
{
    b->rows = xcalloc(max_tokens, sizeof *b->rows);
    b->cu_seqlens = xcalloc(max_tokens + 1u, sizeof *b->cu_seqlens);
    b->ids = xcalloc(max_tokens, sizeof *b->ids);
    b->positions = xcalloc(max_tokens, sizeof *b->positions);
    for (uint32_t i = 0; i < max_tokens; i++)
        b->ids[i] = (int32_t)((i * 7919u) % b->model.config.vocab_size);
    for (;;) {
        uint32_t length = lengths[b->n_rows % (uint32_t)n_lengths];
        if (b->n_tokens + length > max_tokens)
            break;
        b->rows[b->n_rows++] = (struct stage_row){.n_tokens = length,
            .pool.type = POOL_LAST,
            .pool.activation = ACTIVATION_NONE,
            .n_values = b->model.config.n_labels};
        b->n_tokens += length;
        b->cu_seqlens[b->n_rows] = b->n_tokens;
    }
    for (int i = 0; i < 2; i++)
        b->values[i] = xcalloc((size_t)b->n_rows * b->model.config.n_labels, sizeof(float));
}

static void submit(struct bench *b, int turn)
{
    struct err e = {0};
    struct stage_batch batch = {.n_rows = b->n_rows,
        .n_tokens = b->n_tokens,
        .n_values = b->n_rows * b->model.config.n_labels,
        .rows = b->rows,
        .ids = b->ids,
        .positions = b->positions,
        .cu_seqlens = b->cu_seqlens};
    die_on(score_batch(&b->model, NULL, &batch, b->ids, b->positions, b->values[turn % 2], &e), &e);
}

/* Wall time of n batches, and how much of it lay between a batch's begin and its end on the device.
 */
static void run_batches(struct bench *b, int n, double *wall_ms, double *busy_ms)
{
    cudaEvent_t *at = xcalloc(2 * (size_t)n, sizeof(cudaEvent_t));
    for (int i = 0; i < 2 * n; i++)
        GPU_MUST(cudaEventCreateWithFlags(&at[i], cudaEventDefault));
    long long start = now_mono_ms();
    float ms = 0;
    for (int i = 0; i < n; i++) {
        if (i >= 2)
            gpu_ops.device->poll(b->d, 1);
        GPU_MUST(cudaEventRecord(at[2 * i], b->d->compute));
        submit(b, i);
        GPU_MUST(cudaEventRecord(at[2 * i + 1], b->d->compute));
    }
    while (gpu_ops.device->poll(b->d, 1))
        ;
    *wall_ms = (double)(now_mono_ms() - start);
    GPU_MUST(cudaEventSynchronize(at[2 * n - 1]));
    for (int i = 0; i < n; i++) {
        GPU_MUST(cudaEventElapsedTime(&ms, at[2 * i], at[2 * i + 1]));
        *busy_ms += (double)ms;
    }
    free(at);
}

/* ---- the products' ceiling ---- */

struct trial {
    struct product *p;
    const cublasLtMatmulAlgo_t *algo;
    struct operands o;
};

static void run_trial(struct device *d, void *arg)
{
    struct trial *t = arg;
    LT_MUST(gemm_multiply(d, t->p, t->algo, &t->o));
}

static double best_ms(struct bench *b, struct product *p, int64_t rows)
{
    cublasLtMatmulAlgo_t found[GEMM_MAX_CANDIDATES];
    int n = gemm_candidates(b->d, p, &rows, 1, found);
    struct tensor w = noise_tensor(b->d, p->in, p->n, p->k, 0.03f),
                  bias = noise_tensor(b->d, p->out, 1, p->n, 1);
    struct trial t = {.p = p,
        .o = {.x = noise_tensor(b->d, p->in, rows, p->k, 1),
            .out = noise_tensor(b->d, p->out, rows, p->n, 1),
            .w = {.data = w.data,
                .dtype = w.dtype,
                .rows = p->n,
                .cols = p->k,
                .stride = w.stride,
                .scale = w.scale},
            .bias = bias.data}};
    double best = 1e30;
    for (int i = 0; i < n; i++) {
        t.algo = &found[i];
        if (gemm_multiply(b->d, p, t.algo, &t.o) != CUBLAS_STATUS_SUCCESS) {
            (void)cudaGetLastError();
            continue; /* offered, but not done */
        }
        double ms = (double)time_of(b->d, run_trial, &t);
        best = ms < best ? ms : best;
    }
    GPU_MUST(cudaFree(w.data));
    GPU_MUST(cudaFree(t.o.x.data));
    GPU_MUST(cudaFree(t.o.out.data));
    return best;
}

/* Every layer has each of its shapes once, in stretches of gemm_max_rows; the head's (F32) and
 * the last layer's pruned ones are left out. */
static double best_products_ms(struct bench *b)
{
    struct gemm *g = b->d->gemm;
    double sum = 0;
    for (int i = 0; i < g->n_products; i++) {
        struct product *p = &g->products[i];
        if (p->out == DTYPE_F32 && p->in != DTYPE_I8)
            continue;
        int64_t most = gemm_max_rows(p->in), all = (int64_t)b->n_tokens;
        int64_t step = p->in == DTYPE_I8 ? round_up(most < all ? most : all, QUANT_ROWS)
                       : most < all      ? most
                                         : all;
        int pruned = p->n != (int64_t)(b->model.config.n_heads + 2 * b->model.config.n_kv_heads) *
                                 b->model.config.head_dim;
        sum += best_ms(b, p, step) * (double)b->n_tokens / (double)step *
               (b->model.config.n_layers - (pruned ? 1 : 0));
    }
    return sum;
}

/* Multiply-adds, twice. */
static double flops(const struct bench *b)
{
    const struct model_config *c = &b->model.config;
    double h = c->hidden_size, q = (double)c->n_heads * c->head_dim,
           kv = (double)c->n_kv_heads * c->head_dim, t = b->n_tokens, pairs = 0;
    double first = h * (q + 2 * kv), rest = q * h + 3 * h * c->intermediate_size;
    for (uint32_t r = 0; r < b->n_rows; r++)
        pairs += (double)b->rows[r].n_tokens * (b->rows[r].n_tokens + 1) / 2;
    return 2 * (t * first * c->n_layers + t * rest * (c->n_layers - 1) + b->n_rows * rest) +
           4 * q * pairs * c->n_layers;
}

int main(int argc, char **argv)
{
    struct bench b = {.quant = argc > 2 ? argv[2] : "none"};
    uint32_t lengths[64], longest = 0;
    double wall = 0, busy = 0, unused = 0;
    if (argc < 6 || argc > 5 + 64) {
        fprintf(stderr, "usage: bench_forward MODEL QUANT BATCH_TOKENS BATCHES ROW_TOKENS...\n");
        return 64;
    }
    uint32_t max_tokens = (uint32_t)atoi(argv[3]);
    int n = atoi(argv[4]);
    for (int i = 5; i < argc; i++) {
        lengths[i - 5] = (uint32_t)atoi(argv[i]);
        longest = lengths[i - 5] > longest ? lengths[i - 5] : longest;
    }
    log_init("bench_forward", -1, LOG_LEVEL_ERROR);
    open_model(&b, argv[1], max_tokens, longest);
    make_rows(&b, max_tokens, lengths, argc - 5);
    run_batches(&b, 3, &unused, &unused);
    run_batches(&b, n, &wall, &busy);
    printf("{\"tokens_per_s\":%.1f,\"tflop_s\":%.4f,\"ms\":%.3f,\"idle_share\":%.5f,"
           "\"best_products_ms\":%.3f,\"rows\":%u,\"tokens\":%u}\n",
        n * (double)b.n_tokens / wall * 1e3, n * flops(&b) / wall * 1e-9, wall / n, 1 - busy / wall,
        best_products_ms(&b), b.n_rows, b.n_tokens);
    return 0;
}
