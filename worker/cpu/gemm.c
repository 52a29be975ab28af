/* gemm.c - linear: out = x * [parts]^T + bias.
 *
 * Rows go by in chunks of CHUNK_ROWS, and K in equal pieces of at most KC. A piece of the rows is
 * packed once, into panels of MR rows that all threads share. A task is then a block of
 * BLOCK_COLUMNS output columns of one part: it packs (and widens) the block's weights of this piece
 * into panels of NR columns, of its thread's own, and runs the tile kernel over all rows. The next
 * piece of the rows is packed by the last tasks of the same job, into a second buffer, so that
 * threads that find no block any more have something to do. So
 *     the block of weights, BLOCK_COLUMNS x KC floats (256 KiB), stays in the second-level cache,
 *     the piece of the rows, CHUNK_ROWS x KC floats (6 MiB), in the third; of it and of the weights
 *     to come, what is next is fetched while tiles are computed.
 *
 * Between two pieces of K the sums wait in `out` as float32, which loses nothing: each output
 * element is one chain of fused multiply-adds over k in order, whatever the blocks, the threads and
 * the other rows are.
 *
 * LIMITS: weights are packed anew for each call and each chunk of rows; few rows make this bound by
 * memory, not arithmetic. */
#include <stdlib.h>
#include <string.h>

#include "schema/log.h"
#include "worker/cpu/device.h"

#define CHUNK_ROWS 1536
#define BLOCK_COLUMNS 64
#define KC 1024
#define CACHE_LINE 64

struct gemm {
    struct device *d;
    struct tensor out, x; /* of this chunk of rows */
    const struct weight *parts;
    int n_parts;
    const float *bias;
    int64_t mr, nr; /* of the tile kernel */
    int64_t n_panels, n_blocks, row_groups, panels_per_group;
    int64_t kc;       /* the length of a piece of K, but perhaps the last */
    int64_t k0;       /* where this piece begins */
    float *panels[2]; /* of this piece, panel p at p * MR * piece_at(g, k0); of the next */
};

/* Columns [column, column + n) of out are rows [n0, n0 + n) of w. */
struct block {
    const struct weight *w;
    int64_t column, n0, n;
    int64_t first_panel, n_panels; /* of x */
};

static int64_t min64(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* How long the piece of K at k0 is. */
static int64_t piece_at(const struct gemm *g, int64_t k0)
{
    return min64(g->kc, g->x.cols - k0);
}

static void pack_panel(const struct gemm *g, int64_t p, int64_t k0, float *panels)
{
    int64_t row = p * g->mr, kc = piece_at(g, k0);
    g->d->kernels->pack_rows(panels + row * kc, row_of(g->x, row) + k0, g->x.stride,
        (int)min64(g->mr, g->x.rows - row), kc);
}

static const char *weights_at(const struct weight *w, int64_t row, int64_t k)
{
    return (const char *)w->data + (row * w->stride + k) * dtype_bytes(w->dtype);
}

/* The block's weights of this piece of K, as panels. */
static void pack_block(const struct gemm *g, const struct block *b, float *to)
{
    int64_t kc = piece_at(g, g->k0);
    for (int64_t j = 0; j < b->n; j += g->nr)
        g->d->kernels->pack_weight(to + j * kc, weights_at(b->w, b->n0 + j, g->k0), b->w->dtype,
            b->w->stride, (int)min64(g->nr, b->n - j), kc);
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

/* The weights that this thread will probably want next: a row of them is fetched with each tile that
 * does not fetch the next panel. */
struct ahead {
    const char *row; /* NULL: none (left) */
    int64_t n_rows, stride_bytes, step;
};

static struct ahead look_ahead(const struct gemm *g, int64_t task)
{
    int64_t n_tasks = g->n_blocks * g->row_groups, k0 = g->k0;
    int64_t next = task + pool_threads(g->d->pool) * g->row_groups;
    if (next >= n_tasks) {
        next %= n_tasks;
        k0 += g->kc;
    }
    if (k0 >= g->x.cols)
        return (struct ahead){0};
    struct block b = find_block(g, next);
    int64_t bytes = dtype_bytes(b.w->dtype);
    return (struct ahead){weights_at(b.w, b.n0, k0), b.n, b.w->stride * bytes, bytes};
}

static const char *next_row(struct ahead *a)
{
    const char *row = a->n_rows > 0 ? a->row : NULL;
    if (a->n_rows-- > 1)
        a->row += a->stride_bytes;
    return row;
}

/* The sums so far of a tile to come, so that they are near when it begins. */
static void fetch_sums(const struct gemm *g, int64_t row, int64_t column)
{
    int64_t end = g->k0 > 0 ? min64(row + g->mr, g->x.rows) : 0;
    for (; row < end; row++)
        for (int64_t j = 0; j < g->nr; j += CACHE_LINE / (int64_t)sizeof(float))
            __builtin_prefetch(row_of(g->out, row) + column + j, 1);
}

/* One panel of rows times the block. */
static void multiply_panel(
    const struct gemm *g, const struct block *b, int64_t p, const float *packed, struct ahead *a)
{
    int64_t row = p * g->mr, kc = piece_at(g, g->k0);
    const float *rows = g->panels[0] + row * kc;
    const float *bias = g->bias && g->k0 + kc == g->x.cols ? g->bias + b->column : NULL;
    for (int64_t j = 0; j < b->n; j += g->nr) {
        int last = j + g->nr >= b->n;
        fetch_sums(g, last ? row + g->mr : row, last ? b->column : b->column + j + g->nr);
        g->d->kernels->tile(&(struct product){.a = rows,
            .a_step = g->mr,
            .b = packed + j * kc,
            .k = kc,
            .c = row_of(g->out, row) + b->column + j,
            .ldc = g->out.stride,
            .mr = (int)min64(g->mr, g->x.rows - row),
            .nr = (int)min64(g->nr, b->n - j),
            .first = g->k0 == 0,
            .bias = bias ? bias + j : NULL,
            .next = j == 0 ? (const void *)(rows + g->mr * kc) : next_row(a),
            .next_step = j == 0 ? g->mr * (int64_t)sizeof *rows : a->step});
    }
}

static void multiply_block(const struct gemm *g, int64_t task, int thread)
{
    struct block b = find_block(g, task);
    float *packed =
        scratch_take(&g->d->per_thread[thread], (size_t)(BLOCK_COLUMNS * g->kc) * sizeof *packed);
    struct ahead a = look_ahead(g, task);
    pack_block(g, &b, packed);
    for (int64_t p = 0; p < b.n_panels; p++)
        multiply_panel(g, &b, b.first_panel + p, packed, &a);
}

static void pack_first(void *arg, int64_t task, int thread)
{
    const struct gemm *g = arg;
    (void)thread;
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

/* With fewer column blocks than threads could use, the rows are split too. */
static void split_rows(struct gemm *g)
{
    int64_t wanted = 2 * pool_threads(g->d->pool) / (g->n_blocks > 0 ? g->n_blocks : 1);
    g->row_groups = wanted < 1 ? 1 : min64(wanted, g->n_panels);
    g->panels_per_group = (g->n_panels + g->row_groups - 1) / g->row_groups;
    g->row_groups = (g->n_panels + g->panels_per_group - 1) / g->panels_per_group;
}

static void split_k(struct gemm *g)
{
    int64_t pieces = (g->x.cols + KC - 1) / KC;
    g->kc = round_up((g->x.cols + pieces - 1) / pieces, 16);
}

/* One chunk of rows, piece after piece of K. */
static void multiply_chunk(struct gemm *g)
{
    struct pool *pool = g->d->pool;
    g->n_panels = (g->x.rows + g->mr - 1) / g->mr;
    split_rows(g);
    split_k(g);
    int64_t piece = g->n_panels * g->mr * g->kc, buffers = g->kc < g->x.cols ? 2 : 1;
    g->panels[0] = scratch_take(&g->d->packed_x, (size_t)(buffers * piece) * sizeof(float));
    g->panels[1] = g->panels[0] + piece;
    pool_run(pool, pack_first, g, g->n_panels);
    for (; g->k0 < g->x.cols; g->k0 += g->kc) {
        int64_t to_pack = g->k0 + g->kc < g->x.cols ? g->n_panels : 0;
        pool_run(pool, multiply_or_pack, g, g->n_blocks * g->row_groups + to_pack);
        float *done = g->panels[0];
        g->panels[0] = g->panels[1];
        g->panels[1] = done;
    }
}

void cpu_linear(struct device *d, struct tensor out, struct tensor x, const struct weight *parts,
    int n_parts, const void *bias)
{
    struct gemm g = {.d = d,
        .parts = parts,
        .n_parts = n_parts,
        .bias = bias,
        .mr = d->kernels->mr,
        .nr = d->kernels->nr};
    for (int i = 0; i < n_parts; i++)
        g.n_blocks += blocks_of(&parts[i]);
    for (int64_t row = 0; row < x.rows; row += CHUNK_ROWS) {
        int64_t n = min64(CHUNK_ROWS, x.rows - row);
        g.out = tensor_rows(out, row, n);
        g.x = tensor_rows(x, row, n);
        g.k0 = 0;
        multiply_chunk(&g);
    }
}
