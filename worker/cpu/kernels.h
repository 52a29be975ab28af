/* kernels.h - the innermost loops, one set for each instruction set. kernels.inc (and
 * kernels_int8.inc, a part of it) is their only source; it is compiled as portable C, for AVX2 with
 * FMA, for AVX-512 and for that with VNNI, and all give the same bits: the same order of every sum,
 * fused multiply-adds exactly where v8_fma and vt_fma say so (fmaf where there is no instruction).
 * Sets differ in the size of a tile, which changes no bit: an element of a product is one chain
 * over k, and in int8 an exact sum.
 *
 * A panel is a sequence of words of 4 bytes: floats, or for int8 pairs of int16, neighbours in k.
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

struct cpu_kernels {
    const char *isa;
    int mr, nr; /* MR rows and NR columns of a tile */
    void (*tile)(const struct product *p);
    /* a[k*MR+i] = x[i*stride+k] for i < mr, k < n_k; beyond mr whatever some row has */
    void (*pack_rows)(float *a, const float *x, int64_t stride, int mr, int64_t n_k);
    /* b[k*NR+j] = w[j*stride+k] widened, for j < nr, k < n_k; beyond nr whatever some row has */
    void (*pack_weight)(
        float *b, const void *w, enum dtype dtype, int64_t stride, int nr, int64_t n_k);
    /* The product of int8. */
    void (*tile_int8)(const struct product *p);
    /* What the integers of a row are multiplied by: its largest magnitude / levels; tiny rows (and
     * zeros) have a smallest scale, and a row with an infinity or NaN has NaN. */
    float (*row_scale)(const float *x, int64_t n, int levels);
    /* Word k*MR+i of a: round(x[i*stride+2k] / scale[i]) and the one after it, for i < mr and the
     * words of n_k elements, 0 after the last of an odd number; 0 where scale is NaN. */
    void (*quantize_rows)(
        void *a, const float *x, int64_t stride, const float *scale, int mr, int64_t n_k);
    /* n bytes to as many int16, n a multiple of 16: a panel of weights as it is stored */
    void (*widen_int8)(void *to, const int8_t *from, int64_t n);
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
extern const struct cpu_kernels cpu_kernels_avx2, cpu_kernels_avx512, cpu_kernels_avx512vnni;
#endif

/* The fastest set that this CPU has, or the one that `isa` names; NULL: this CPU has none of that
 * name. What is returned gave the same bits as the portable set just now: see kernels_proven. */
const struct cpu_kernels *kernels_choose(const char *isa);
/* The first of `sets` (the last is NULL) that gives the portable set's bits on a small problem, the
 * portable one when none does. A warning is logged for each that is passed over. */
const struct cpu_kernels *kernels_proven(const struct cpu_kernels *const *sets);

#endif
