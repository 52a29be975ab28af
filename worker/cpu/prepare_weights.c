/* prepare_weights.c - which products are of bfloat16, where --dtype bf16 asks for it (the matrices stay
 * in the file); and the layers' matrices as int8, where --quant int8 does.
 *
 * A row w of a matrix (an output channel) becomes integers of -127..127 and its scale, its largest
 * magnitude / 127: w[k] is about integer[k] * scale. A row that holds an infinity or NaN has NaN for
 * scale, so that whatever it gives is NaN too, as it was. Of a matrix that the ranks share, a rank
 * quantizes its own part.
 *
 * Stored are panels of NR rows, as the tile kernel wants them but for the width of a number: word k
 * of row j of a panel are the bytes 2*(k*NR+j) and the one after it. Rows that a panel lacks and the
 * second of the last pair of an odd number are 0. The scales lie behind, NR to a panel.
 *
 * Memory: a byte a weight, in one mapping. Nothing reads these matrices in the checkpoint's file any
 * more (its pages leave the process when all is loaded: weights_drop). All else stays in the file. */
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

/* Element k of the row goes to to[2 * nr * (k / 2) + k % 2]. */
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
    *w = (struct weight){q.panels, DTYPE_I8, w->rows, w->cols, w->cols, q.scale, DTYPE_I8};
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
