/* ops.c - the GPU's table of operations. Each is a product (gemm.c), a kernel (kernels.h) or a
 * collective, queued in the compute stream. */
#include <stdlib.h>
#include <string.h>

#include <nvtx3/nvToolsExt.h>

#include "cuda/comm_nccl.h"
#include "cuda/gemm.h"
#include "cuda/gpu.h"
#include "schema/alloc.h"

/* Launches a kernel inside a range that profilers show. */
#define LAUNCH(name, launch)                                                                       \
    do {                                                                                           \
        nvtxRangePushA(name);                                                                      \
        GPU_MUST(launch);                                                                          \
        nvtxRangePop();                                                                            \
    } while (0)

static void op_embed(
    struct device *d, struct tensor out, const struct weight *table, const int32_t *ids)
{
    LAUNCH("embed", kernel_embed(gpu_stream(d), out, table, ids));
}

static void op_add_bias(struct device *d, struct tensor x, const void *bias)
{
    LAUNCH("add_bias", kernel_add_bias(gpu_stream(d), x, bias));
}

static void op_rms_norm(struct device *d, struct tensor out, struct tensor x,
    const struct tensor *y, const float *weight, float eps)
{
    LAUNCH("rms_norm", kernel_rms_norm(gpu_stream(d), out, x, y, weight, eps, d->progress_device));
}

static void op_head_norm(
    struct device *d, struct tensor x, uint32_t n_heads, const float *weight, float eps)
{
    LAUNCH("head_norm", kernel_head_norm(gpu_stream(d), x, n_heads, weight, eps));
}

static void op_rope(struct device *d, struct tensor x, uint32_t n_heads,
    const struct rope_tables *tables, const int32_t *positions)
{
    LAUNCH("rope", kernel_rope(gpu_stream(d), x, n_heads, tables, positions));
}

/* ---- attention ---- */

/* The fields mean what they mean in attention_tile (kernels.h). */
struct sequence {
    uint32_t first, length, prefix_first, prefix, cached, table;
};

static int longest_first(const void *a, const void *b)
{
    const struct sequence *x = a, *y = b;
    if (x->length != y->length)
        return x->length < y->length ? 1 : -1;
    return x->first > y->first ? 1 : x->first < y->first ? -1 : 0;
}

static uint32_t cached_of(const struct attn_metadata *meta, uint32_t r)
{
    return meta->block_tables ? meta->block_tables[r].n_tokens : 0;
}

/* `first` is where the sequence would begin if its prefix and its cached tokens lay just before its
 * own, and prefix_first the same of its prefix: both modulo 2^32. */
static struct sequence sequence_of(const struct attn_metadata *meta, uint32_t r)
{
    const uint32_t *cu = meta->cu_seqlens;
    struct attn_prefix p = {0, 0};
    if (meta->prefix_segments)
        p = meta->prefix_segments[r];
    uint32_t cached = cached_of(meta, r), before = cached + p.n;
    return (struct sequence){.first = cu[r] - before,
        .length = cu[r + 1] - cu[r] + before,
        .prefix_first = p.first - cached,
        .prefix = before,
        .cached = cached};
}

/* Tiles begin at multiples of their size, even if the prefix ends inside one. */
static uint32_t first_tile(const struct sequence *s)
{
    return s->prefix / ATTENTION_TILE_TOKENS;
}

static uint32_t last_tile(const struct sequence *s)
{
    return (s->length - 1) / ATTENTION_TILE_TOKENS;
}

static uint32_t count_tiles(const struct attn_metadata *meta)
{
    uint32_t n = 0;
    for (uint32_t r = 0; r < meta->n_rows; r++) {
        struct sequence s = sequence_of(meta, r);
        n += last_tile(&s) + 1 - first_tile(&s);
    }
    return n;
}

/* Puts all sequences' tables into one; returns it on the device, or NULL if nothing is cached. */
static const uint32_t *push_tables(
    struct device *d, const struct attn_metadata *meta, struct sequence *sequences)
{
    uint32_t n = 0;
    for (uint32_t r = 0; r < meta->n_rows; r++) {
        sequences[r].table = n;
        n += sequences[r].cached / KV_BLOCK_TOKENS;
    }
    if (n == 0)
        return NULL;
    uint32_t *blocks = xcalloc(n, sizeof *blocks);
    for (uint32_t r = 0; r < meta->n_rows; r++)
        if (sequences[r].cached > 0)
            memcpy(blocks + sequences[r].table, meta->block_tables[r].blocks,
                sequences[r].cached / KV_BLOCK_TOKENS * sizeof *blocks);
    const uint32_t *pushed = gpu_device_ops.push(d, blocks, n * sizeof *blocks);
    free(blocks);
    return pushed;
}

/* Makes the tiles of every sequence, those with the most keys first, so that the device does not
 * end up waiting for a long one. */
static void op_plan_attention(struct device *d, const struct attn_metadata *meta)
{
    struct sequence *order = xcalloc(meta->n_rows + 1u, sizeof *order);
    uint32_t at = 0;
    struct attention_tile *tiles = xcalloc(count_tiles(meta) + 1u, sizeof *tiles);
    for (uint32_t r = 0; r < meta->n_rows; r++)
        order[r] = sequence_of(meta, r);
    d->tiles.blocks = push_tables(d, meta, order);
    qsort(order, meta->n_rows, sizeof *order, longest_first);
    for (uint32_t r = 0; r < meta->n_rows; r++) {
        const struct sequence *s = &order[r];
        for (uint32_t next = last_tile(s) + 1; next > first_tile(s); next--)
            tiles[at++] =
                (struct attention_tile){s->first, s->length, (next - 1) * ATTENTION_TILE_TOKENS,
                    s->prefix_first, s->prefix, s->cached, s->table};
    }
    d->tiles.list = gpu_device_ops.push(d, tiles, at * sizeof *tiles);
    d->tiles.n = at;
    free(order);
    free(tiles);
}

static void op_attention(struct device *d, struct tensor out, const struct attention_input *in,
    const struct attention_shape *shape, const struct attn_metadata *meta)
{
    (void)meta;
    if (kernel_attention_mma_fits(out, in, shape))
        LAUNCH("attention_mma",
            kernel_attention_mma(gpu_stream(d), out, in, shape, &d->tiles, d->progress_device));
    else
        LAUNCH("attention_simt",
            kernel_attention_simt(gpu_stream(d), out, in, shape, &d->tiles, d->progress_device));
}

/* ---- the rest ---- */

static void op_silu_mul(struct device *d, struct tensor out, struct tensor gate, struct tensor up)
{
    LAUNCH("silu_mul", kernel_silu_mul(gpu_stream(d), out, gate, up));
}

static void op_relu(struct device *d, struct tensor x)
{
    LAUNCH("relu", kernel_relu(gpu_stream(d), x));
}

static void op_gather(struct device *d, struct tensor out, struct tensor x, const uint32_t *rows)
{
    LAUNCH("gather", kernel_gather(gpu_stream(d), out, x, rows));
}

static void op_keep(
    struct device *d, struct tensor out, struct tensor x, const struct kv_slots *slots, uint32_t n)
{
    LAUNCH("keep", kernel_keep(gpu_stream(d), out, x, slots, n));
}

static void op_pool(struct device *d, float *values, struct tensor logits,
    const struct pool_span *spans, uint32_t n_spans)
{
    LAUNCH("pool", kernel_pool(gpu_stream(d), values, logits, spans, n_spans));
}

static void op_linear(struct device *d, struct tensor out, struct tensor x,
    const struct weight *parts, int n_parts, const void *bias)
{
    nvtxRangePushA("linear");
    gemm_linear(d, out, x, parts, n_parts, bias);
    nvtxRangePop();
}

/* Part after part: each gives some columns of out. */
static void op_linear_narrow(
    struct device *d, struct tensor out, struct tensor x, const struct weight *parts, int n_parts)
{
    int64_t column = 0;
    for (int i = 0; i < n_parts; column += parts[i++].rows)
        LAUNCH("linear_narrow", kernel_linear_narrow(gpu_stream(d),
                                    tensor_columns(out, column, parts[i].rows), x, &parts[i]));
}

static void op_linear_add(
    struct device *d, struct tensor out, struct tensor x, const struct weight *w)
{
    LAUNCH("linear_add", kernel_linear_add(gpu_stream(d), out, x, w));
}

static void op_choose_linear(
    struct device *d, enum dtype type, int64_t rows, int64_t cols, int has_bias)
{
    gemm_choose_linear(d, type, rows, cols, has_bias);
}

static void op_all_reduce(struct device *d, struct tensor x)
{
    nvtxRangePushA("all_reduce");
    comm_nccl_all_reduce(d, x);
    nvtxRangePop();
}

const struct ops gpu_ops = {
    .name = "cuda",
    .device = &gpu_device_ops,
    .typed = 1,
    .mlp_rows = 8192,
    .shares_prefixes = 1,
    .embed = op_embed,
    .linear = op_linear,
    .choose_linear = op_choose_linear,
    .linear_narrow = op_linear_narrow,
    .linear_add = op_linear_add,
    .add_bias = op_add_bias,
    .rms_norm = op_rms_norm,
    .head_norm = op_head_norm,
    .rope = op_rope,
    .plan_attention = op_plan_attention,
    .attention = op_attention,
    .silu_mul = op_silu_mul,
    .relu = op_relu,
    .gather = op_gather,
    .keep = op_keep,
    .pool = op_pool,
    .all_reduce = op_all_reduce,
};
