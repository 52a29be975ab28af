/* gemm.c - linear: out = x * [parts]^T + bias.
 *
 * The rows of x are packed once into panels of MR rows, in chunks of CHUNK_ROWS rows, shared by all
 * threads. A task is a block of BLOCK_COLUMNS output columns of one part. It
 * goes over K in pieces of KC: for each piece it packs (and widens) the weights into panels of NR
 * columns and runs the tile kernel over the block, MC rows at a time, so that
 *     a panel of weights, KC x NR floats (32 KiB), is in the first-level cache or near it,
 *     the rows in use and the block of weights (96 + 192 KiB) are in the second.
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

#define CHUNK_ROWS 768
#define BLOCK_COLUMNS 96
#define KC 512
#define MC 48

struct gemm {
    struct device *d;
    struct tensor out, x; /* of this chunk of rows */
    const struct weight *parts;
    int n_parts;
    const float *bias;
    float *panels; /* packed x: panel p at p * MR * K */
    int64_t n_panels, row_groups, panels_per_group;
};

static int64_t min64(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* Piece [k0, k0 + kc) of panel p. Pieces of the same k0 lie next to each other, as they are used. */
static float *panel_at(const struct gemm *g, int64_t p, int64_t k0, int64_t kc)
{
    return g->panels + k0 * GEMM_MR * g->n_panels + p * GEMM_MR * kc;
}

static void pack_rows(void *arg, int64_t p, int thread)
{
    struct gemm *g = arg;
    int64_t k = g->x.cols;
    (void)thread;
    for (int64_t k0 = 0; k0 < k; k0 += KC) {
        int64_t kc = min64(KC, k - k0);
        float *to = panel_at(g, p, k0, kc);
        for (int i = 0; i < GEMM_MR; i++) {
            int64_t row = p * GEMM_MR + i;
            const float *from = row_of(g->x, row) + k0;
            for (int64_t j = 0; j < kc; j++)
                to[j * GEMM_MR + i] = row < g->x.rows ? from[j] : 0;
        }
    }
}

/* The block's weights, columns [n0, n0 + n) and K piece [k0, k0 + kc), as panels. */
static void pack_block(const struct gemm *g, const struct weight *w, int64_t n0, int64_t n,
    int64_t k0, int64_t kc, float *to)
{
    int64_t element_bytes = w->dtype == DTYPE_F32 ? 4 : 2;
    for (int64_t j = 0; j < n; j += GEMM_NR, to += kc * GEMM_NR)
        g->d->kernels->pack_weight(to,
            (const char *)w->data + ((n0 + j) * w->stride + k0) * element_bytes, w->dtype,
            w->stride, (int)min64(GEMM_NR, n - j), kc);
}

struct block {
    const struct weight *w;
    int64_t column, n0, n;         /* first output column, first row of w, how many */
    int64_t first_panel, n_panels; /* of x */
};

/* The next tile's outputs, so that they are near when it begins. */
static void prefetch_tile(const struct gemm *g, int64_t row, int64_t column)
{
    int64_t end = min64(row + GEMM_MR, g->x.rows);
    for (; row < end; row++) {
        __builtin_prefetch(row_of(g->out, row) + column, 1);
        __builtin_prefetch(row_of(g->out, row) + column + GEMM_NR - 1, 1);
    }
}

static void multiply_piece(
    const struct gemm *g, const struct block *b, int64_t k0, int64_t kc, const float *packed)
{
    int64_t end = b->first_panel + b->n_panels, k = g->x.cols, step = MC / GEMM_MR;
    const float *bias = g->bias && k0 + kc == k ? g->bias + b->column : NULL;
    for (int64_t p0 = b->first_panel; p0 < end; p0 += step)
        for (int64_t j = 0; j < b->n; j += GEMM_NR)
            for (int64_t p = p0; p < min64(p0 + step, end); p++) {
                int64_t row = p * GEMM_MR;
                prefetch_tile(g, row + GEMM_MR, b->column + j);
                g->d->kernels->tile(panel_at(g, p, k0, kc), packed + j * kc, kc,
                    row_of(g->out, row) + b->column + j, g->out.stride,
                    (int)min64(GEMM_MR, g->x.rows - row), (int)min64(GEMM_NR, b->n - j), k0 == 0,
                    bias ? bias + j : NULL);
            }
}

static int64_t blocks_of(const struct weight *w)
{
    return (w->rows + BLOCK_COLUMNS - 1) / BLOCK_COLUMNS;
}

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

static void multiply_block(void *arg, int64_t task, int thread)
{
    struct gemm *g = arg;
    struct block b = find_block(g, task);
    float *packed = scratch_take(&g->d->per_thread[thread], BLOCK_COLUMNS * KC * sizeof *packed);
    for (int64_t k0 = 0; k0 < g->x.cols; k0 += KC) {
        int64_t kc = min64(KC, g->x.cols - k0);
        pack_block(g, b.w, b.n0, b.n, k0, kc, packed);
        multiply_piece(g, &b, k0, kc, packed);
    }
}

/* With fewer column blocks than threads could use, the rows are split too. */
static void split_rows(struct gemm *g, int64_t column_blocks)
{
    int64_t wanted = 2 * pool_threads(g->d->pool) / (column_blocks > 0 ? column_blocks : 1);
    g->row_groups = wanted < 1 ? 1 : min64(wanted, g->n_panels);
    g->panels_per_group = (g->n_panels + g->row_groups - 1) / g->row_groups;
    g->row_groups = (g->n_panels + g->panels_per_group - 1) / g->panels_per_group;
}

void cpu_linear(struct device *d, struct tensor out, struct tensor x, const struct weight *parts,
    int n_parts, const void *bias)
{
    int64_t column_blocks = 0;
    for (int i = 0; i < n_parts; i++)
        column_blocks += blocks_of(&parts[i]);
    for (int64_t row = 0; row < x.rows; row += CHUNK_ROWS) {
        int64_t n = min64(CHUNK_ROWS, x.rows - row);
        struct gemm g = {d, tensor_rows(out, row, n), tensor_rows(x, row, n), parts, n_parts, bias,
            NULL, 0, 0, 0};
        g.n_panels = (n + GEMM_MR - 1) / GEMM_MR;
        g.panels =
            scratch_take(&d->packed_x, (size_t)(g.n_panels * GEMM_MR * x.cols) * sizeof *g.panels);
        split_rows(&g, column_blocks);
        pool_run(d->pool, pack_rows, &g, g.n_panels);
        pool_run(d->pool, multiply_block, &g, column_blocks * g.row_groups);
    }
}
