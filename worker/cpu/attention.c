/* attention.c - causal attention over packed rows, blocked, with an online softmax.
 *
 * A task is (sequence, kv head, tile of query tokens); the query heads that share the kv head are
 * taken together, so that each key and value is packed once for all of them. The keys go by in
 * tiles of TILE_KEYS counted from position 0 of the sequence. For each tile: S = Q K^T by the tile
 * kernel (one chain over head_dim), the softmax step of every row (running max and sum), the sums
 * so far rescaled, O += P V (the chain over keys goes on). At the end O / l.
 *
 * A tile of which a row sees nothing leaves that row's sums alone. All of it is a function of the
 * one sequence: neither the batch nor the threads can change a bit. Memory: a few tiles a thread,
 * whatever the length.
 *
 * A sequence with a prefix (ops.h) is the same computation for its own tokens alone: positions count
 * from the prefix's first token, so the tiles of keys are those of the whole sequence; only where in
 * the batch a key lies differs, and one tile may have keys of both. */
#include <math.h>
#include <string.h>

#include "worker/cpu/device.h"

#define TILE_KEYS 64
#define TASK_ROWS 96 /* rows (query tokens times heads of the group) of a task, about */

struct attention {
    struct device *d;
    struct tensor out, q, k, v;
    const struct attention_shape *shape;
    const struct attn_metadata *meta;
    int64_t heads_per_kv, tile_tokens;
    int64_t mr, nr; /* of the tile kernel */
};

/* One task, and its scratch memory. */
struct tile {
    const struct attention *a;
    struct attn_prefix prefix;
    int64_t first; /* the sequence's first own token in the batch, at position prefix.n */
    int64_t kv_head, from, n; /* query tokens at positions [from, from + n) */
    int64_t n_rows, n_panels; /* n * heads_per_kv, and in panels of MR */
    float *queries;           /* panels over head_dim */
    float *keys;    /* panels of NR keys over head_dim; then of NR columns of values over keys */
    float *scores;  /* [n_rows rounded up][TILE_KEYS] */
    float *weights; /* the same as panels over keys */
    float *sums;    /* [n_rows rounded up][head_dim] */
    float *m, *l;   /* [n_rows] */
    float *mixed;   /* [NR][head_dim] keys of prefix and sequence, side by side */
};

static int64_t min64(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static int64_t up_to(int64_t n, int64_t unit)
{
    return (n + unit - 1) / unit * unit;
}

/* Where in the batch the token at this position is. */
static int64_t token_at(const struct tile *t, int64_t position)
{
    int64_t own = position - t->prefix.n;
    return own < 0 ? t->prefix.first + position : t->first + own;
}

/* Row r of the tile is query token r / heads_per_kv, head r % heads_per_kv of the group. */
static const float *query_row(const struct tile *t, int64_t r)
{
    const struct attention *a = t->a;
    int64_t token = token_at(t, t->from + r / a->heads_per_kv);
    int64_t head = t->kv_head * a->heads_per_kv + r % a->heads_per_kv;
    return row_of(a->q, token) + head * a->shape->head_dim;
}

/* The query rows as panels of MR rows; beyond n_rows zeros. */
static void pack_queries(struct tile *t)
{
    int64_t dim = t->a->shape->head_dim, mr = t->a->mr;
    memset(t->queries, 0, (size_t)(t->n_panels * mr * dim) * sizeof *t->queries);
    for (int64_t r = 0; r < t->n_rows; r++) {
        const float *from = query_row(t, r);
        float *to = t->queries + r / mr * mr * dim + r % mr;
        for (int64_t k = 0; k < dim; k++)
            to[k * mr] = from[k];
    }
}

static void pack_weights(struct tile *t)
{
    int64_t mr = t->a->mr;
    for (int64_t r = 0; r < t->n_rows; r += mr)
        t->a->d->kernels->pack_rows(t->weights + r * TILE_KEYS, t->scores + r * TILE_KEYS,
            TILE_KEYS, (int)min64(mr, t->n_rows - r), TILE_KEYS);
}

static const float *key_at(const struct tile *t, int64_t key)
{
    return row_of(t->a->k, token_at(t, key)) + t->kv_head * t->a->shape->head_dim;
}

/* A panel of the n <= NR keys [key, key + n). */
static void pack_keys(struct tile *t, float *to, int64_t key, int64_t n)
{
    const struct attention *a = t->a;
    int64_t dim = a->shape->head_dim, stride = a->k.stride;
    const float *from = key_at(t, key);
    if (key < t->prefix.n && key + n > t->prefix.n) {
        for (int64_t i = 0; i < n; i++)
            memcpy(t->mixed + i * dim, key_at(t, key + i), (size_t)dim * sizeof *from);
        from = t->mixed;
        stride = dim;
    }
    a->d->kernels->pack_weight(to, from, DTYPE_F32, stride, (int)n, dim);
}

/* Scores of the tile's rows against keys [key, key + n). */
static void multiply_keys(struct tile *t, int64_t key, int64_t n)
{
    const struct attention *a = t->a;
    int64_t dim = a->shape->head_dim, mr = a->mr, nr = a->nr;
    for (int64_t j = 0; j < n; j += nr)
        pack_keys(t, t->keys + j * dim, key + j, min64(nr, n - j));
    for (int64_t j = 0; j < n; j += nr)
        for (int64_t p = 0; p < t->n_panels; p++)
            a->d->kernels->tile(&(struct product){.a = t->queries + p * mr * dim,
                .b = t->keys + j * dim,
                .k = dim,
                .c = t->scores + p * mr * TILE_KEYS + j,
                .ldc = TILE_KEYS,
                .mr = (int)mr,
                .nr = (int)nr,
                .first = 1});
}

/* The values of n keys as panels of NR columns over TILE_KEYS keys, zeros beyond n. */
static void pack_values(struct tile *t, int64_t key, int64_t n)
{
    const struct attention *a = t->a;
    int64_t dim = a->shape->head_dim, nr = a->nr;
    memset(t->keys, 0, (size_t)(up_to(dim, nr) * TILE_KEYS) * sizeof *t->keys);
    for (int64_t k = 0; k < n; k++) {
        const float *from = row_of(a->v, token_at(t, key + k)) + t->kv_head * dim;
        for (int64_t j = 0; j < dim; j += nr)
            memcpy(t->keys + (j * TILE_KEYS + k * nr), from + j,
                (size_t)min64(nr, dim - j) * sizeof *from);
    }
}

static void add_values(struct tile *t, int64_t key, int64_t n)
{
    const struct attention *a = t->a;
    int64_t dim = a->shape->head_dim, mr = a->mr, nr = a->nr;
    pack_values(t, key, n);
    pack_weights(t);
    for (int64_t j = 0; j < dim; j += nr)
        for (int64_t p = 0; p < t->n_panels; p++)
            a->d->kernels->tile(&(struct product){.a = t->weights + p * mr * TILE_KEYS,
                .b = t->keys + j * TILE_KEYS,
                .k = TILE_KEYS,
                .c = t->sums + p * mr * dim + j,
                .ldc = dim,
                .mr = (int)mr,
                .nr = (int)min64(nr, dim - j)});
}

/* First key that the query token at position q sees. */
static int64_t first_key(const struct attention *a, int64_t q)
{
    int64_t window = a->shape->window;
    return window > 0 && q + 1 > window ? q + 1 - window : 0;
}

static void take_keys(struct tile *t, int64_t key, int64_t n)
{
    const struct attention *a = t->a;
    int64_t dim = a->shape->head_dim;
    multiply_keys(t, key, n);
    for (int64_t r = 0; r < t->n_rows; r++) {
        int64_t q = t->from + r / a->heads_per_kv, low = first_key(a, q) - key, high = q + 1 - key;
        float alpha = a->d->kernels->softmax_step(t->scores + r * TILE_KEYS, TILE_KEYS,
            low > 0 ? low : 0, min64(high, n), a->shape->scale, &t->m[r], &t->l[r]);
        if (alpha != 1)
            a->d->kernels->scale(t->sums + r * dim, alpha, dim);
    }
    add_values(t, key, n);
}

static void write_out(const struct tile *t)
{
    const struct attention *a = t->a;
    int64_t dim = a->shape->head_dim;
    for (int64_t r = 0; r < t->n_rows; r++) {
        int64_t token = token_at(t, t->from + r / a->heads_per_kv);
        int64_t head = t->kv_head * a->heads_per_kv + r % a->heads_per_kv;
        float *to = row_of(a->out, token) + head * dim;
        for (int64_t k = 0; k < dim; k++)
            to[k] = t->sums[r * dim + k] / t->l[r];
    }
}

static void take_scratch(struct tile *t, int thread)
{
    int64_t dim = t->a->shape->head_dim, rows = t->n_panels * t->a->mr,
            columns = up_to(dim, t->a->nr);
    int64_t sizes[] = {rows * dim, columns * TILE_KEYS, rows * TILE_KEYS, rows * TILE_KEYS,
        rows * dim, rows, rows, t->a->nr * dim};
    float **parts[] = {
        &t->queries, &t->keys, &t->scores, &t->weights, &t->sums, &t->m, &t->l, &t->mixed};
    int64_t total = 0;
    for (int i = 0; i < 8; i++)
        total += sizes[i];
    float *at = scratch_take(&t->a->d->per_thread[thread], (size_t)total * sizeof *at);
    for (int i = 0; i < 8; at += sizes[i++])
        *parts[i] = at;
    memset(t->sums, 0, (size_t)(rows * dim) * sizeof *t->sums);
    for (int64_t r = 0; r < rows; r++) {
        t->m[r] = -INFINITY;
        t->l[r] = 0;
    }
}

static void run_tile(struct tile *t, int thread)
{
    const struct attention *a = t->a;
    t->n_rows = t->n * a->heads_per_kv;
    t->n_panels = (t->n_rows + a->mr - 1) / a->mr;
    take_scratch(t, thread);
    pack_queries(t);
    int64_t end = t->from + t->n; /* keys that the last query token sees */
    for (int64_t key = first_key(a, t->from) / TILE_KEYS * TILE_KEYS; key < end; key += TILE_KEYS)
        take_keys(t, key, min64(TILE_KEYS, end - key));
    write_out(t);
}

static int64_t tiles_of(const struct attention *a, uint32_t sequence)
{
    const uint32_t *cu = a->meta->cu_seqlens;
    return (cu[sequence + 1] - cu[sequence] + a->tile_tokens - 1) / a->tile_tokens;
}

/* Tasks are numbered by kv head, then sequence, then tile from the last (the longest) to the first.
 */
static void run_task(void *arg, int64_t task, int thread)
{
    const struct attention *a = arg;
    struct tile t = {.a = a, .kv_head = task % a->shape->n_kv_heads};
    uint32_t s = 0;
    int64_t tile = task / a->shape->n_kv_heads;
    for (; tile >= tiles_of(a, s); s++)
        tile -= tiles_of(a, s);
    tile = tiles_of(a, s) - 1 - tile;
    int64_t done = tile * a->tile_tokens;
    t.first = a->meta->cu_seqlens[s];
    if (a->meta->prefix_segments)
        t.prefix = a->meta->prefix_segments[s];
    t.from = t.prefix.n + done;
    t.n = min64(a->tile_tokens, a->meta->cu_seqlens[s + 1] - t.first - done);
    run_tile(&t, thread);
}

void cpu_attention(struct device *d, struct tensor out, struct tensor q, struct tensor k,
    struct tensor v, const struct attention_shape *shape, const struct attn_metadata *meta)
{
    struct attention a = {d, out, q, k, v, shape, meta, shape->n_heads / shape->n_kv_heads, 0,
        d->kernels->mr, d->kernels->nr};
    int64_t tasks = 0;
    a.tile_tokens = a.heads_per_kv < TASK_ROWS ? TASK_ROWS / a.heads_per_kv : 1;
    for (uint32_t s = 0; s < meta->n_rows; s++)
        tasks += tiles_of(&a, s);
    pool_run(d->pool, run_task, &a, tasks * shape->n_kv_heads);
}
