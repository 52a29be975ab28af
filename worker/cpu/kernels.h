/* kernels.h - the innermost loops, one set for each instruction set. kernels.inc is their only
 * source; it is compiled once as portable C and once for AVX2 with FMA, and both give the same
 * bits: vectors of eight lanes, the same order of every sum, fused multiply-adds exactly where
 * v8_fma says so (fmaf where there is no instruction).
 *
 * Lengths are elements. No pointer needs to be aligned. */
#ifndef ASSAY_KERNELS_H
#define ASSAY_KERNELS_H

#include <stdint.h>

#include "worker/ops.h"

#define GEMM_MR 6  /* rows of a tile */
#define GEMM_NR 16 /* columns of a tile: two vectors */

struct cpu_kernels {
    const char *isa;
    /* c[i][j] (+)= sum over k of a[k*MR+i] * b[k*NR+j], one fused chain in order of k, from 0 when
     * `first` else from c. Adds bias[j] after it when bias is not NULL. Only rows < mr and columns
     * < nr of c are read and written. */
    void (*tile)(const float *a, const float *b, int64_t k, float *c, int64_t ldc, int mr, int nr,
        int first, const float *bias);
    /* b[k*NR+j] = w[j*stride+k] widened, for j < nr (0 beyond), k < n_k */
    void (*pack_weight)(
        float *b, const void *w, enum dtype dtype, int64_t stride, int nr, int64_t n_k);
    void (*widen)(float *out, const void *in, enum dtype dtype, int64_t n);
    void (*rms_norm)(float *out, const float *x, const float *weight, float eps, int64_t n);
    void (*silu_mul)(float *out, const float *gate, const float *up, int64_t n);
    void (*sigmoid)(float *x, int64_t n);
    void (*softmax)(float *x, int64_t n);
    /* One row of an online softmax: s[n] are scores, n a multiple of 8, of which [from, to) are
     * visible. Turns s into exp(scale*s - m') (0 where invisible), updates the running max *m and
     * sum *l, and returns what the sums so far must be multiplied by. */
    float (*softmax_step)(
        float *s, int64_t n, int64_t from, int64_t to, float scale, float *m, float *l);
    void (*scale)(float *x, float by, int64_t n);
};

extern const struct cpu_kernels cpu_kernels_portable;
#if defined(__x86_64__)
extern const struct cpu_kernels cpu_kernels_avx2;
#endif

#endif
