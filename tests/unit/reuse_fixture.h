/* reuse_fixture.h - random batches of rows that begin alike in many ways, for tests of the KV
 * cache. Included by one test program each. */
#ifndef ASSAY_TESTS_REUSE_FIXTURE_H
#define ASSAY_TESTS_REUSE_FIXTURE_H

#include "tests/unit/model_fixture.h"

enum { MOST_ROWS = 10, ROW_TOKENS = 320, STEP_TOKEN = 3 };

struct rows {
    uint32_t n;
    struct stage_row rows[MOST_ROWS];
    int32_t ids[MOST_ROWS][ROW_TOKENS], positions[MOST_ROWS][4];
};

/* The longest row, more than 97 tokens: a walk ends on its second level or beyond. */
static uint32_t most_row_tokens = ROW_TOKENS;

/* How many ways to begin there are. */
static uint32_t n_roots = 6;

static uint32_t below(uint32_t n)
{
    return (uint32_t)rand() % n;
}

/* A row is a walk down a tree of texts, cut off somewhere: two children a node, each of so many
 * tokens. Equal walks are equal ids; one token in eight is a step. */
static void walk(int32_t *ids, uint32_t n, uint32_t root, uint32_t vocab)
{
    static const uint32_t lengths[] = {96, 40, 17, 64, 33};
    uint32_t node = root + 1, end = 0, next[ROW_TOKENS / 16] = {0};
    for (size_t k = 0; k < sizeof next / sizeof *next; k++)
        next[k] = k > 0 ? below(2) : 0;
    for (uint32_t i = 0, level = 0; i < n; i++) {
        if (i == end) {
            end += lengths[level % 5];
            node = node * 2 + next[level++];
        }
        uint32_t x = (node * 2654435761u ^ i * 40503u) * 2246822519u;
        x ^= x >> 15;
        ids[i] = x % 8 == 0 ? STEP_TOKEN : (int32_t)(4 + x / 8 % (vocab - 4));
    }
}

static uint32_t count_pooled(const struct stage_row *row, const int32_t *ids)
{
    uint32_t n = 0;
    for (uint32_t k = 0; k < row->n_tokens; k++)
        n += ids[k] == STEP_TOKEN;
    return row->pool.type == POOL_ALL         ? row->n_tokens
           : row->pool.type == POOL_STEP      ? n
           : row->pool.type == POOL_POSITIONS ? row->n_positions
                                              : 1;
}

static void choose_pooling(
    const struct model_config *c, struct stage_row *row, int32_t *ids, int32_t *at)
{
    row->pool.type = POOL_LAST + (int)below(POOL_POSITIONS - POOL_LAST + 1);
    row->pool.activation = ACTIVATION_NONE + (int)below(c->n_labels > 1 ? 4 : 3);
    row->pool.step_token = STEP_TOKEN;
    ids[row->n_tokens - 1] = STEP_TOKEN; /* at least one */
    row->n_positions = row->pool.type == POOL_POSITIONS ? 4 : 0;
    for (uint32_t i = 0; i < row->n_positions; i++)
        at[i] = (int32_t)below(row->n_tokens);
    row->n_values =
        count_pooled(row, ids) * activation_values((int)row->pool.activation, c->n_labels);
}

static uint32_t common(const int32_t *a, const int32_t *b, uint32_t most)
{
    uint32_t n = 0;
    while (n < most && a[n] == b[n])
        n++;
    return n;
}

/* Rows from `first` on begin alike: lets them share what all have in common. */
static void share(struct rows *r, uint32_t first)
{
    uint32_t n = r->rows[first].n_tokens;
    for (uint32_t i = first + 1; i < r->n; i++) {
        uint32_t most = r->rows[i].n_tokens - 1;
        n = common(r->ids[first], r->ids[i], n < most ? n : most);
    }
    for (uint32_t i = first + 1; i < r->n; i++)
        r->rows[i].n_shared = n;
}

/* A group of rows of one root and one adapter, which share or not. */
static void add_group(struct rows *r, const struct qwen2_reward_model *m, uint32_t size)
{
    uint32_t first = r->n, root = 64 * below(n_roots),
             adapter = below(m->lora_config.n_adapters + 1);
    for (uint32_t i = 0; i < size && r->n < MOST_ROWS; i++) {
        struct stage_row *row = &r->rows[r->n];
        *row = (struct stage_row){
            .n_tokens = below(4) > 0 ? 97 + below(most_row_tokens - 97) : 1 + below(97),
            .adapter = adapter};
        walk(r->ids[r->n], row->n_tokens, root, m->config.vocab_size);
        choose_pooling(&m->config, row, r->ids[r->n], r->positions[r->n]);
        r->n++;
    }
    if (below(3) > 0)
        share(r, first);
}

static void make_batch(struct rows *r, const struct qwen2_reward_model *m)
{
    uint32_t groups = 1 + below(3);
    memset(r, 0, sizeof *r);
    while (groups-- > 0)
        add_group(r, m, 1 + below(5));
}

/* All rows as one batch, in static memory. */
static struct stage_batch batch_of_rows(const struct rows *r)
{
    static int32_t ids[MAX_TOKENS], explicit_positions[MAX_TOKENS];
    static uint32_t cu[MOST_ROWS + 1];
    struct stage_batch b = {.n_rows = r->n,
        .rows = r->rows,
        .ids = ids,
        .positions = explicit_positions,
        .cu_seqlens = cu};
    for (uint32_t i = 0; i < r->n; i++) {
        const struct stage_row *row = &r->rows[i];
        uint32_t own = row->n_tokens - row->n_shared;
        memcpy(ids + b.n_tokens, r->ids[i] + row->n_shared, own * sizeof *ids);
        memcpy(explicit_positions + b.n_positions, r->positions[i], row->n_positions * sizeof *ids);
        b.n_positions += row->n_positions;
        b.n_values += row->n_values;
        cu[i + 1] = b.n_tokens += own;
    }
    assert_true(b.n_values <= MAX_VALUES && b.n_tokens <= MAX_TOKENS);
    return b;
}

/* Values of all rows; how many tokens the batch has. */
static uint32_t score_rows(struct scorer *s, const struct rows *r, float *values)
{
    static int32_t positions[MAX_TOKENS];
    struct stage_batch b = batch_of_rows(r);
    struct err e = {0};
    die_on(score_batch(&s->model, NULL, &b, b.ids, positions, values, &e), &e);
    assert_int_equal(s->ops->device->poll(s->device, 1), 1);
    return b.n_tokens;
}

#endif
