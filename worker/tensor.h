/* tensor.h - tensors, and matrices as the checkpoint or the device stores them.
 *
 * Both are row-major: [rows, cols] with `stride` elements from row to row. C++ includes this header
 * too: use only the common subset. */
#ifndef ASSAY_TENSOR_H
#define ASSAY_TENSOR_H

#include <stddef.h>
#include <stdint.h>

#include "worker/dtype.h"

/* Activations. The memory belongs to the device's arena. */
struct tensor {
    void *data;
    enum dtype dtype;
    int64_t rows, cols, stride;
    float *scale; /* [rows] of quantized types: value = stored * scale; else NULL */
};

/* A matrix of few bits, as a checkpoint stores it (quantization.h). Words are 32 bits; the first of
 * the numbers in a word is in its lowest bits. */
enum packing_order {
    PACKED_ROWS,    /* [rows, words of columns]: a word holds neighbours in k of one row */
    PACKED_COLUMNS, /* [words of columns, rows]: the same, a word of every row after the other */
    PACKED_AWQ      /* [columns, words of rows]: a word holds eight rows, 0 2 4 6 1 3 5 7 */
};

enum packed_numbers {
    PACKED_UNSIGNED,
    PACKED_SIGNED, /* 8 bits, two's complement, taken as 128 more: 0 .. 255 */
    PACKED_E4M3    /* 8 bits, DTYPE_F8's format: 0x7f and 0xff are NaN */
};

/* How the inputs of a matrix's products are rounded to 8 bits and back, as a checkpoint may ask for
 * it (worker/cpu/round_rows.c). */
enum rounding_how {
    ROUND_NOT,
    ROUND_BY_ROW,       /* scale and zero point from each row's smallest and largest number */
    ROUND_BY_MAGNITUDE, /* scale from each row's largest magnitude, no zero point */
    ROUND_BY_SCALE
};

struct rounding {
    enum rounding_how how;
    enum packed_numbers numbers; /* PACKED_SIGNED or PACKED_E4M3 */
    float scale, zero;           /* of ROUND_BY_SCALE */
    /* Columns that share a scale, where "row" above means these; 0: all of them */
    int64_t group;
    float least;  /* x is divided by the scale, but never by less; 0: by 2^-23 for a scale of 0 */
    int is_split; /* the device's ranks have a part of each row: its numbers are of the whole */
};

struct packing {
    enum packing_order order;
    enum packed_numbers numbers;
    int bits; /* of a number: 4 or 8 */
    /* Of row j in group g at g * group_stride + j, a multiple of PACKING_ROWS: value = (stored -
     * zero) * scale, both steps in float32. */
    const float *scale, *zero;
    int64_t group_stride;
    /* The group of column k is group_of[k]; or, where that is NULL, (first + k) / group_size. */
    const int32_t *group_of;
    int64_t group_size, first;
    struct rounding inputs;
};

#define PACKING_ROWS 32

static inline int64_t packing_group(const struct packing *p, int64_t k)
{
    return p->group_of ? p->group_of[k] : (p->first + k) / p->group_size;
}

/* A stored matrix [rows = out, cols = in]. Borrows its data from the mapped checkpoint, or from the
 * device after `prepare_weights`. */
struct weight {
    const void *data;
    enum dtype dtype;
    int64_t rows, cols, stride;
    const float *scale; /* [rows] of quantized types, else NULL */
    /* The type of its products' factors: F32, or set by prepare_weights on the CPU, and on GPUs
     * where its stack has packed matrices */
    enum dtype factors;
    /* Of DTYPE_PACKED, whose `data` is its first word, and whose `stride` counts words from row to
     * row of what is stored; else NULL, or how the inputs of its products are rounded. The struct
     * is in the host's memory, its tables are in the device's. */
    const struct packing *packing;
};

/* How the inputs of its products are rounded first; NULL: they are not. */
static inline const struct rounding *weight_rounding(const struct weight *w)
{
    return w->packing && w->packing->inputs.how != ROUND_NOT ? &w->packing->inputs : NULL;
}

static inline int weights_rounded_alike(const struct weight *a, const struct weight *b)
{
    const struct rounding *r = weight_rounding(a), *s = weight_rounding(b);
    if (!r || !s)
        return r == s;
    return r->how == s->how && r->numbers == s->numbers && r->scale == s->scale &&
           r->zero == s->zero && r->group == s->group && r->least == s->least &&
           r->is_split == s->is_split;
}

/* Parts from `from` on whose inputs are rounded alike. */
static inline int weights_alike(const struct weight *parts, int from, int n_parts)
{
    int n = 1;
    while (from + n < n_parts && weights_rounded_alike(&parts[from], &parts[from + n]))
        n++;
    return n;
}

/* Matrices stacked along their output, which the device takes as one, in `dtype`. F8 and I8: the
 * device quantizes each row by its largest magnitude (packed F8 keeps its bytes and scales). BF16
 * on the CPU: products are in bfloat16. */
struct weight_stack {
    struct weight *parts;
    int n_parts;
    enum dtype dtype;
};

/* A row's length in memory is a multiple of this many elements: 16 bytes or more. */
#define ROW_ELEMENTS 16
/* A quantized tensor's memory has room for its rows rounded up to a multiple of this. */
#define QUANT_ROWS 32

static inline int64_t round_up(int64_t n, int64_t unit)
{
    return (n + unit - 1) / unit * unit;
}

static inline struct tensor tensor_of(
    void *data, enum dtype dtype, int64_t rows, int64_t cols, int64_t stride)
{
    struct tensor t = {data, dtype, rows, cols, stride, NULL};
    return t;
}

/* The same, with the arena's stride. */
static inline struct tensor tensor_shaped(void *data, enum dtype dtype, int64_t rows, int64_t cols)
{
    return tensor_of(data, dtype, rows, cols, round_up(cols, ROW_ELEMENTS));
}

static inline size_t tensor_bytes(struct tensor t)
{
    return (size_t)(t.rows * t.stride * dtype_bytes(t.dtype));
}

/* Views of columns, and of rows, [from, from + n) of a tensor. */
static inline struct tensor tensor_columns(struct tensor t, int64_t from, int64_t n)
{
    t.data = (char *)t.data + from * dtype_bytes(t.dtype);
    t.cols = n;
    return t;
}

static inline struct tensor tensor_rows(struct tensor t, int64_t from, int64_t n)
{
    t.data = (char *)t.data + from * t.stride * dtype_bytes(t.dtype);
    t.rows = n;
    t.scale = t.scale ? t.scale + from : NULL;
    return t;
}

#endif
