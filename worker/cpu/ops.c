/* ops.c - the CPU's table of operations, its device, and the operations that are loops over rows.
 * Rows are distributed in runs of RUN_ROWS; one thread always computes a whole row. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "schema/cores.h"
#include "schema/log.h"
#include "schema/pooling.h"
#include "worker/cpu/device.h"

#define RUN_ROWS 16
#define ALIGNMENT 64
#define HUGE_PAGE (2u << 20)

void *scratch_take(struct scratch *s, size_t bytes)
{
    if (bytes > s->bytes) {
        free(s->data);
        size_t unit = bytes >= HUGE_PAGE / 2 ? HUGE_PAGE : ALIGNMENT;
        s->bytes = (bytes + unit - 1) / unit * unit;
        s->data = aligned_alloc(unit, s->bytes);
        if (s->data && unit == HUGE_PAGE)
            madvise(s->data, s->bytes, MADV_HUGEPAGE); /* a hint: fewer address translations */
        if (!s->data)
            die(71, "event=out_of_memory what=scratch bytes=%zu", bytes);
    }
    return s->data;
}

static int may_spin(const struct device_options *o)
{
    long ranks = o->comm ? comm_size(o->comm) : 1;
    return ranks * o->n_threads <= cores_usable("");
}

static int op_open(struct device **out, const struct device_options *o, struct err *e)
{
    const struct cpu_kernels *kernels = kernels_choose(o->isa);
    if (!kernels)
        return err_set(e, ASSAY_EUNSUPPORTED,
            "isa: expected auto, portable or one that this CPU has (avx512bf16, avx512vnni, "
            "avx512, avx2), "
            "found '%s'",
            o->isa);
    if (o->quant != DTYPE_F32 && o->quant != DTYPE_I8)
        return err_set(e, ASSAY_EUNSUPPORTED,
            "--quant %s: the CPU does not have it; expected none or int8, or a GPU",
            dtype_name(o->quant));
    if (o->n_threads < 1)
        return err_set(e, ASSAY_EBADREQ, "threads: expected 1 or more, found %d", o->n_threads);
    void *arena = mmap(NULL, o->arena_bytes + ALIGNMENT, PROT_READ | PROT_WRITE,
        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (arena == MAP_FAILED)
        return err_errno(
            e, ASSAY_ENOMEM, "activations: no address space for %zu bytes", o->arena_bytes);
    madvise(arena, o->arena_bytes + ALIGNMENT, MADV_HUGEPAGE);
    struct device *d = xcalloc(1, sizeof *d);
    d->kernels = kernels;
    d->comm = o->comm;
    d->shapes_only = o->shapes_only;
    d->arena = arena;
    d->arena_bytes = o->arena_bytes + ALIGNMENT;
    d->pool = thread_pool_new(o->n_threads, may_spin(o));
    thread_pool_set_bump(d->pool, o->bump, o->bump_arg);
    d->per_thread = xcalloc((size_t)o->n_threads, sizeof *d->per_thread);
    *out = d;
    return 0;
}

static void op_close(struct device **out)
{
    struct device *d = *out;
    if (!d)
        return;
    for (int i = 0; i < thread_pool_threads(d->pool); i++)
        free(d->per_thread[i].data);
    thread_pool_free(&d->pool);
    free(d->per_thread);
    free(d->packed_x.data);
    munmap(d->arena, d->arena_bytes);
    if (d->quantized)
        munmap(d->quantized, d->quantized_bytes);
    free(d);
    *out = NULL;
}

static void op_identity(const struct device *d, char *text, size_t bytes)
{
    (void)d; /* threads and instruction sets change no bit */
    snprintf(text, bytes, "cpu arithmetic=%d", CPU_ARITHMETIC);
}

static void op_describe(const struct device *d, char *text, size_t bytes)
{
    snprintf(text, bytes, "cpu (%s)", d->kernels->isa);
}

static void *op_alloc(struct device *d, size_t bytes)
{
    size_t wanted = (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    if (wanted < bytes || wanted > d->arena_bytes - d->arena_used)
        return NULL;
    void *at = d->arena + d->arena_used;
    d->arena_used += wanted;
    return at;
}

static void op_upload(struct device *d, void *to, const void *from, size_t bytes)
{
    (void)d;
    memcpy(to, from, bytes);
}

/* ---- batches: done when finish returns ---- */

static int op_pin(struct device *d, const void *from, size_t bytes)
{
    (void)d, (void)from, (void)bytes;
    return 0;
}

static void op_begin(struct device *d)
{
    (void)d;
}

static const void *op_push(struct device *d, const void *host, size_t bytes)
{
    (void)d, (void)bytes;
    return host;
}

static void op_finish(struct device *d, void *to, const void *from, size_t bytes)
{
    memcpy(to, from, bytes);
    d->unpolled++;
}

static int op_poll(struct device *d, int wait)
{
    (void)wait;
    return d->unpolled > 0 ? d->unpolled--, 1 : 0;
}

static int op_poll_fd(struct device *d)
{
    (void)d;
    return -1;
}

static uint32_t op_progress(struct device *d)
{
    (void)d;
    return 0;
}

/* ---- loops over rows ---- */

/* The arguments of all loops below; each uses those it needs. */
struct rows {
    struct device *d;
    struct tensor out, x;
    const struct tensor *y;
    const float *vector, *cos_table, *sin_table;
    const struct weight *table;
    const int32_t *ids;
    const uint32_t *indices;
    uint32_t n_heads, head_dim;
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
    int64_t half = a->head_dim / 2;
    const float *c = a->cos_table + a->ids[row] * half, *s = a->sin_table + a->ids[row] * half;
    for (uint32_t h = 0; h < a->n_heads; h++) {
        float *low = row_of(a->out, row) + h * a->head_dim, *high = low + half;
        for (int64_t i = 0; i < half; i++) {
            float x = low[i], y = high[i];
            low[i] = x * c[i] - y * s[i];
            high[i] = y * c[i] + x * s[i];
        }
    }
}

static void op_rope(struct device *d, struct tensor x, uint32_t n_heads, uint32_t head_dim,
    const int32_t *positions, const float *cos_table, const float *sin_table)
{
    each_row(&(struct rows){.d = d,
        .out = x,
        .n_heads = n_heads,
        .head_dim = head_dim,
        .ids = positions,
        .cos_table = cos_table,
        .sin_table = sin_table,
        .row = row_rope});
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
    .mlp_rows = 768,
    .in_flight = 1,
    .shares_prefixes = 1,
    .open = op_open,
    .close = op_close,
    .describe = op_describe,
    .identity = op_identity,
    .alloc = op_alloc,
    .upload = op_upload,
    .prepare_weights = cpu_prepare_weights,
    .pin = op_pin,
    .begin = op_begin,
    .push = op_push,
    .finish = op_finish,
    .poll = op_poll,
    .poll_fd = op_poll_fd,
    .progress = op_progress,
    .embed = op_embed,
    .linear = cpu_linear,
    .add_bias = op_add_bias,
    .rms_norm = op_rms_norm,
    .head_norm = op_head_norm,
    .rope = op_rope,
    .plan_attention = op_plan_attention,
    .attention = cpu_attention,
    .silu_mul = op_silu_mul,
    .relu = op_relu,
    .gather = op_gather,
    .pool = op_pool,
    .all_reduce = op_all_reduce,
};
