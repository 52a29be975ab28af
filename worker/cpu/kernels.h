/* kernels.h - the innermost loops, one set for each instruction set. kernels.inc and the .inc files
 * it includes are their only source, compiled as portable C, for AVX2 with FMA, for AVX-512, and
 * for AVX-512 with VNNI and with BF16. All sets give the same bits: every sum has the same order,
 * and multiply-adds are fused exactly where v8_fma and vt_fma say so (fmaf without an instruction).
 * Sets differ in tile size, which changes no bit: an element of a product is one chain over k, and
 * in int8 an exact sum.
 *
 * A panel is a sequence of 4-byte words: floats, pairs of bf16, or for int8 pairs of int16; the two
 * are neighbours in k, the first in the lower half. A set may have bf16 as floats (per_word is 1),
 * of which the second of each pair comes first.
 *
 * Lengths are in elements. Pointers need no alignment. */
#ifndef ASSAY_KERNELS_H
#define ASSAY_KERNELS_H

#include <stdint.h>

#include "worker/ops.h"

/* Every set's nr and mr divide these. */
#define TILE_COLUMNS 32
#define TILE_ROWS 12
#define COLUMN_ROWS 4
#define SOFTMAX_SLACK 8 /* 2^8 and its sums are far from what a float holds */

/* c[i][j] (+)= sum over k of a[k*a_step+i] * b[k*NR+j], one fused chain in order of k, starting
 * from 0 if `first`, else from c. a_step is MR for panels from pack_rows. bias[j], unless bias is
 * NULL, is added after the chain. Only rows < mr and columns < nr of c are read and written; all MR
 * of a may be read. Meanwhile next_step bytes at `next` are prefetched with every k; NULL: none.
 *
 * In bf16 the second of a pair is added before the first, and subnormal inputs and
 * results are zeros (kernels_bf16.inc), also when the bias is added.
 *
 * In int8, the product of two words is the sum of two products, and the sum over k is an int32 (so
 * k is at most INT8_MOST_WORDS). c = (c +) float(sum); then, unless x_scale is NULL, c = c *
 * x_scale[i] * w_scale[j] (+ bias[j]). */
struct product {
    const void *a, *b; /* panels */
    int64_t a_step, k; /* words */
    float *c;
    int64_t ldc;
    int mr, nr, first;
    const float *bias;
    const float *x_scale, *w_scale; /* [MR], [NR]; NULL: more pieces of K follow */
    const void *next;
    int64_t next_step;
};

/* The largest magnitudes of int8's integers: weights, and activations, which have 12 bits. 127 *
 * 2047 times 4096 and more fit int32, so no sum over a piece of K overflows. */
#define INT8_WEIGHT_LEVELS 127
#define INT8_ROW_LEVELS 2047
#define INT8_MOST_WORDS 2048

/* Panels with words of one kind. */
struct panel_kernels {
    int64_t per_word, multiple; /* elements; K is filled up with zeros to such a number of them */
    void (*tile)(const struct product *p);
    /* Tiles are computed between the two, which wait for all arithmetic before them; `end` gets
     * what `begin` returned. Of the rest, `unpack` alone may be called between them too. */
    unsigned (*begin)(void);
    void (*end)(unsigned before);
    /* Word k*MR+i of a gets the elements of x[i*stride] from k*per_word on, for i < mr and n_k
     * elements. Words beyond mr repeat some row; n_k is filled up with 0 to the multiple. In
     * int8 an element is round(x / scale[i]), or 0 if scale is NaN; the other kinds ignore scale.
     * */
    void (*pack_rows)(
        void *a, const float *x, int64_t stride, const float *scale, int mr, int64_t n_k);
    /* Word k*NR+j of b gets the elements of w[j*stride] in the same way, for j < nr. In int8, w is
     * a panel as prepare_weights.c stores it. */
    void (*pack_weight)(
        void *b, const void *w, enum dtype dtype, int64_t stride, int nr, int64_t n_k);
    /* The same from rows [row, row + nr) and columns [k, k + n_k) of a packed matrix; row is a
     * multiple of NR, k of 16. Meanwhile the same columns of the rows that are `ahead` (a multiple
     * of 8, or 0) further on are prefetched. Not in int8: NULL. */
    void (*unpack)(void *b, const struct weight *w, int64_t row, int nr, int64_t k, int64_t n_k,
        int64_t ahead);
};

struct cpu_kernels {
    const char *isa;
    int mr, nr; /* MR rows and NR columns of a tile */
    struct panel_kernels f32, bf16, int8;
    /* The scale of a row's integers: its largest magnitude / levels. Tiny rows (and zeros) get a
     * smallest scale, and a row with an infinity or NaN gets NaN. */
    float (*row_scale)(const float *x, int64_t n, int levels);
    void (*widen)(float *out, const void *in, enum dtype dtype, int64_t n);
    void (*rms_norm)(float *out, const float *x, const float *weight, float eps, int64_t n);
    void (*silu_mul)(float *out, const float *gate, const float *up, int64_t n);
    void (*sigmoid)(float *x, int64_t n);
    void (*softmax)(float *x, int64_t n);
    /* For attention: panels of NR columns, element [k][j] at k*NR + j. */
    /* A product whose c is a panel with any number mr of rows; nr, ldc and bias are ignored. Up to
     * the next multiple of COLUMN_ROWS, extra rows of a are read and meaningless rows of c are
     * written. next_step applies to every row, not every k: a large number of prefetches at once
     * would be dropped. */
    void (*multiply_columns)(const struct product *p);
    /* to[k*step+i] = from[i*stride+k], i < n, k < n_k; up to 7 more of each k are written */
    void (*transpose)(
        float *to, int64_t step, const float *from, int64_t stride, int64_t n, int64_t n_k);
    /* One step of an online softmax in each column. s[n][NR] are scores, n >= 1; column j sees
     * from[j] <= k < to[j]; NULL: all. Turns s into 2^(s - m'), 0 where not seen, and adds it to
     * the running sum l[NR]. The base m[NR] (-inf at the start) rises to the largest score if that
     * is more than SOFTMAX_SLACK above it; then the sums so far must be multiplied by alpha[NR].
     * Returns 0 if every factor is 1. */
    int (*softmax_columns)(float *s, int64_t n, const int32_t *from, const int32_t *to, float *m,
        float *l, float *alpha);
    /* x[k][j] *= by[j], k < n */
    void (*scale_columns)(float *x, int64_t n, const float *by);
    /* out[j*stride+k] = x[k][j], j < n_columns, k < n */
    void (*unpack)(float *out, int64_t stride, const float *x, int n_columns, int64_t n);
};

/* The words of n elements of K. */
static inline int64_t panel_words(const struct panel_kernels *p, int64_t n)
{
    return round_up(n, p->multiple) / p->per_word;
}

extern const struct cpu_kernels cpu_kernels_portable;
#if defined(__x86_64__)
extern const struct cpu_kernels cpu_kernels_avx2, cpu_kernels_avx512, cpu_kernels_avx512vnni,
    cpu_kernels_avx512bf16;
#endif

/* Returns the fastest set that this CPU has, or the one that `isa` names; NULL if this CPU lacks
 * it. The set was just checked against the portable set's bits (kernels_proven). */
const struct cpu_kernels *kernels_choose(const char *isa);
/* Returns the first of `sets` (NULL-terminated) that gives the portable set's bits on a small
 * problem, or the portable set. Logs a warning for each set that fails. */
const struct cpu_kernels *kernels_proven(const struct cpu_kernels *const *sets);

#endif
