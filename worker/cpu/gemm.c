/* gemm.c - linear: out = x * [parts]^T + bias, in float32, bfloat16 or int8.
 *
 * Rows are processed in chunks of CHUNK_ROWS, and K in equal pieces of at most KC words. A word is
 * a float; in bfloat16 (x and other weights are rounded to it) a pair, or a float that is one half
 * of it; in int8 a pair of int16, to which weights are widened (prepare_weights.c). Each piece of
 * the rows is packed once, into panels of MR rows that all threads share. A task is one block of BLOCK_COLUMNS output columns of one
 * part: it packs (and widens) the block's weights of this piece into its thread's own panels of NR
 * columns and runs the tile kernel over the rows. The last tasks of a job pack the next piece of
 * the rows into a second buffer, so that threads without a block have work. So
 *     the block of weights, BLOCK_COLUMNS x KC words (256 KiB), stays in the second-level cache,
 *     the piece of the rows, CHUNK_ROWS x KC words (6 MiB), in the third; while tiles are computed,
 *     what comes next of it and of the weights is prefetched.
 *
 * Between pieces of K the sums wait in `out` as float32, which loses nothing: each output element
 * is one chain of fused multiply-adds over k in one order, independent of blocks, threads and other
 * rows. In int8 a piece's sums are exact int32; the pieces' sums are added as float32 in order, and
 * the last piece multiplies by the scales. The pieces' bounds depend on K alone.
 *
 * LIMITS: each call packs float weights again for each chunk of rows; with few rows, memory is the
 * bound, not arithmetic. */
#include <stdlib.h>
#include <string.h>

#include "schema/log.h"
#include "worker/cpu/device.h"

#define CHUNK_ROWS 1536
#define BLOCK_COLUMNS 64
#define KC 1024
/* With few rows, packed weights go through the first-level cache: NR columns by this many words of
 * K at a time. */
#define FEW_PANELS 4
#define SHORT_WORDS 128
#define CACHE_LINE 64
#define WORD_BYTES 4

_Static_assert(KC <= INT8_MOST_WORDS, "int32 sums of a piece");

struct gemm {
    struct device *d;
    struct tensor out, x; /* of this chunk of rows */
    const struct weight *parts;
    int n_parts;
    const float *bias;
    const struct panel_kernels *kernels; /* for this kind of panel */
    int int8;                            /* whether it is int8 */
    const struct rounding *rounding;     /* of x, before anything else; NULL: none */
    int adds;                            /* the sums begin with what is in out */
    int64_t words;                       /* K in words */
    int64_t mr, nr;                      /* of the tile kernel */
    int64_t n_panels, n_blocks, row_groups, panels_per_group;
    int64_t last_row; /* where the last panel's rows begin (share_rows) */
    int64_t kc;       /* length of a piece of K; the last may be shorter */
    int64_t k0;       /* where this piece begins */
    char *panels[2];  /* this piece's, panel p at word p * MR * piece_at(g, k0); the next's */
    float *x_scale;   /* int8: scale of each row of this chunk, in panels of MR */
};

/* Columns [column, column + n) of out are rows [n0, n0 + n) of w. */
struct block {
    const struct weight *w;
    int64_t column, n0, n;
    int64_t first_panel, n_panels; /* of x */
};

/* The length of the piece of K at word k0. */
static int64_t piece_at(const struct gemm *g, int64_t k0)
{
    return min64(g->kc, g->words - k0);
}

/* The first row of panel p. */
static int64_t first_row(const struct gemm *g, int64_t p)
{
    return p + 1 < g->n_panels ? p * g->mr : g->last_row;
}

static int rows_in(const struct gemm *g, int64_t p)
{
    int64_t end = p + 1 < g->n_panels ? first_row(g, p + 1) : g->x.rows;
    return (int)(end - first_row(g, p));
}

static void pack_panel(const struct gemm *g, int64_t p, int64_t k0, char *panels)
{
    int64_t kc = piece_at(g, k0), per_word = g->kernels->per_word;
    g->kernels->pack_rows(panels + p * g->mr * kc * WORD_BYTES,
        row_of(g->x, first_row(g, p)) + per_word * k0, g->x.stride, g->x_scale + p * g->mr,
        rows_in(g, p), min64(per_word * kc, g->x.cols - per_word * k0));
}

static void find_scales(const struct gemm *g, int64_t p)
{
    float *scale = g->x_scale + p * g->mr;
    int64_t row = first_row(g, p), n = rows_in(g, p);
    for (int64_t i = 0; i < g->mr; i++)
        scale[i] =
            i < n ? g->d->kernels->row_scale(row_of(g->x, row + i), g->x.cols, INT8_ROW_LEVELS) : 0;
}

/* In int8, `row` must be the first of a panel. */
static const char *weights_at(const struct gemm *g, const struct weight *w, int64_t row, int64_t k)
{
    int64_t per_word = g->kernels->per_word;
    int64_t at = g->int8 ? per_word * (row * g->words + k * g->nr)
                         : (row * w->stride + per_word * k) * dtype_bytes(w->dtype);
    return (const char *)w->data + at;
}

/* Words of this piece of K. */
struct stretch {
    int64_t at, n;
};

/* Packs the block's weights of a stretch of K into panels. */
static void pack_block(const struct gemm *g, const struct block *b, struct stretch s, char *to)
{
    int64_t per_word = g->kernels->per_word, k = per_word * (g->k0 + s.at),
            n_k = min64(per_word * s.n, g->x.cols - k),
            ahead = thread_pool_threads(g->d->pool) * BLOCK_COLUMNS; /* this thread's next block */
    for (int64_t j = 0; j < b->n; j += g->nr, to += g->nr * s.n * WORD_BYTES) {
        int nr = (int)min64(g->nr, b->n - j);
        if (b->w->dtype == DTYPE_PACKED)
            g->kernels->unpack(to, b->w, b->n0 + j, nr, k, n_k, ahead);
        else
            g->kernels->pack_weight(to, weights_at(g, b->w, b->n0 + j, g->k0 + s.at), b->w->dtype,
                b->w->stride, nr, n_k);
    }
}

static int64_t blocks_of(const struct weight *w)
{
    return (w->rows + BLOCK_COLUMNS - 1) / BLOCK_COLUMNS;
}

/* The task's block of columns and group of rows. */
static struct block find_block(const struct gemm *g, int64_t task)
{
    struct block b = {.w = g->parts};
    int64_t group = task % g->row_groups, column_block = task / g->row_groups;
    while (column_block >= blocks_of(b.w)) {
        column_block -= blocks_of(b.w);
        b.column += b.w->rows;
        b.w++;
    }
    b.n0 = column_block * BLOCK_COLUMNS;
    b.n = min64(BLOCK_COLUMNS, b.w->rows - b.n0);
    b.column += b.n0;
    b.first_panel = group * g->panels_per_group;
    b.n_panels = min64(g->panels_per_group, g->n_panels - b.first_panel);
    return b;
}

/* The weights that this thread will probably need next: each tile that does not prefetch the next
 * panel prefetches one row of them (in int8 one panel). */
struct ahead {
    const char *row; /* NULL: none (left) */
    int64_t n_rows, stride_bytes, step;
};

static struct ahead look_ahead(const struct gemm *g, int64_t task)
{
    int64_t n_tasks = g->n_blocks * g->row_groups, k0 = g->k0;
    int64_t next = task + thread_pool_threads(g->d->pool) * g->row_groups;
    if (next >= n_tasks) {
        next %= n_tasks;
        k0 += g->kc;
    }
    if (k0 >= g->words)
        return (struct ahead){0};
    struct block b = find_block(g, next);
    if (b.w->dtype == DTYPE_PACKED)
        return (struct ahead){0};
    const char *from = weights_at(g, b.w, b.n0, k0);
    int64_t bytes = dtype_bytes(b.w->dtype), word = g->kernels->per_word * bytes,
            panel = word * g->nr;
    return g->int8 ? (struct ahead){from, (b.n + g->nr - 1) / g->nr, panel * g->words, panel}
                   : (struct ahead){from, b.n, b.w->stride * bytes, word};
}

static const char *next_row(struct ahead *a)
{
    const char *row = a->n_rows > 0 ? a->row : NULL;
    if (a->n_rows-- > 1)
        a->row += a->stride_bytes;
    return row;
}

/* Prefetches the sums so far of a coming tile of panel p. */
static void fetch_sums(const struct gemm *g, int64_t p, int64_t column)
{
    if (g->k0 == 0 || p >= g->n_panels)
        return;
    int64_t row = first_row(g, p);
    for (int64_t end = row + rows_in(g, p); row < end; row++)
        for (int64_t j = 0; j < g->nr; j += CACHE_LINE / (int64_t)sizeof(float))
            __builtin_prefetch(row_of(g->out, row) + column + j, 1);
}

/* A stretch of one panel of rows times the block. */
static void multiply_panel(const struct gemm *g, const struct block *b, struct stretch s, int64_t p,
    const char *packed, struct ahead *a)
{
    int64_t row = first_row(g, p), kc = piece_at(g, g->k0);
    const char *rows = g->panels[0] + (p * kc + s.at) * g->mr * WORD_BYTES;
    int ends = g->k0 + s.at + s.n == g->words;
    const float *bias = g->bias && ends ? g->bias + b->column : NULL;
    for (int64_t j = 0; j < b->n; j += g->nr) {
        int last = j + g->nr >= b->n;
        fetch_sums(g, p + last, last ? b->column : b->column + j + g->nr);
        g->kernels->tile(&(struct product){.a = rows,
            .a_step = g->mr,
            .b = packed + j * s.n * WORD_BYTES,
            .k = s.n,
            .c = row_of(g->out, row) + b->column + j,
            .ldc = g->out.stride,
            .mr = rows_in(g, p),
            .nr = (int)min64(g->nr, b->n - j),
            .first = g->k0 + s.at == 0 && !g->adds,
            .bias = bias ? bias + j : NULL,
            .x_scale = g->int8 && ends ? g->x_scale + p * g->mr : NULL,
            .w_scale = g->int8 ? b->w->scale + b->n0 + j : NULL,
            .next = j == 0 ? rows + g->mr * kc * WORD_BYTES : next_row(a),
            .next_step = j == 0 ? g->mr * WORD_BYTES : a->step});
    }
}

/* A stretch of all panels of rows times the block. */
static void multiply_stretch(const struct gemm *g, const struct block *b, struct stretch s,
    const char *packed, struct ahead *a)
{
    for (int64_t p = 0; p < b->n_panels; p++)
        multiply_panel(g, b, s, b->first_panel + p, packed, a);
}

/* The same for few rows and a whole block of packed weights. */
static void multiply_short(const struct gemm *g, const struct block *b, char *packed)
{
    struct ahead none = {0};
    int64_t kc = piece_at(g, g->k0);
    for (int64_t at = 0; at < kc; at += SHORT_WORDS)
        for (int64_t j = 0; j < b->n; j += g->nr) {
            struct stretch s = {at, min64(SHORT_WORDS, kc - at)};
            struct block part = *b;
            part.column += j;
            part.n0 += j;
            part.n = min64(g->nr, b->n - j);
            pack_block(g, &part, s, packed);
            multiply_stretch(g, &part, s, packed, &none);
        }
}

static void multiply_block(const struct gemm *g, int64_t task, int thread)
{
    struct block b = find_block(g, task);
    char *packed =
        scratch_take(&g->d->per_thread[thread], (size_t)(BLOCK_COLUMNS * g->kc * WORD_BYTES));
    struct ahead a = look_ahead(g, task);
    struct stretch whole = {0, piece_at(g, g->k0)};
    int few = b.w->dtype == DTYPE_PACKED && b.n_panels <= FEW_PANELS;
    if (!few)
        pack_block(g, &b, whole, packed);
    unsigned before = g->kernels->begin();
    if (few)
        multiply_short(g, &b, packed);
    else
        multiply_stretch(g, &b, whole, packed, &a);
    g->kernels->end(before);
}

static void pack_first(void *arg, int64_t task, int thread)
{
    const struct gemm *g = arg;
    (void)thread;
    if (g->int8)
        find_scales(g, task);
    pack_panel(g, task, 0, g->panels[0]);
}

static void multiply_or_pack(void *arg, int64_t task, int thread)
{
    const struct gemm *g = arg;
    int64_t n_multiply = g->n_blocks * g->row_groups;
    if (task < n_multiply)
        multiply_block(g, task, thread);
    else
        pack_panel(g, task - n_multiply, g->k0 + g->kc, g->panels[1]);
}

/* Splits the rows too if there are fewer column blocks than threads could use. */
static void split_rows(struct gemm *g)
{
    int64_t wanted = 2 * thread_pool_threads(g->d->pool) / (g->n_blocks > 0 ? g->n_blocks : 1);
    g->row_groups = wanted < 1 ? 1 : min64(wanted, g->n_panels);
    g->panels_per_group = (g->n_panels + g->row_groups - 1) / g->row_groups;
    g->row_groups = (g->n_panels + g->panels_per_group - 1) / g->panels_per_group;
}

/* If the last tile would be of the smallest size, whose sums are too few to hide a multiply-add's
 * latency, then the one before gives it some of its rows, and both are of the middle size. */
static void share_rows(struct gemm *g)
{
    int64_t full = (g->x.rows - 1) / g->mr * g->mr, rest = g->x.rows - full;
    g->n_panels = full / g->mr + 1;
    g->last_row = full > 0 && rest <= g->mr / 3 ? full - g->mr / 3 : full;
}

static void split_k(struct gemm *g)
{
    int64_t pieces = (g->words + KC - 1) / KC;
    g->kc = round_up((g->words + pieces - 1) / pieces, 16);
}

/* Multiplies one chunk of rows, piece after piece of K. */
static void multiply_chunk(struct gemm *g)
{
    struct thread_pool *pool = g->d->pool;
    share_rows(g);
    split_rows(g);
    split_k(g);
    int64_t rows = g->n_panels * g->mr, piece = rows * g->kc, buffers = g->kc < g->words ? 2 : 1;
    g->panels[0] = scratch_take(&g->d->packed_x, (size_t)((buffers * piece + rows) * WORD_BYTES));
    g->panels[1] = g->panels[0] + piece * WORD_BYTES;
    g->x_scale = (void *)(g->panels[0] + buffers * piece * WORD_BYTES);
    thread_pool_run(pool, pack_first, g, g->n_panels);
    for (; g->k0 < g->words; g->k0 += g->kc) {
        int64_t to_pack = g->k0 + g->kc < g->words ? g->n_panels : 0;
        thread_pool_run(pool, multiply_or_pack, g, g->n_blocks * g->row_groups + to_pack);
        char *done = g->panels[0];
        g->panels[0] = g->panels[1];
        g->panels[1] = done;
    }
}

static const struct panel_kernels *panels_of(const struct device *d, enum dtype factors)
{
    return factors == DTYPE_I8     ? &d->kernels->int8
           : factors == DTYPE_BF16 ? &d->kernels->bf16
                                   : &d->kernels->f32;
}

static void multiply_all(struct gemm *g, struct tensor out, struct tensor x)
{
    for (int i = 0; i < g->n_parts; i++)
        g->n_blocks += blocks_of(&g->parts[i]);
    for (int64_t row = 0; row < x.rows; row += CHUNK_ROWS) {
        int64_t n = min64(CHUNK_ROWS, x.rows - row);
        g->out = tensor_rows(out, row, n);
        g->x = tensor_rows(x, row, n);
        if (g->rounding)
            g->x = cpu_round_rows(g->d, g->x, g->rounding);
        g->k0 = 0;
        multiply_chunk(g);
    }
}

/* Parts whose inputs are rounded alike. */
static void multiply_parts(struct device *d, struct tensor out, struct tensor x,
    const struct weight *parts, int n_parts, const float *bias)
{
    struct gemm g = {.d = d,
        .parts = parts,
        .n_parts = n_parts,
        .bias = bias,
        .kernels = panels_of(d, parts->factors),
        .rounding = weight_rounding(parts),
        .int8 = parts->dtype == DTYPE_I8,
        .mr = d->kernels->mr,
        .nr = d->kernels->nr};
    g.words = panel_words(g.kernels, x.cols);
    multiply_all(&g, out, x);
}

void cpu_linear(struct device *d, struct tensor out, struct tensor x, const struct weight *parts,
    int n_parts, const void *bias)
{
    const float *each = bias;
    int64_t column = 0, columns;
    for (int i = 0, n; i < n_parts; i += n, column += columns) {
        n = weights_alike(parts, i, n_parts);
        columns = 0;
        for (int k = i; k < i + n; k++)
            columns += parts[k].rows;
        multiply_parts(
            d, tensor_columns(out, column, columns), x, parts + i, n, each ? each + column : NULL);
    }
}

void cpu_linear_narrow(
    struct device *d, struct tensor out, struct tensor x, const struct weight *parts, int n_parts)
{
    multiply_parts(d, out, x, parts, n_parts, NULL);
}

void cpu_linear_add(struct device *d, struct tensor out, struct tensor x, const struct weight *w)
{
    struct gemm g = {.d = d,
        .parts = w,
        .n_parts = 1,
        .kernels = &d->kernels->f32,
        .adds = 1,
        .words = x.cols,
        .mr = d->kernels->mr,
        .nr = d->kernels->nr};
    multiply_all(&g, out, x);
}
