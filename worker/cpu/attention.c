/* attention.c - causal attention over packed rows, blocked, with an online softmax.
 *
 * A task is (sequence, kv head, tile of query tokens). A query is one token of one of the heads
 * that share the kv head, so each key and value is loaded once for all of them. Queries are the
 * columns of every matrix here, NR of them to a panel of the tile kernel. Keys are processed in
 * tiles of TILE_KEYS, counted from position 0 of the sequence; for each tile and panel:
 *     S = K Q^T        [keys, NR]         one chain over head_dim; exponents of 2
 *     the softmax step of every column    base and running sum, kept by column (kernels.h)
 *     O^T += V^T P     [head_dim, NR]     the chain over keys continues
 * S has the layout that the second product reads, and never leaves the first-level cache. At the
 * end comes O / l. A column's base is the first score that none so far exceeds by much: O is
 * scaled only when the base moves.
 *
 * Keys that no query of a group of columns sees are skipped. Of the others, a key that a column
 * does not see weighs 0 there, and if a value is not finite it is skipped too. All this depends on
 * the one sequence alone, so neither the batch nor the threads can change a bit. Memory: a few
 * tiles per thread, whatever the length.
 *
 * For a sequence with a prefix (ops.h) the computation is the same, done for its own tokens only.
 * Positions count from the prefix's first token, so the tiles of keys are those of the whole
 * sequence. Only the keys' places differ, and one tile may hold keys from both. Nor does it matter
 * that the first keys are cached: they come from their blocks instead of the batch. */
#include <math.h>
#include <string.h>

#include "worker/cpu/device.h"

#define TILE_KEYS 64
#define CACHE_LINE 64
#define KEY_STEP (TILE_KEYS + 16)
#define TASK_FLOATS (64 << 10) /* most of a task's queries: they and the outputs stay cached */
#define TASKS_PER_THREAD 4     /* at least, for each thread but the first, if tokens suffice */

struct attention {
    struct device *d;
    struct tensor out, q, k, v, cached_k, cached_v;
    const struct attention_shape *shape;
    const struct attn_metadata *meta;
    int64_t heads_per_kv, tile_tokens;
    int64_t *first_tile; /* [n_rows + 1]: number of each sequence's first tile */
    int64_t nr;          /* columns of a panel */
    int64_t sum_rows;    /* rows of a panel of outputs: head_dim, in whole COLUMN_ROWS */
    int64_t value_step;  /* from one value to the next; uses every set of the cache */
    float q_scale;       /* factor of the queries: scores are then exponents of 2 */
};

/* One task and its scratch memory. Columns are rounded up to whole TILE_COLUMNS; those beyond
 * n_queries repeat the last one. */
struct tile {
    const struct attention *a;
    struct attn_block_table cached;
    struct attn_prefix prefix; /* at positions from cached.n_tokens on */
    int64_t first;             /* the sequence's first own token in the batch, behind the prefix */
    int64_t kv_head, from, n;  /* query tokens at positions [from, from + n) */
    int64_t n_queries, n_columns;
    int64_t next_key, next_float; /* see next_line */
    int odd;           /* some of this tile's values are not finite, and some are hidden */
    float *queries;    /* panels over head_dim */
    float *rows;       /* [NR][sum_rows]: queries or outputs, one row after another */
    float *keys;       /* [head_dim][KEY_STEP] */
    float *values;     /* [TILE_KEYS][value_step] */
    float *scores;     /* [TILE_KEYS][NR] */
    float *sums;       /* panels of sum_rows */
    float *m, *l, *by; /* [n_columns], by [NR] */
    int32_t *low,
        *high; /* [n_columns]: the first key that a column sees, and the one after the last */
};

/* The batch's index of the token at this position, which is not cached. */
static int64_t token_at(const struct tile *t, int64_t position)
{
    int64_t after = position - t->cached.n_tokens, own = after - t->prefix.n;
    return own < 0 ? t->prefix.first + after : t->first + own;
}

/* The token's row of x, or of what is cached of x. */
static const float *row_at(
    const struct tile *t, struct tensor x, struct tensor cached, int64_t position)
{
    if (position >= t->cached.n_tokens)
        return row_of(x, token_at(t, position));
    int64_t block = t->cached.blocks[position / KV_BLOCK_TOKENS];
    return row_of(cached, block * KV_BLOCK_TOKENS + position % KV_BLOCK_TOKENS);
}

static const float *key_at(const struct tile *t, int64_t position)
{
    return row_at(t, t->a->k, t->a->cached_k, position) + t->kv_head * t->a->shape->head_dim;
}

static const float *value_at(const struct tile *t, int64_t position)
{
    return row_at(t, t->a->v, t->a->cached_v, position) + t->kv_head * t->a->shape->head_dim;
}

/* Finds where in x a panel's queries, or their outputs, lie. */
static void find_queries(const struct tile *t, struct tensor x, int64_t column, float **at)
{
    int64_t heads = t->a->heads_per_kv, dim = t->a->shape->head_dim, last = t->n_queries - 1;
    int64_t token = min64(column, last) / heads, head = min64(column, last) % heads;
    float *row = row_of(x, token_at(t, t->from + token)) + t->kv_head * heads * dim;
    for (int64_t i = 0; i < t->a->nr; i++) {
        at[i] = row + head * dim;
        if (column + i < last && ++head == heads) {
            head = 0;
            row += x.stride;
        }
    }
}

static void pack_queries(struct tile *t)
{
    const struct attention *a = t->a;
    int64_t dim = a->shape->head_dim, nr = a->nr;
    float *from[TILE_COLUMNS];
    for (int64_t i = 0; i < nr; i++)
        t->by[i] = a->q_scale;
    for (int64_t j = 0; j < t->n_columns; j += nr) {
        find_queries(t, a->q, j, from);
        for (int64_t i = 0; i < nr; i++)
            memcpy(t->rows + i * dim, from[i], (size_t)dim * sizeof(float));
        a->d->kernels->transpose(t->queries + j * dim, nr, t->rows, dim, nr, dim);
        a->d->kernels->scale_columns(t->queries + j * dim, dim, t->by);
    }
}

static void set_limits(struct tile *t)
{
    int64_t window = t->a->shape->window, heads = t->a->heads_per_kv;
    for (int64_t j = 0; j < t->n_columns; j++) {
        int64_t end = j < t->n_queries ? t->from + j / heads + 1 : t->from + t->n;
        t->high[j] = (int32_t)end;
        t->low[j] = (int32_t)(window > 0 && end > window ? end - window : 0);
    }
}

/* Returns how many of the n keys are contiguous in memory: blocks, a prefix and its sequence are
 * apart. */
static int64_t run_of_keys(const struct tile *t, int64_t key, int64_t n)
{
    int64_t cached = t->cached.n_tokens, prefix_end = cached + t->prefix.n;
    if (key < cached)
        return min64(n, KV_BLOCK_TOKENS - key % KV_BLOCK_TOKENS);
    return key < prefix_end ? min64(n, prefix_end - key) : n;
}

static int64_t key_stride(const struct tile *t, int64_t position)
{
    return position < t->cached.n_tokens ? t->a->cached_k.stride : t->a->k.stride;
}

/* Returns whether none is NaN or infinite. */
static int all_finite(const float *x, int64_t n)
{
    uint32_t odd = 0, bits;
    for (int64_t i = 0; i < n; i++) {
        memcpy(&bits, x + i, sizeof bits);
        odd |= (bits & 0x7f800000) == 0x7f800000;
    }
    return !odd;
}

static int all_values_finite(const struct tile *t, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        if (!all_finite(t->values + i * t->a->value_step, t->a->shape->head_dim))
            return 0;
    return 1;
}

static void fetch_keys(struct tile *t, int64_t key, int64_t n)
{
    const struct attention *a = t->a;
    int64_t dim = a->shape->head_dim;
    for (int64_t i = 0, run; i < n; i += run) {
        run = run_of_keys(t, key + i, n - i);
        a->d->kernels->transpose(
            t->keys + i, KEY_STEP, key_at(t, key + i), key_stride(t, key + i), run, dim);
    }
    for (int64_t i = 0; i < n; i++)
        memcpy(t->values + i * a->value_step, value_at(t, key + i), (size_t)dim * sizeof(float));
    t->odd = (a->shape->window > 0 || key + n > t->from + 1) && !all_values_finite(t, n);
}

/* A cache line of each key, or value, of the next tile, for prefetching while others are
 * multiplied: these rows are too far apart for the CPU to predict. NULL: none left. */
static const void *next_line(struct tile *t)
{
    const struct attention *a = t->a;
    int64_t dim = a->shape->head_dim, at = t->next_float;
    if (at >= 2 * dim || t->next_key >= t->from + t->n)
        return NULL;
    t->next_float += CACHE_LINE / (int64_t)sizeof(float);
    return (at < dim ? key_at(t, t->next_key) : value_at(t, t->next_key)) + at % dim;
}

/* Computes S for a panel of columns and n keys. */
static void multiply_keys(struct tile *t, int64_t column, int64_t n)
{
    const struct attention *a = t->a;
    a->d->kernels->multiply_columns(&(struct product){.a = t->keys,
        .a_step = KEY_STEP,
        .b = t->queries + column * a->shape->head_dim,
        .k = a->shape->head_dim,
        .c = t->scores,
        .mr = (int)n,
        .first = 1,
        .next = next_line(t),
        .next_step = key_stride(t, t->next_key) * (int64_t)sizeof(float)});
}

static float *sums_of(const struct tile *t, int64_t column)
{
    return t->sums + column * t->a->sum_rows;
}

/* Does the softmax step; `key` is the first of the n keys. */
static void weigh(struct tile *t, int64_t column, int64_t key, int64_t n, int hides)
{
    const struct attention *a = t->a;
    int32_t from[TILE_COLUMNS], to[TILE_COLUMNS];
    for (int64_t j = 0; hides && j < a->nr; j++) {
        from[j] = (int32_t)(t->low[column + j] - key);
        to[j] = (int32_t)(t->high[column + j] - key);
    }
    if (a->d->kernels->softmax_columns(t->scores, n, hides ? from : NULL, hides ? to : NULL,
            t->m + column, t->l + column, t->by))
        a->d->kernels->scale_columns(sums_of(t, column), a->shape->head_dim, t->by);
}

/* Adds n values, starting at `from`, to a panel's sums. */
static void add_values(const struct tile *t, float *sums, int64_t from, int64_t n)
{
    const struct attention *a = t->a;
    a->d->kernels->multiply_columns(&(struct product){.a = t->values + from * a->value_step,
        .a_step = a->value_step,
        .b = t->scores + from * a->nr,
        .k = n,
        .c = sums,
        .mr = (int)a->shape->head_dim});
}

/* The same if 0 times a hidden value may not be 0: adds to each column only the values that it
 * sees. */
static void add_seen_values(struct tile *t, int64_t column, int64_t key, int64_t n)
{
    int64_t dim = t->a->shape->head_dim, nr = t->a->nr;
    float *sums = sums_of(t, column), *apart = t->rows;
    for (int64_t j = 0; j < nr; j++) {
        int64_t from = t->low[column + j] > key ? t->low[column + j] - key : 0;
        int64_t to = min64(n, t->high[column + j] - key);
        if (from >= to)
            continue;
        memcpy(apart, sums, (size_t)(dim * nr) * sizeof *apart);
        add_values(t, apart, from, to - from);
        for (int64_t i = 0; i < dim; i++)
            sums[i * nr + j] = apart[i * nr + j];
    }
}

/* Processes n keys for a group of columns. Its columns see the same keys except for the last few.
 * Its size does not depend on NR, so which keys are skipped does not either. */
static void take_keys(struct tile *t, int64_t group, int64_t key, int64_t n)
{
    int64_t end = group + TILE_COLUMNS;
    n = min64(n, t->high[end - 1] - key);
    if (n <= 0 || t->low[group] >= key + n)
        return;
    int hides = t->high[group] < key + n || t->low[end - 1] > key;
    for (int64_t column = group; column < end; column += t->a->nr) {
        multiply_keys(t, column, n);
        weigh(t, column, key, n, hides);
        if (hides && t->odd)
            add_seen_values(t, column, key, n);
        else
            add_values(t, sums_of(t, column), 0, n);
    }
}

static void write_out(struct tile *t)
{
    const struct attention *a = t->a;
    int64_t dim = a->shape->head_dim, nr = a->nr;
    float *to[TILE_COLUMNS];
    for (int64_t j = 0; j < t->n_queries; j += nr) {
        find_queries(t, a->out, j, to);
        for (int64_t i = 0; i < nr; i++)
            t->by[i] = 1 / t->l[j + i];
        a->d->kernels->scale_columns(sums_of(t, j), dim, t->by);
        a->d->kernels->unpack(t->rows, dim, sums_of(t, j), (int)nr, dim);
        for (int64_t i = 0; i < nr && j + i < t->n_queries; i++)
            memcpy(to[i], t->rows + i * dim, (size_t)dim * sizeof(float));
    }
}

static void take_scratch(struct tile *t, int thread)
{
    const struct attention *a = t->a;
    int64_t dim = a->shape->head_dim, columns = t->n_columns;
    int64_t sizes[] = {columns * dim, a->nr * a->sum_rows, KEY_STEP * dim,
        TILE_KEYS * a->value_step, TILE_KEYS * a->nr, columns * a->sum_rows, columns, columns,
        a->nr};
    float **parts[] = {
        &t->queries, &t->rows, &t->keys, &t->values, &t->scores, &t->sums, &t->m, &t->l, &t->by};
    enum { n_parts = sizeof parts / sizeof *parts };
    int64_t total = 2 * columns;
    for (int i = 0; i < n_parts; i++)
        total += round_up(sizes[i], ROW_ELEMENTS);
    float *at = scratch_take(&a->d->per_thread[thread], (size_t)total * sizeof *at);
    for (int i = 0; i < n_parts; at += round_up(sizes[i++], ROW_ELEMENTS))
        *parts[i] = at;
    t->low = (int32_t *)(void *)at;
    t->high = t->low + columns;
    memset(t->sums, 0, (size_t)(columns * a->sum_rows) * sizeof *t->sums);
    memset(t->l, 0, (size_t)columns * sizeof *t->l);
    for (int64_t j = 0; j < columns; j++)
        t->m[j] = -INFINITY;
}

static void run_tile(struct tile *t, int thread)
{
    t->n_queries = t->n * t->a->heads_per_kv;
    t->n_columns = round_up(t->n_queries, TILE_COLUMNS);
    take_scratch(t, thread);
    pack_queries(t);
    set_limits(t);
    int64_t end = t->from + t->n; /* the last query token sees the keys before this */
    for (int64_t key = t->low[0] / TILE_KEYS * TILE_KEYS; key < end; key += TILE_KEYS) {
        int64_t n = min64(TILE_KEYS, end - key);
        fetch_keys(t, key, n);
        t->next_key = key + TILE_KEYS;
        t->next_float = 0;
        for (int64_t group = 0; group < t->n_columns; group += TILE_COLUMNS)
            take_keys(t, group, key, n);
    }
    write_out(t);
}

/* Numbers the tiles, sequence after sequence; returns how many there are. */
static int64_t number_tiles(struct attention *a)
{
    const uint32_t *cu = a->meta->cu_seqlens;
    int64_t n = 0;
    for (uint32_t s = 0; s < a->meta->n_rows; s++) {
        a->first_tile[s] = n;
        n += (cu[s + 1] - cu[s] + a->tile_tokens - 1) / a->tile_tokens;
    }
    a->first_tile[a->meta->n_rows] = n;
    return n;
}

static uint32_t sequence_of(const struct attention *a, int64_t tile)
{
    uint32_t low = 0, high = a->meta->n_rows;
    while (high - low > 1) {
        uint32_t middle = low + (high - low) / 2;
        if (a->first_tile[middle] <= tile)
            low = middle;
        else
            high = middle;
    }
    return low;
}

/* The kv head varies fastest in a task's number, then the tile, from the sequence's last (the
 * longest) to its first, then the sequence. */
static void run_task(void *arg, int64_t task, int thread)
{
    const struct attention *a = arg;
    struct tile t = {.a = a, .kv_head = task % a->shape->n_kv_heads};
    int64_t tile = task / a->shape->n_kv_heads;
    uint32_t s = sequence_of(a, tile);
    int64_t done = (a->first_tile[s + 1] - 1 - tile) * a->tile_tokens;
    t.first = a->meta->cu_seqlens[s];
    if (a->meta->prefix_segments)
        t.prefix = a->meta->prefix_segments[s];
    if (a->meta->block_tables)
        t.cached = a->meta->block_tables[s];
    t.from = (int64_t)t.cached.n_tokens + t.prefix.n + done;
    t.n = min64(a->tile_tokens, a->meta->cu_seqlens[s + 1] - t.first - done);
    run_tile(&t, thread);
}

/* Makes few, large tasks, since each copies the keys and values that it needs, but several for each
 * thread if there is more than one. Their size changes no bit. Returns how many. */
static int64_t share_out(struct attention *a)
{
    int64_t most = TASK_FLOATS / (a->heads_per_kv * a->shape->head_dim);
    int64_t wanted = TASKS_PER_THREAD * (thread_pool_threads(a->d->pool) - 1);
    for (a->tile_tokens = most > 0 ? most : 1;; a->tile_tokens = (a->tile_tokens + 1) / 2) {
        int64_t tasks = number_tiles(a) * a->shape->n_kv_heads;
        if (tasks >= wanted || a->tile_tokens == 1 ||
            a->tile_tokens * a->heads_per_kv <= TILE_COLUMNS)
            return tasks;
    }
}

void cpu_attention(struct device *d, struct tensor out, const struct attention_input *in,
    const struct attention_shape *shape, const struct attn_metadata *meta)
{
    int64_t dim = shape->head_dim;
    struct attention a = {.d = d,
        .out = out,
        .q = in->q,
        .k = in->k,
        .v = in->v,
        .cached_k = in->cached_k,
        .cached_v = in->cached_v,
        .shape = shape,
        .meta = meta,
        .first_tile = scratch_take(&d->packed_x, ((size_t)meta->n_rows + 1) * sizeof(int64_t)),
        .heads_per_kv = shape->n_heads / shape->n_kv_heads,
        .nr = d->kernels->nr,
        .sum_rows = round_up(dim, COLUMN_ROWS),
        .value_step = round_up(dim, ROW_ELEMENTS) + ROW_ELEMENTS,
        .q_scale = shape->scale * 1.44269504088896341f};
    thread_pool_run(d->pool, run_task, &a, share_out(&a));
}
