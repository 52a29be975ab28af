/* prepare_weights.c - marks the products that --dtype bf16 computes in bfloat16 (the matrices stay
 * in the file), and makes the layers' matrices int8 for --quant int8.
 *
 * A row w of a matrix (an output channel) becomes integers from -127 to 127 and a scale, its
 * largest magnitude / 127: w[k] is about integer[k] * scale. A row with an infinity or NaN has the
 * scale NaN, so that its outputs are NaN, as they were before. If ranks share a matrix, each
 * quantizes its own part.
 *
 * Matrices are stored as panels of NR rows, in the tile kernel's layout but with bytes: word k of
 * row j of a panel is the bytes 2*(k*NR+j) and the next one. Missing rows of a panel, and the
 * second byte of the last pair if the row's length is odd, are 0. The scales follow the panels, NR
 * for each.
 *
 * Memory: one byte per weight, in one mapping. These matrices are no longer read from the
 * checkpoint's file (its pages leave the process once everything is loaded: weights_drop). All
 * others stay there. */
#include <sys/mman.h>

#include "worker/cpu/device.h"

#define ALIGNMENT 64
#define ROUNDING 12582912.0f /* 1.5 * 2^23: adding it rounds to an integer */

struct quantizing {
    struct device *d;
    const struct weight *from;
    int8_t *panels;
    float *scale;
};

static int64_t padded_rows(const struct device *d, const struct weight *w)
{
    return round_up(w->rows, d->kernels->nr);
}

static size_t panels_bytes(const struct device *d, const struct weight *w)
{
    return (size_t)round_up(padded_rows(d, w) * int8_words(w->cols) * 2, ALIGNMENT);
}

static size_t part_bytes(const struct device *d, const struct weight *w)
{
    return panels_bytes(d, w) +
           (size_t)round_up(padded_rows(d, w) * (int64_t)sizeof(float), ALIGNMENT);
}

/* Writes element k of the row to to[2 * nr * (k / 2) + k % 2]. */
static void quantize_row(int8_t *to, int64_t nr, const float *x, int64_t n, float scale)
{
    float inverse = 1 / scale;
    for (int64_t k = 0; k < n; k++)
        to[2 * nr * (k / 2) + k % 2] = (int8_t)(x[k] * inverse + ROUNDING - ROUNDING);
}

static void quantize_panel(void *arg, int64_t task, int thread)
{
    const struct quantizing *q = arg;
    const struct weight *w = q->from;
    const struct cpu_kernels *kernels = q->d->kernels;
    int64_t first = task * kernels->nr;
    float *x = scratch_take(&q->d->per_thread[thread], (size_t)w->cols * sizeof *x);
    int8_t *panel = q->panels + 2 * first * int8_words(w->cols);
    for (int64_t j = 0; j < kernels->nr && first + j < w->rows; j++) {
        const char *row = (const char *)w->data + (first + j) * w->stride * dtype_bytes(w->dtype);
        kernels->widen(x, row, w->dtype, w->cols);
        float scale = kernels->row_scale(x, w->cols, INT8_WEIGHT_LEVELS);
        q->scale[first + j] = scale;
        if (scale == scale)
            quantize_row(panel + 2 * j, kernels->nr, x, w->cols, scale);
    }
}

static void quantize_part(struct device *d, struct weight *w, uint8_t *to)
{
    struct quantizing q = {
        .d = d, .from = w, .panels = (void *)to, .scale = (void *)(to + panels_bytes(d, w))};
    thread_pool_run(d->pool, quantize_panel, &q, padded_rows(d, w) / d->kernels->nr);
    *w = (struct weight){q.panels, DTYPE_I8, w->rows, w->cols, w->cols, q.scale, DTYPE_I8, NULL};
}

static void set_factors(struct weight_stack *stacks, size_t n)
{
    for (size_t i = 0; i < n; i++)
        for (int p = 0; p < stacks[i].n_parts && stacks[i].dtype == DTYPE_BF16; p++)
            stacks[i].parts[p].factors = DTYPE_BF16;
}

int cpu_prepare_weights(struct device *d, struct weight_stack *stacks, size_t n, struct err *e)
{
    size_t bytes = 0;
    set_factors(stacks, n);
    for (size_t i = 0; i < n; i++)
        for (int p = 0; p < stacks[i].n_parts && stacks[i].dtype == DTYPE_I8; p++)
            bytes += part_bytes(d, &stacks[i].parts[p]);
    if (bytes == 0 || d->shapes_only)
        return 0;
    uint8_t *to = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (to == MAP_FAILED)
        return err_errno(e, ASSAY_ENOMEM, "weights: no memory for %zu MiB of int8", bytes >> 20);
    madvise(to, bytes, MADV_HUGEPAGE);
    d->quantized = to;
    d->quantized_bytes = bytes;
    for (size_t i = 0; i < n; i++)
        for (int p = 0; p < stacks[i].n_parts && stacks[i].dtype == DTYPE_I8; p++) {
            size_t part = part_bytes(d, &stacks[i].parts[p]);
            quantize_part(d, &stacks[i].parts[p], to);
            to += part;
        }
    return 0;
}
