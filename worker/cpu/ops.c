/* ops.c - the CPU's table of operations: the device, and what is a loop over rows. Rows are shared
 * out in runs of RUN_ROWS; a row is always computed whole by one thread. */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "schema/log.h"
#include "worker/cpu/device.h"

#define RUN_ROWS 16
#define ALIGNMENT 64
#define HUGE_PAGE (2u << 20)

void *scratch_take(struct scratch *s, size_t bytes)
{
    if (bytes > s->bytes) {
        free(s->data);
        size_t unit = bytes >= HUGE_PAGE ? HUGE_PAGE : ALIGNMENT;
        s->bytes = (bytes + unit - 1) / unit * unit;
        s->data = aligned_alloc(unit, s->bytes);
        if (s->data && unit == HUGE_PAGE)
            madvise(s->data, s->bytes, MADV_HUGEPAGE); /* a hint: fewer address translations */
        if (!s->data)
            die(71, "event=out_of_memory what=scratch bytes=%zu", bytes);
    }
    return s->data;
}

static const struct cpu_kernels *choose_kernels(const char *isa)
{
    int any = strcmp(isa, "auto") == 0;
#if defined(__x86_64__)
    int has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (has_avx2 && (any || strcmp(isa, "avx2") == 0))
        return &cpu_kernels_avx2;
#endif
    return any || strcmp(isa, "portable") == 0 ? &cpu_kernels_portable : NULL;
}

static int may_spin(const struct cpu_device_options *o)
{
    long ranks = o->comm ? comm_size(o->comm) : 1;
    return ranks * o->n_threads <= sysconf(_SC_NPROCESSORS_ONLN);
}

int cpu_device_new(struct device **out, const struct cpu_device_options *o, struct err *e)
{
    const struct cpu_kernels *kernels = choose_kernels(o->isa);
    if (!kernels)
        return err_set(e, ASSAY_EUNSUPPORTED,
            "isa: expected auto, portable or one that this CPU has (avx2), found '%s'", o->isa);
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
    d->arena = arena;
    d->arena_bytes = o->arena_bytes + ALIGNMENT;
    d->pool = pool_new(o->n_threads, may_spin(o));
    pool_set_bump(d->pool, o->bump, o->bump_arg);
    d->per_thread = xcalloc((size_t)o->n_threads, sizeof *d->per_thread);
    *out = d;
    return 0;
}

void cpu_device_free(struct device **out)
{
    struct device *d = *out;
    if (!d)
        return;
    for (int i = 0; i < pool_threads(d->pool); i++)
        free(d->per_thread[i].data);
    pool_free(&d->pool);
    free(d->per_thread);
    free(d->packed_x.data);
    munmap(d->arena, d->arena_bytes);
    free(d);
    *out = NULL;
}

const char *cpu_device_isa(const struct device *d)
{
    return d->kernels->isa;
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

static void op_copy(struct device *d, void *to, const void *from, size_t bytes)
{
    (void)d;
    memcpy(to, from, bytes);
}

static void op_sync(struct device *d)
{
    (void)d;
}

/* ---- loops over rows ---- */

/* What any of the loops below needs; each uses what it needs. */
struct rows {
    struct device *d;
    struct tensor out, x, y;
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
    pool_run(a->d->pool, run_rows, a, (a->out.rows + RUN_ROWS - 1) / RUN_ROWS);
}

static float *at(struct tensor t, int64_t row)
{
    return t.data + row * t.stride;
}

static void row_embed(const struct rows *a, int64_t row)
{
    const struct weight *w = a->table;
    int64_t bytes = w->dtype == DTYPE_F32 ? 4 : 2;
    a->d->kernels->widen(at(a->out, row), (const char *)w->data + a->ids[row] * w->stride * bytes,
        w->dtype, a->out.cols);
}

static void op_embed(
    struct device *d, struct tensor out, const struct weight *table, const int32_t *ids)
{
    each_row(&(struct rows){.d = d, .out = out, .table = table, .ids = ids, .row = row_embed});
}

static void row_add_bias(const struct rows *a, int64_t row)
{
    float *x = at(a->out, row);
    for (int64_t i = 0; i < a->out.cols; i++)
        x[i] += a->vector[i];
}

static void op_add_bias(struct device *d, struct tensor x, const float *bias)
{
    each_row(&(struct rows){.d = d, .out = x, .vector = bias, .row = row_add_bias});
}

static void row_add(const struct rows *a, int64_t row)
{
    float *x = at(a->out, row);
    const float *y = at(a->x, row);
    for (int64_t i = 0; i < a->out.cols; i++)
        x[i] += y[i];
}

static void op_add(struct device *d, struct tensor x, struct tensor y)
{
    each_row(&(struct rows){.d = d, .out = x, .x = y, .row = row_add});
}

static void row_rms_norm(const struct rows *a, int64_t row)
{
    a->d->kernels->rms_norm(at(a->out, row), at(a->x, row), a->vector, a->eps, a->x.cols);
}

static void op_rms_norm(
    struct device *d, struct tensor out, struct tensor x, const float *weight, float eps)
{
    each_row(&(struct rows){
        .d = d, .out = out, .x = x, .vector = weight, .eps = eps, .row = row_rms_norm});
}

static void row_head_norm(const struct rows *a, int64_t row)
{
    float *x = at(a->out, row);
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
        float *low = at(a->out, row) + h * a->head_dim, *high = low + half;
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
    a->d->kernels->silu_mul(at(a->out, row), at(a->x, row), at(a->y, row), a->out.cols);
}

static void op_silu_mul(struct device *d, struct tensor out, struct tensor gate, struct tensor up)
{
    each_row(&(struct rows){.d = d, .out = out, .x = gate, .y = up, .row = row_silu_mul});
}

static void row_relu(const struct rows *a, int64_t row)
{
    float *x = at(a->out, row);
    for (int64_t i = 0; i < a->out.cols; i++)
        x[i] = x[i] < 0 ? 0 : x[i];
}

static void op_relu(struct device *d, struct tensor x)
{
    each_row(&(struct rows){.d = d, .out = x, .row = row_relu});
}

static void row_softmax(const struct rows *a, int64_t row)
{
    a->d->kernels->softmax(at(a->out, row), a->out.cols);
}

static void op_softmax(struct device *d, struct tensor x)
{
    each_row(&(struct rows){.d = d, .out = x, .row = row_softmax});
}

static void row_sigmoid(const struct rows *a, int64_t row)
{
    a->d->kernels->sigmoid(at(a->out, row), a->out.cols);
}

static void op_sigmoid(struct device *d, struct tensor x)
{
    each_row(&(struct rows){.d = d, .out = x, .row = row_sigmoid});
}

static void row_gather(const struct rows *a, int64_t row)
{
    memcpy(at(a->out, row), at(a->x, a->indices[row]), (size_t)a->out.cols * sizeof *a->out.data);
}

static void op_gather(struct device *d, struct tensor out, struct tensor x, const uint32_t *indices)
{
    each_row(&(struct rows){.d = d, .out = out, .x = x, .indices = indices, .row = row_gather});
}

static void row_mean(const struct rows *a, int64_t row)
{
    float *out = at(a->out, row);
    uint32_t first = a->indices[row], end = a->indices[row + 1];
    for (int64_t i = 0; i < a->out.cols; i++)
        out[i] = 0;
    for (uint32_t r = first; r < end; r++)
        for (int64_t i = 0; i < a->out.cols; i++)
            out[i] += at(a->x, r)[i];
    for (int64_t i = 0; i < a->out.cols; i++)
        out[i] /= (float)(end - first);
}

static void op_mean(struct device *d, struct tensor out, struct tensor x, const uint32_t *first)
{
    each_row(&(struct rows){.d = d, .out = out, .x = x, .indices = first, .row = row_mean});
}

static void op_all_reduce(struct device *d, struct tensor x)
{
    if (!d->comm || comm_size(d->comm) == 1)
        return;
    if (x.stride == x.cols) {
        comm_all_reduce(d->comm, x.data, (uint64_t)(x.rows * x.cols));
        return;
    }
    for (int64_t row = 0; row < x.rows; row++)
        comm_all_reduce(d->comm, at(x, row), (uint64_t)x.cols);
}

const struct ops cpu_ops = {
    .name = "cpu",
    .alloc = op_alloc,
    .upload = op_copy,
    .download = op_copy,
    .sync = op_sync,
    .embed = op_embed,
    .linear = cpu_linear,
    .add_bias = op_add_bias,
    .add = op_add,
    .rms_norm = op_rms_norm,
    .head_norm = op_head_norm,
    .rope = op_rope,
    .attention = cpu_attention,
    .silu_mul = op_silu_mul,
    .relu = op_relu,
    .softmax = op_softmax,
    .sigmoid = op_sigmoid,
    .gather = op_gather,
    .mean = op_mean,
    .all_reduce = op_all_reduce,
};
