/* ops.c - the CPU's table of operations, and the operations that are loops over rows. Rows are
 * distributed in runs of RUN_ROWS; one thread always computes a whole row. */
#include <string.h>

#include "schema/pooling.h"
#include "worker/cpu/device.h"

#define RUN_ROWS 16

/* ---- loops over rows ---- */

/* The arguments of all loops below; each uses those it needs. */
struct rows {
    struct device *d;
    struct tensor out, x;
    const struct tensor *y;
    const float *vector;
    const struct rope_tables *tables;
    const struct weight *table;
    const int32_t *ids;
    const uint32_t *indices;
    uint32_t n_heads;
    float eps;
    void (*row)(const struct rows *a, int64_t row);
};

static void run_rows(void *arg, int64_t task, int thread)
{
    const struct rows *a = arg;
    int64_t end = (task + 1) * RUN_ROWS < a->out.rows ? (task + 1) * RUN_ROWS : a->out.rows;
    (void)thread;
    for (int64_t row = task * RUN_ROWS; row < end; row++)
        a->row(a, row);
}

static void each_row(struct rows *a)
{
    thread_pool_run(a->d->pool, run_rows, a, (a->out.rows + RUN_ROWS - 1) / RUN_ROWS);
}

static void row_embed(const struct rows *a, int64_t row)
{
    const struct weight *w = a->table;
    int64_t bytes = w->dtype == DTYPE_F32 ? 4 : 2;
    a->d->kernels->widen(row_of(a->out, row),
        (const char *)w->data + a->ids[row] * w->stride * bytes, w->dtype, a->out.cols);
}

static void op_embed(
    struct device *d, struct tensor out, const struct weight *table, const int32_t *ids)
{
    each_row(&(struct rows){.d = d, .out = out, .table = table, .ids = ids, .row = row_embed});
}

static void add_row(float *x, const float *y, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        x[i] += y[i];
}

static void row_add_bias(const struct rows *a, int64_t row)
{
    add_row(row_of(a->out, row), a->vector, a->out.cols);
}

static void op_add_bias(struct device *d, struct tensor x, const void *bias)
{
    each_row(&(struct rows){.d = d, .out = x, .vector = bias, .row = row_add_bias});
}

static void row_rms_norm(const struct rows *a, int64_t row)
{
    float *x = row_of(a->x, row);
    if (a->y)
        add_row(x, row_of(*a->y, row), a->x.cols);
    a->d->kernels->rms_norm(row_of(a->out, row), x, a->vector, a->eps, a->x.cols);
}

static void op_rms_norm(struct device *d, struct tensor out, struct tensor x,
    const struct tensor *y, const float *weight, float eps)
{
    each_row(&(struct rows){
        .d = d, .out = out, .x = x, .y = y, .vector = weight, .eps = eps, .row = row_rms_norm});
}

static void row_head_norm(const struct rows *a, int64_t row)
{
    float *x = row_of(a->out, row);
    int64_t dim = a->out.cols / a->n_heads;
    for (uint32_t h = 0; h < a->n_heads; h++)
        a->d->kernels->rms_norm(x + h * dim, x + h * dim, a->vector, a->eps, dim);
}

static void op_head_norm(
    struct device *d, struct tensor x, uint32_t n_heads, const float *weight, float eps)
{
    each_row(&(struct rows){
        .d = d, .out = x, .n_heads = n_heads, .vector = weight, .eps = eps, .row = row_head_norm});
}

/* (a, b) -> (a cos - b sin, b cos + a sin) for the two halves of each head */
static void row_rope(const struct rows *a, int64_t row)
{
    int64_t dim = a->tables->head_dim, half = dim / 2;
    const float *c = a->tables->cos + a->ids[row] * half, *s = a->tables->sin + a->ids[row] * half;
    for (uint32_t h = 0; h < a->n_heads; h++) {
        float *low = row_of(a->out, row) + h * dim, *high = low + half;
        for (int64_t i = 0; i < half; i++) {
            float x = low[i], y = high[i];
            low[i] = x * c[i] - y * s[i];
            high[i] = y * c[i] + x * s[i];
        }
    }
}

static void op_rope(struct device *d, struct tensor x, uint32_t n_heads,
    const struct rope_tables *tables, const int32_t *positions)
{
    each_row(&(struct rows){
        .d = d, .out = x, .n_heads = n_heads, .tables = tables, .ids = positions, .row = row_rope});
}

static void row_silu_mul(const struct rows *a, int64_t row)
{
    a->d->kernels->silu_mul(
        row_of(a->out, row), row_of(a->x, row), row_of(*a->y, row), a->out.cols);
}

static void op_silu_mul(struct device *d, struct tensor out, struct tensor gate, struct tensor up)
{
    each_row(&(struct rows){.d = d, .out = out, .x = gate, .y = &up, .row = row_silu_mul});
}

static void row_relu(const struct rows *a, int64_t row)
{
    float *x = row_of(a->out, row);
    for (int64_t i = 0; i < a->out.cols; i++)
        x[i] = x[i] < 0 ? 0 : x[i];
}

static void op_choose_linear(
    struct device *d, enum dtype type, int64_t rows, int64_t cols, int has_bias)
{
    (void)d, (void)type, (void)rows, (void)cols, (void)has_bias; /* there is no choice */
}

static void op_relu(struct device *d, struct tensor x)
{
    each_row(&(struct rows){.d = d, .out = x, .row = row_relu});
}

static void row_gather(const struct rows *a, int64_t row)
{
    memcpy(row_of(a->out, row), row_of(a->x, a->indices[row]), (size_t)a->out.cols * sizeof(float));
}

static void op_gather(struct device *d, struct tensor out, struct tensor x, const uint32_t *indices)
{
    each_row(&(struct rows){.d = d, .out = out, .x = x, .indices = indices, .row = row_gather});
}

/* On one thread: runs may name one slot, and it is little beside the products. */
static void op_keep(
    struct device *d, struct tensor out, struct tensor x, const struct kv_slots *slots, uint32_t n)
{
    (void)d;
    for (uint32_t k = 0; k < n; k++)
        for (uint32_t i = 0; i < slots[k].n; i++)
            memcpy(row_of(out, slots[k].slot + i), row_of(x, slots[k].token + i),
                (size_t)x.cols * sizeof(float));
}

/* ---- pooling ---- */

/* Mean of rows [first, first + n), summed in order. */
static void mean_rows(float *out, struct tensor x, int64_t first, int64_t n)
{
    memset(out, 0, (size_t)x.cols * sizeof *out);
    for (int64_t row = first; row < first + n; row++)
        add_row(out, row_of(x, row), x.cols);
    for (int64_t i = 0; i < x.cols; i++)
        out[i] /= (float)n;
}

/* Applies the activation to a row of logits, in place; returns the first value to output. */
static const float *activate(const struct cpu_kernels *k, float *logits, int64_t n, uint32_t how)
{
    if (how == ACTIVATION_SOFTMAX || how == ACTIVATION_CLASS1)
        k->softmax(logits, n);
    else if (how == ACTIVATION_SIGMOID)
        k->sigmoid(logits, n);
    return how == ACTIVATION_CLASS1 ? logits + 1 : logits;
}

static void pool_span(
    struct device *d, float *values, struct tensor logits, const struct pool_span *span)
{
    uint32_t each = activation_values((int)span->activation, (uint32_t)logits.cols);
    float *row = scratch_take(&d->per_thread[0], (size_t)logits.cols * sizeof *row);
    for (uint32_t i = 0; i < (span->mean ? 1 : span->n); i++) {
        if (span->mean)
            mean_rows(row, logits, span->first, span->n);
        else
            memcpy(row, row_of(logits, span->first + i), (size_t)logits.cols * sizeof *row);
        const float *from = activate(d->kernels, row, logits.cols, span->activation);
        memcpy(values + span->at + i * each, from, each * sizeof *row);
    }
}

static void op_pool(struct device *d, float *values, struct tensor logits,
    const struct pool_span *spans, uint32_t n_spans)
{
    for (uint32_t i = 0; i < n_spans; i++)
        pool_span(d, values, logits, &spans[i]);
}

/* ---- the other ranks ---- */

static void op_all_reduce(struct device *d, struct tensor x)
{
    if (!d->comm || comm_size(d->comm) == 1)
        return;
    if (x.stride == x.cols) {
        comm_all_reduce(d->comm, x.data, (uint64_t)(x.rows * x.cols));
        return;
    }
    for (int64_t row = 0; row < x.rows; row++)
        comm_all_reduce(d->comm, row_of(x, row), (uint64_t)x.cols);
}

static void op_plan_attention(struct device *d, const struct attn_metadata *meta)
{
    (void)d, (void)meta;
}

const struct ops cpu_ops = {
    .name = "cpu",
    .device = &cpu_device_ops,
    .mlp_rows = 768,
    .shares_prefixes = 1,
    .embed = op_embed,
    .linear = cpu_linear,
    .choose_linear = op_choose_linear,
    .linear_narrow = cpu_linear_narrow,
    .linear_add = cpu_linear_add,
    .add_bias = op_add_bias,
    .rms_norm = op_rms_norm,
    .head_norm = op_head_norm,
    .rope = op_rope,
    .plan_attention = op_plan_attention,
    .attention = cpu_attention,
    .silu_mul = op_silu_mul,
    .relu = op_relu,
    .gather = op_gather,
    .keep = op_keep,
    .pool = op_pool,
    .all_reduce = op_all_reduce,
};
