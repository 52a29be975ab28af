/* bench_reuse.c - rows that go on from rows of earlier batches, with a KV cache and without, in
 * process.
 *
 *     bench_reuse MODEL PROMPT BEAMS STEPS STEP_TOKENS [BATCH_TOKENS [THREADS [CACHE_BYTES]]]
 *         one line of JSON
 *
 * A beam search with a process reward model: each of STEPS steps scores BEAMS rows, which are the
 * prompt, a row of the step before, and STEP_TOKENS tokens of their own, whose last is pooled. A
 * quarter of the beams go on, four ways each. Rows of a batch share the prompt as the planner lets
 * them. STEPS 1 to 3 with few STEP_TOKENS is a system prompt that job after job begins with.
 *
 * The two take turns, step by step, and must agree in every bit. cpu_seconds is processor time. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "schema/alloc.h"
#include "schema/log.h"
#include "worker/cpu/device.h"
#include "worker/score.h"

struct shape {
    uint32_t prompt, beams, steps, step_tokens, batch_tokens, row_tokens;
};

struct scorer {
    struct device *device;
    struct weights *weights;
    struct qwen2_reward_model model;
    double seconds, cpu_seconds;
    float *values; /* [beams][labels] */
};

static void die_on(int rc, const struct err *e)
{
    if (rc != 0)
        die(70, "%s", e->msg);
}

static void open_scorer(
    struct scorer *s, const char *dir, const struct shape *of, int threads, uint64_t kv_cache_bytes)
{
    struct err e = {0};
    struct qwen2_configs c = {
        .cache_config = {of->batch_tokens, of->row_tokens, of->beams, kv_cache_bytes},
        .quant_config = {"none"},
        .n_ranks = 1,
        .n_pp_ranks = 1};
    struct device_options options = {.n_threads = threads, .isa = "auto"};
    die_on(model_config_load(&c.config, dir, "auto", &e), &e);
    die_on(weights_open(&s->weights, dir, &e), &e);
    die_on(model_choose_type(&c.config, "auto", &c.quant_config, s->weights, &cpu_ops, &e), &e);
    qwen2_device_needs(&options, &c, &cpu_ops);
    die_on(cpu_ops.device->open(&s->device, &options, &e), &e);
    die_on(qwen2_reward_model_init(&s->model, &c, &cpu_ops, s->device, &e), &e);
    die_on(qwen2_reward_model_load_weights(&s->model, s->weights, &e), &e);
    s->values = xcalloc((size_t)of->beams * c.config.n_labels, sizeof *s->values);
}

static void close_scorer(struct scorer *s)
{
    free(s->values);
    qwen2_reward_model_release(&s->model);
    weights_close(&s->weights);
    cpu_ops.device->close(&s->device);
}

/* The rows of a step; all have n_tokens. */
struct step {
    const struct shape *of;
    int32_t **ids; /* [beams][row_tokens] */
    uint32_t n_tokens;
};

/* Rows [from, to) as one batch, which has the prompt once. */
static void run_batch(struct scorer *s, const struct step *step, uint32_t from, uint32_t to)
{
    uint32_t n = to - from, prompt = step->of->prompt, at = 0;
    uint32_t n_labels = s->model.config.n_labels;
    struct stage_row *rows = xcalloc(n, sizeof *rows);
    uint32_t *cu_seqlens = xcalloc(n + 1, sizeof *cu_seqlens);
    int32_t *ids = xcalloc((size_t)n * step->n_tokens, sizeof *ids),
            *positions = xcalloc((size_t)n * step->n_tokens, sizeof *positions);
    struct err e = {0};
    for (uint32_t r = 0; r < n; r++) {
        uint32_t shared = r > 0 ? prompt : 0, own = step->n_tokens - shared;
        rows[r] = (struct stage_row){.n_tokens = step->n_tokens,
            .pool.type = POOL_LAST,
            .pool.activation = ACTIVATION_NONE,
            .n_values = n_labels,
            .n_shared = shared};
        memcpy(ids + at, step->ids[from + r] + shared, own * sizeof *ids);
        cu_seqlens[r + 1] = at += own;
    }
    struct stage_batch b = {.n_rows = n,
        .n_tokens = at,
        .n_values = n * n_labels,
        .rows = rows,
        .ids = ids,
        .cu_seqlens = cu_seqlens};
    die_on(score_batch(&s->model, NULL, &b, ids, positions, s->values + from * n_labels, &e), &e);
    cpu_ops.device->poll(s->device, 1);
    free(rows);
    free(cu_seqlens);
    free(ids);
    free(positions);
}

static double clock_of(clockid_t which)
{
    struct timespec t;
    clock_gettime(which, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* As many rows to a batch as its tokens allow, shared ones counted once. */
static void run_step(struct scorer *s, const struct step *step)
{
    const struct shape *of = step->of;
    uint32_t own = step->n_tokens - of->prompt;
    uint32_t room = of->batch_tokens > of->prompt ? (of->batch_tokens - of->prompt) / own : 0;
    uint32_t rows = room > 0 ? room : 1;
    double start = clock_of(CLOCK_MONOTONIC), cpu = clock_of(CLOCK_PROCESS_CPUTIME_ID);
    for (uint32_t r = 0; r < of->beams; r += rows)
        run_batch(s, step, r, r + rows < of->beams ? r + rows : of->beams);
    s->seconds += clock_of(CLOCK_MONOTONIC) - start;
    s->cpu_seconds += clock_of(CLOCK_PROCESS_CPUTIME_ID) - cpu;
}

/* Each row of the next step: a row of this one, and tokens of its own. */
static void go_on(struct step *step, uint32_t vocab)
{
    const struct shape *of = step->of;
    uint32_t quarter = of->beams / 4 > 0 ? of->beams / 4 : 1, n = step->n_tokens;
    for (uint32_t r = of->beams; n > of->prompt && r-- > 0;)
        if (r / 4 % quarter != r)
            memcpy(step->ids[r], step->ids[r / 4 % quarter], n * sizeof **step->ids);
    for (uint32_t r = 0; r < of->beams; r++)
        for (uint32_t i = n; i < n + of->step_tokens; i++)
            step->ids[r][i] = (int32_t)(((uint32_t)rand() >> 4) % vocab);
    step->n_tokens += of->step_tokens;
}

static void run(struct scorer pair[2], const struct shape *of)
{
    uint32_t vocab = pair[0].model.config.vocab_size;
    struct step step = {.of = of, .ids = xcalloc(of->beams, sizeof *step.ids)};
    size_t bytes = (size_t)of->beams * pair[0].model.config.n_labels * sizeof(float);
    for (uint32_t r = 0; r < of->beams; r++) {
        step.ids[r] = xcalloc(of->row_tokens, sizeof **step.ids);
        for (uint32_t i = 0; i < of->prompt; i++)
            step.ids[r][i] = (int32_t)(i * 7919u % vocab);
    }
    step.n_tokens = of->prompt;
    for (uint32_t k = 0; k < of->steps; k++) {
        go_on(&step, vocab);
        for (int i = 0; i < 2; i++)
            run_step(&pair[i], &step);
        if (memcmp(pair[0].values, pair[1].values, bytes) != 0)
            die(70, "step %u: expected the same bits with and without a cache", k);
    }
    for (uint32_t r = 0; r < of->beams; r++)
        free(step.ids[r]);
    free(step.ids);
}

int main(int argc, char **argv)
{
    if (argc < 6) {
        fprintf(stderr, "usage: bench_reuse MODEL PROMPT BEAMS STEPS STEP_TOKENS [BATCH_TOKENS "
                        "[THREADS [CACHE_BYTES]]]\n");
        return 64;
    }
    struct shape of = {(uint32_t)atoi(argv[2]), (uint32_t)atoi(argv[3]), (uint32_t)atoi(argv[4]),
        (uint32_t)atoi(argv[5]), argc > 6 ? (uint32_t)atoi(argv[6]) : 4096, 0};
    of.row_tokens = of.prompt + of.steps * of.step_tokens;
    if (of.prompt < 1 || of.beams < 1 || of.steps < 1 || of.step_tokens < 1)
        die(64, "expected a prompt, beams, steps and tokens of at least 1 each");
    int threads = argc > 7 ? atoi(argv[7]) : (int)sysconf(_SC_NPROCESSORS_ONLN);
    struct scorer pair[2] = {{0}};
    open_scorer(&pair[0], argv[1], &of, threads, 0);
    open_scorer(
        &pair[1], argv[1], &of, threads, argc > 8 ? strtoull(argv[8], NULL, 10) : 4ull << 30);
    run(pair, &of);
    const struct qwen2_reward_model *m = &pair[1].model;
    printf("{\"rows\":%u,\"tokens\":%llu,\"reused\":%llu,\"kv_bytes\":%llu,\"seconds\":%.3f,"
           "\"seconds_with\":%.3f,\"cpu_seconds\":%.3f,\"cpu_seconds_with\":%.3f,\"times\":%.2f,"
           "\"cpu_times\":%.2f}\n",
        of.beams * of.steps, (unsigned long long)m->tokens_given,
        (unsigned long long)m->tokens_reused, (unsigned long long)qwen2_reward_model_kv_bytes(m),
        pair[0].seconds, pair[1].seconds, pair[0].cpu_seconds, pair[1].cpu_seconds,
        pair[0].seconds / pair[1].seconds, pair[0].cpu_seconds / pair[1].cpu_seconds);
    close_scorer(&pair[0]);
    close_scorer(&pair[1]);
    return 0;
}
