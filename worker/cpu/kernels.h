/* kernels.h - the innermost loops, one set for each instruction set. kernels.inc (with the .inc
 * files that are parts of it) is their only source; it is compiled as portable C, for AVX2 with
 * FMA, for AVX-512, for that with VNNI and for that with BF16 too, and all give the same bits: the
 * same order of every sum, fused multiply-adds exactly where v8_fma and vt_fma say so (fmaf where
 * there is no instruction). Sets differ in the size of a tile, which changes no bit: an element of a
 * product is one chain over k, and in int8 an exact sum.
 *
 * A panel is a sequence of words of 4 bytes: floats, or pairs of bf16, or for int8 pairs of int16,
 * neighbours in k, the first in the lower half.
 *
 * Lengths are elements. No pointer needs to be aligned. */
#ifndef ASSAY_KERNELS_H
#define ASSAY_KERNELS_H

#include <stdint.h>

#include "worker/ops.h"

/* Every set's nr and mr divide these. */
#define TILE_COLUMNS 32
#define TILE_ROWS 12
#define COLUMN_ROWS 4
#define SOFTMAX_SLACK 8 /* 2^8 and its sums are far from what a float holds */

/* c[i][j] (+)= sum over k of a[k*a_step+i] * b[k*NR+j], one fused chain in order of k, from 0 when
 * `first` else from c; a_step is MR for what pack_rows gives; bias[j] is added after it when bias is
 * not NULL. Only rows < mr and columns < nr of c are read and written; all MR of a may be read.
 * Meanwhile what is at `next` is brought near, next_step bytes of it with every k; NULL: nothing.
 *
 * Of bf16, k counts pairs, of which the second is added before the first, and subnormal numbers are
 * zeros, given or found (kernels_bf16.inc); bias too is added so.
 *
 * Of int8, a word times a word is the sum of two products, the sum over k an int32 (so k is at most
 * INT8_MOST_WORDS), and c = (c +) float(sum); where x_scale is not NULL, then
 * c = c * x_scale[i] * w_scale[j] (+ bias[j]). */
struct product {
    const void *a, *b; /* panels */
    int64_t a_step, k; /* words */
    float *c;
    int64_t ldc;
    int mr, nr, first;
    const float *bias;
    const float *x_scale, *w_scale; /* [MR], [NR]; NULL: there are pieces of K to come */
    const void *next;
    int64_t next_step;
};

/* Magnitudes of int8's integers: of weights, and of activations, 12 bits. 127 * 2047 times 4096 and
 * more fit int32: no sum of a piece of K overflows. */
#define INT8_WEIGHT_LEVELS 127
#define INT8_ROW_LEVELS 2047
#define INT8_MOST_WORDS 2048

/* Panels with words of one kind. */
struct panel_kernels {
    int64_t per_word; /* elements */
    void (*tile)(const struct product *p);
    /* Word k*MR+i of a has the elements of x[i*stride] from k*per_word on, for i < mr and n_k
     * elements; beyond mr are whatever some row has, and 0 after the last where it is not the last
     * of its word. Of int8 an element is round(x / scale[i]), or 0 where scale is NaN; else scale is
     * not looked at. */
    void (*pack_rows)(
        void *a, const float *x, int64_t stride, const float *scale, int mr, int64_t n_k);
    /* Word k*NR+j of b has the elements of w[j*stride] in the same way, for j < nr. Of int8, w is a
     * panel as prepare_weights.c stores it. */
    void (*pack_weight)(
        void *b, const void *w, enum dtype dtype, int64_t stride, int nr, int64_t n_k);
};

struct cpu_kernels {
    const char *isa;
    int mr, nr; /* MR rows and NR columns of a tile */
    struct panel_kernels f32, bf16, int8;
    /* What the integers of a row are multiplied by: its largest magnitude / levels; tiny rows (and
     * zeros) have a smallest scale, and a row with an infinity or NaN has NaN. */
    float (*row_scale)(const float *x, int64_t n, int levels);
    void (*widen)(float *out, const void *in, enum dtype dtype, int64_t n);
    void (*rms_norm)(float *out, const float *x, const float *weight, float eps, int64_t n);
    void (*silu_mul)(float *out, const float *gate, const float *up, int64_t n);
    void (*sigmoid)(float *x, int64_t n);
    void (*softmax)(float *x, int64_t n);
    /* Attention's: panels of NR columns, element [k][j] at k*NR + j. */
    /* A product whose c is a panel of mr rows, any number of them; nr, ldc and bias do not count. Up to
     * the next multiple of COLUMN_ROWS, rows of a are read, and rows of c written, that mean nothing.
     * next_step goes with every row, not every k: too many at a time are not brought at all. */
    void (*multiply_columns)(const struct product *p);
    /* to[k*step+i] = from[i*stride+k], i < n, k < n_k; up to 7 more of each k are written */
    void (*transpose)(
        float *to, int64_t step, const float *from, int64_t stride, int64_t n, int64_t n_k);
    /* A step of an online softmax in each column: s[n][NR] are scores, n >= 1, of which column j
     * sees from[j] <= k < to[j]; NULL: all. Turns s into 2^(s - m'), 0 where not seen, and adds it to
     * the running sum l[NR]. The base m[NR] (-inf at the start) goes up to the largest score when that
     * is more than SOFTMAX_SLACK above it; alpha[NR] is what the sums so far must be multiplied by
     * then. 0: by 1 in every column. */
    int (*softmax_columns)(float *s, int64_t n, const int32_t *from, const int32_t *to, float *m,
        float *l, float *alpha);
    /* x[k][j] *= by[j], k < n */
    void (*scale_columns)(float *x, int64_t n, const float *by);
    /* out[j*stride+k] = x[k][j], j < n_columns, k < n */
    void (*unpack)(float *out, int64_t stride, const float *x, int n_columns, int64_t n);
};

extern const struct cpu_kernels cpu_kernels_portable;
#if defined(__x86_64__)
extern const struct cpu_kernels cpu_kernels_avx2, cpu_kernels_avx512, cpu_kernels_avx512vnni,
    cpu_kernels_avx512bf16;
#endif

/* The fastest set that this CPU has, or the one that `isa` names; NULL: this CPU has none of that
 * name. What is returned gave the same bits as the portable set just now: see kernels_proven. */
const struct cpu_kernels *kernels_choose(const char *isa);
/* The first of `sets` (the last is NULL) that gives the portable set's bits on a small problem, the
 * portable one when none does. A warning is logged for each that is passed over. */
const struct cpu_kernels *kernels_proven(const struct cpu_kernels *const *sets);

#endif
