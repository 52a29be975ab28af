/* model_fixture.h - the model in process, without a broker, on any table of operations: the golden
 * vectors of tests/vectors and how to score them, by one rank or several processes. Included by one
 * test program each. */
#ifndef ASSAY_TESTS_MODEL_FIXTURE_H
#define ASSAY_TESTS_MODEL_FIXTURE_H

#include <dirent.h>
#include <jansson.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "shm/stage.h"
#include "worker/comm.h"
#include "worker/lora.h"
#include "worker/score.h"

#define MAX_TOKENS 4096
#define MAX_ROWS 64
#define MAX_VALUES 16384
/* How long a rank waits for another, which may try algorithms meanwhile: on a loaded machine, under
 * a sanitizer, that takes minutes. */
#define DEADLINE_MS 300000
#define UNUSED __attribute__((unused)) /* by some of those that include this */

/* A model on one rank, ready to score. */
struct scorer {
    const struct ops *ops;
    struct comm *comm;
    struct device *device;
    struct weights *weights;
    struct lora_config adapters;
    struct qwen2_reward_model model;
};

static void die_on(int rc, const struct err *e)
{
    if (rc != 0) {
        fprintf(stderr, "%s\n", e->msg);
        abort();
    }
}

/* How the scorers that are opened hold the layers' matrices. */
static const char *quant_method = "none";

/* What the layers' products are of. */
static const char *dtype = "auto";

/* --head of the models that are opened: what the vector file opened last says. */
static char head_option[HEAD_OPTION_BYTES] = "auto";

/* The adapters of the models that are opened, NAME=DIR: what the vector file opened last says. */
static char adapter_options[4][256];
static uint32_t n_adapters;

/* Of the models that are opened, for keys and values of earlier batches. */
static uint64_t kv_cache_bytes;

/* Of the models that are opened, the token budget of a batch. */
static uint32_t max_batch_tokens = MAX_TOKENS;

/* --activations; NULL: not chosen, they are as they are. */
static const char *activations;

/* Where a device remembers its choices; NULL: it does not. */
static const char *cache_dir;

/* A rank of a group: the segment through which they sum (-1: there is one rank), its place, and the
 * pipeline stage that it has (n_pp_ranks 0: there is one). */
struct scorer_rank {
    int comm_fd;
    uint32_t rank, n_ranks, pp_rank, n_pp_ranks;
};

static void scorer_open_rank(struct scorer *s, const struct ops *ops, const char *name,
    const char *isa, int threads, struct scorer_rank r)
{
    char dir[512];
    struct err e = {0};
    struct qwen2_configs c = {.cache_config = {max_batch_tokens, 1024, MAX_ROWS, kv_cache_bytes},
        .quant_config = {quant_method},
        .rank = r.rank,
        .n_ranks = r.n_ranks,
        .pp_rank = r.pp_rank,
        .n_pp_ranks = r.n_pp_ranks ? r.n_pp_ranks : 1};
    memset(s, 0, sizeof *s);
    s->ops = ops;
    snprintf(dir, sizeof dir, "%s%s", name[0] == '/' ? "" : "tests/models/", name);
    die_on(model_config_load(&c.config, dir, head_option, &e), &e);
    die_on(comm_new(&s->comm, r.comm_fd, r.rank, r.n_ranks, DEADLINE_MS, &e), &e);
    die_on(weights_open(&s->weights, dir, &e), &e);
    die_on(quantization_settle(&c.config.quantization, s->weights, &e), &e);
    if (activations)
        die_on(quantization_choose(&c.config.quantization, activations, &e), &e);
    die_on(model_choose_type(&c.config, dtype, &c.quant_config, s->weights, ops, &e), &e);
    const char *adapters[4] = {
        adapter_options[0], adapter_options[1], adapter_options[2], adapter_options[3]};
    die_on(lora_open_all(&s->adapters, adapters, NULL, n_adapters, &c.config, &e), &e);
    c.lora_config = s->adapters;
    struct device_options options = {.n_threads = threads,
        .isa = isa,
        .comm = s->comm,
        .deadline_ms = DEADLINE_MS,
        .gpu = (int)r.rank,
        .cache_dir = cache_dir};
    qwen2_device_needs(&options, &c, ops);
    die_on(ops->device->open(&s->device, &options, &e), &e);
    die_on(qwen2_reward_model_init(&s->model, &c, ops, s->device, &e), &e);
    die_on(qwen2_reward_model_load_weights(&s->model, s->weights, &e), &e);
    die_on(lora_load(&s->model, &e), &e);
}

UNUSED static void scorer_open(
    struct scorer *s, const struct ops *ops, const char *name, const char *isa, int threads)
{
    scorer_open_rank(s, ops, name, isa, threads, (struct scorer_rank){-1, 0, 1, 0, 1});
}

static void scorer_close(struct scorer *s)
{
    qwen2_reward_model_release(&s->model);
    weights_close(&s->weights);
    lora_close_all(&s->adapters);
    s->ops->device->close(&s->device);
    comm_free(&s->comm);
}

/* One row of a vector file. */
struct vector_row {
    int32_t *ids, *positions;
    float *expected; /* [stage.n_values] */
    float *native;   /* the same as the reference gives in the checkpoint's own type, or NULL */
    struct stage_row stage;
    int is_probability;
};

static int32_t *read_ints(const json_t *list, uint32_t *n)
{
    *n = (uint32_t)json_array_size(list);
    int32_t *out = calloc(*n + 1, sizeof *out);
    for (uint32_t i = 0; i < *n; i++)
        out[i] = (int32_t)json_integer_value(json_array_get(list, i));
    return out;
}

static int named(const json_t *pool, const char *key, int (*from_name)(const char *, unsigned long),
    int fallback)
{
    const char *name = json_string_value(json_object_get(pool, key));
    return name ? from_name(name, strlen(name)) : fallback;
}

/* The number of the adapter of this name; 0: none is named. */
static uint32_t adapter_number(const char *name)
{
    uint32_t k = 0;
    while (name && k < n_adapters &&
           (strncmp(adapter_options[k], name, strlen(name)) != 0 ||
               adapter_options[k][strlen(name)] != '='))
        k++;
    assert_true(!name || k < n_adapters);
    return name ? k + 1 : 0;
}

static struct vector_row read_row(const json_t *o, const struct model_config *c)
{
    struct vector_row r = {0};
    const json_t *pool = json_object_get(o, "pool"), *values = json_object_get(o, "values");
    const json_t *step = json_object_get(pool, "step_token");
    r.ids = read_ints(json_object_get(o, "ids"), &r.stage.n_tokens);
    r.positions = read_ints(json_object_get(pool, "positions"), &r.stage.n_positions);
    r.stage.pool.type = named(pool, "type", pool_type_from_name, c->pool.type);
    r.stage.pool.activation = named(pool, "activation", activation_from_name, c->pool.activation);
    r.stage.pool.step_token = step ? (int32_t)json_integer_value(step) : c->pool.step_token;
    r.stage.n_values = (uint32_t)json_array_size(values);
    r.stage.adapter = adapter_number(json_string_value(json_object_get(o, "adapter")));
    r.expected = calloc(r.stage.n_values, sizeof *r.expected);
    for (uint32_t i = 0; i < r.stage.n_values; i++)
        r.expected[i] = (float)json_number_value(json_array_get(values, i));
    const json_t *native = json_object_get(o, "values_native");
    if (native)
        r.native = calloc(r.stage.n_values, sizeof *r.native);
    for (uint32_t i = 0; native && i < r.stage.n_values; i++)
        r.native[i] = (float)json_number_value(json_array_get(native, i));
    r.is_probability = r.stage.pool.activation != ACTIVATION_NONE;
    return r;
}

struct vector {
    char model[128];
    int tp[4], n_tp;
    struct vector_row *rows;
    uint32_t n_rows;
};

/* Rows of more tokens are left out: for tests that compute slowly. */
static uint32_t longest_row = UINT32_MAX;

static void sequence_free(struct vector_row *r)
{
    free(r->ids);
    free(r->positions);
    free(r->expected);
    free(r->native);
}

static struct vector vector_open(const char *file)
{
    struct vector v = {{0}, {0}, 0, NULL, 0};
    char path[512];
    struct model_config config;
    struct err e = {0};
    snprintf(path, sizeof path, "tests/vectors/%s", file);
    json_t *root = json_load_file(path, 0, NULL);
    const json_t *rows = json_object_get(root, "rows"), *tp = json_object_get(root, "tp");
    assert_non_null(root);
    snprintf(v.model, sizeof v.model, "%s", json_string_value(json_object_get(root, "model")));
    snprintf(path, sizeof path, "tests/models/%s", v.model);
    const char *head = json_string_value(json_object_get(root, "head"));
    snprintf(head_option, sizeof head_option, "%s", head ? head : "auto");
    die_on(model_config_load(&config, path, head_option, &e), &e);
    const json_t *adapters = json_object_get(root, "adapters");
    n_adapters = (uint32_t)json_array_size(adapters);
    for (uint32_t i = 0; i < n_adapters; i++) {
        const char *name = json_string_value(json_array_get(adapters, i));
        snprintf(adapter_options[i], sizeof adapter_options[i], "%s=tests/models/lora/%s-%s", name,
            v.model, name);
    }
    v.n_tp = (int)json_array_size(tp);
    for (int i = 0; i < v.n_tp; i++)
        v.tp[i] = (int)json_integer_value(json_array_get(tp, (size_t)i));
    v.rows = calloc(json_array_size(rows), sizeof *v.rows);
    for (size_t i = 0; i < json_array_size(rows); i++) {
        v.rows[v.n_rows] = read_row(json_array_get(rows, i), &config);
        if (v.rows[v.n_rows].stage.n_tokens > longest_row)
            sequence_free(&v.rows[v.n_rows]);
        else
            v.n_rows++;
    }
    json_decref(root);
    return v;
}

static void vector_close(struct vector *v)
{
    for (uint32_t i = 0; i < v->n_rows; i++)
        sequence_free(&v->rows[i]);
    free(v->rows);
}

/* The rows order[0..n-1] as one batch, in static memory. */
static struct stage_batch batch_of(const struct vector *v, const uint32_t *order, uint32_t n)
{
    static int32_t ids[MAX_TOKENS], explicit_positions[MAX_TOKENS];
    static struct stage_row rows[MAX_ROWS];
    static uint32_t cu[MAX_ROWS + 1];
    struct stage_batch b = {
        .n_rows = n, .rows = rows, .ids = ids, .positions = explicit_positions, .cu_seqlens = cu};
    for (uint32_t r = 0; r < n; r++) {
        const struct vector_row *row = &v->rows[order[r]];
        rows[r] = row->stage;
        memcpy(ids + b.n_tokens, row->ids, row->stage.n_tokens * sizeof *ids);
        memcpy(explicit_positions + b.n_positions, row->positions,
            row->stage.n_positions * sizeof *ids);
        b.n_positions += row->stage.n_positions;
        b.n_values += row->stage.n_values;
        cu[r + 1] = b.n_tokens += row->stage.n_tokens;
    }
    return b;
}

/* Score the rows order[0..n-1] as one batch; values row after row. prune 0: hidden states of all
 * tokens are computed first, and the pooler picks from them. */
static void score(struct scorer *s, const struct vector *v, const uint32_t *order, uint32_t n,
    int prune, float *values)
{
    static int32_t positions[MAX_TOKENS];
    struct stage_batch b = batch_of(v, order, n);
    struct pooling_metadata pooling;
    struct lora_mapping mapping;
    struct intermediate_tensors out;
    struct err e = {0};
    for (uint32_t r = 0; r < n; r++)
        for (uint32_t i = b.cu_seqlens[r]; i < b.cu_seqlens[r + 1]; i++)
            positions[i] = (int32_t)(i - b.cu_seqlens[r]);
    die_on(pooling_metadata_init(&pooling, &b, s->model.config.n_labels, MAX_TOKENS, &e), &e);
    die_on(score_map_adapters(&s->model, &b, &pooling, &mapping, &e), &e);
    pooling.lora = &mapping;
    struct attn_metadata meta = {.n_rows = n,
        .cu_seqlens = b.cu_seqlens,
        .out_rows = prune ? pooling.out_rows : NULL,
        .n_out_rows = pooling.n_out_rows};
    struct forward_inputs in = {.input_ids = b.ids,
        .positions = positions,
        .attn_metadata = &meta,
        .lora_mapping = mapping};
    die_on(qwen2_reward_model_forward(&s->model, &in, &out, &e), &e);
    if (!prune) {
        struct tensor picked = out.hidden_states;
        picked.rows = pooling.n_out_rows;
        picked.data = calloc((size_t)picked.rows, (size_t)picked.stride * sizeof(float));
        cpu_ops.gather(s->device, picked, out.hidden_states, pooling.out_rows);
        pooler(&s->model, picked, &pooling, values);
        free(picked.data);
    } else {
        pooler(&s->model, out.hidden_states, &pooling, values);
    }
    assert_int_equal(s->ops->device->poll(s->device, 1), 1);
    pooling_metadata_release(&pooling);
    free((void *)mapping.tokens);
}

/* Each row of such a batch has the bits that it had alone. */
#define ROW_VALUES 1024
UNUSED static void assert_same_bits(const struct vector *v, const uint32_t *order, uint32_t n,
    const float *values, float (*alone)[ROW_VALUES])
{
    for (uint32_t i = 0; i < n; values += v->rows[order[i++]].stage.n_values)
        assert_memory_equal(
            values, alone[order[i]], v->rows[order[i]].stage.n_values * sizeof *values);
}

/* All rows of a vector, in batches as they come; values of all rows, row after row. */
static void score_all(struct scorer *s, const struct vector *v, float *values)
{
    uint32_t order[MAX_ROWS], at = 0;
    for (uint32_t r = 0; r < v->n_rows;) {
        uint32_t n = 0, tokens = 0, n_values = 0;
        while (r < v->n_rows && n < 5 && tokens + v->rows[r].stage.n_tokens <= MAX_TOKENS) {
            tokens += v->rows[r].stage.n_tokens;
            n_values += v->rows[r].stage.n_values;
            order[n++] = r++;
        }
        score(s, v, order, n, 1, values + at);
        at += n_values;
    }
}

static uint32_t count_values(const struct vector *v)
{
    uint32_t n = 0;
    for (uint32_t r = 0; r < v->n_rows; r++)
        n += v->rows[r].stage.n_values;
    assert_true(n <= MAX_VALUES);
    return n;
}

UNUSED static void check_values(const struct vector *v, const float *values)
{
    for (uint32_t r = 0; r < v->n_rows; r++) {
        double tolerance = v->rows[r].is_probability ? 1e-5 : 1e-4;
        for (uint32_t i = 0; i < v->rows[r].stage.n_values; i++, values++)
            if (!(fabs((double)*values - (double)v->rows[r].expected[i]) <= tolerance))
                fail_msg("%s row %u (%u tokens) value %u: expected %.9g, found %.9g", v->model, r,
                    v->rows[r].stage.n_tokens, i, (double)v->rows[r].expected[i], (double)*values);
    }
}

/* Scores of a vector by tp ranks, each a process of its own; rank 0's values. */
UNUSED static void score_ranks(
    const struct ops *ops, const struct vector *v, uint32_t tp, float *values)
{
    size_t bytes = MAX_VALUES * sizeof *values;
    struct err e = {0};
    float *shared =
        mmap(NULL, bytes * tp, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    int fd = stage_segment_new(stage_comm_bytes(tp), &e), status;
    pid_t pids[8];
    die_on(fd < 0 ? fd : 0, &e);
    for (uint32_t r = 0; r < tp; r++) {
        if ((pids[r] = fork()) == 0) {
            struct scorer s;
            scorer_open_rank(&s, ops, v->model, "auto", 1, (struct scorer_rank){fd, r, tp, 0, 1});
            score_all(&s, v, shared + r * MAX_VALUES);
            scorer_close(&s);
            _exit(0);
        }
    }
    for (uint32_t r = 0; r < tp; r++) {
        waitpid(pids[r], &status, 0);
        assert_int_equal(status, 0);
    }
    for (uint32_t r = 1; r < tp; r++)
        assert_memory_equal(shared, shared + r * MAX_VALUES, count_values(v) * sizeof *values);
    memcpy(values, shared, bytes);
    munmap(shared, bytes * tp);
    close(fd);
}

static int is_vector(const struct dirent *entry)
{
    const char *dot = strrchr(entry->d_name, '.');
    return dot && strcmp(dot, ".json") == 0;
}

/* Call check for every step-th file of tests/vectors; there must be some. */
UNUSED static void each_vector_by(int step, void (*check)(const struct vector *v))
{
    struct dirent **names;
    int n = scandir("tests/vectors", &names, is_vector, alphasort);
    assert_true(n >= 25);
    for (int i = 0; i < n; i++) {
        if (i % step == 0) {
            struct vector v = vector_open(names[i]->d_name);
            check(&v);
            vector_close(&v);
        }
        free(names[i]);
    }
    free(names);
}

UNUSED static void each_vector(void (*check)(const struct vector *v))
{
    each_vector_by(1, check);
}

/* Where kernels have the sanitizer, which looks at the same code each time, every third. */
UNUSED static void each_vector_of_kernels(void (*check)(const struct vector *v))
{
#if defined(__SANITIZE_ADDRESS__)
    each_vector_by(3, check);
#else
    each_vector_by(1, check);
#endif
}

#endif
