/* gemm_private.h - shapes of products and calls, shared by gemm.c, gemm_choose.c and
 * gemm_product.c. */
#ifndef ASSAY_CUDA_GEMM_PRIVATE_H
#define ASSAY_CUDA_GEMM_PRIVATE_H

#include <cublasLt.h>

#include "cuda/gemm.h"

#define GEMM_WORKSPACE_BYTES ((size_t)32 << 20)
#define GEMM_MAX_PRODUCTS 64
/* The most rows of one product: algorithms are tried only up to this size. */
#define GEMM_MAX_ROWS 8192
#define GEMM_SUM_ROWS 1024 /* for I8, whose sums are kept */

/* Products of one-byte types have whole multiples of this many rows: the library refuses fewer of
 * integers, and on some devices of F8. */
static inline int64_t gemm_row_unit(enum dtype in)
{
    return dtype_bytes(in) == 1 ? QUANT_ROWS : 1;
}

static inline int64_t gemm_max_rows(enum dtype in)
{
    return in == DTYPE_I8 ? GEMM_SUM_ROWS : GEMM_MAX_ROWS;
}

/* One shape, with its descriptors; the numbers of rows and leading dimensions are set for each
 * call. I8 products give int32 sums; `out` is then F32, which has the same size. */
struct product {
    enum dtype in, out;
    int64_t n, k, weight_stride;
    int has_bias;
    cublasLtMatmulDesc_t desc;
    cublasLtMatrixLayout_t a, b, d;
    cublasLtMatmulAlgo_t algo;
};

struct gemm {
    cublasLtHandle_t handle;
    void *workspace;
    char cache_file[512]; /* empty: no file */
    char machine[256];    /* device, driver and library, as in the file */
    struct product products[GEMM_MAX_PRODUCTS];
    int n_products;
    struct tensor quantized; /* quantized copy of a float input; 0 rows: not used */
    struct tensor sums;      /* of I8, for a few rows at a time */
    struct tensor rounded;   /* copy of an input whose rows are rounded; 0 rows: not used */
    float *bounds;           /* [rounded.rows][2], for kernel_measure_rows */
};

/* The operands of out = x W^T (+ bias). */
struct operands {
    struct tensor out, x;
    struct weight w; /* all parts, contiguous */
    const void *bias;
};

#define LT_MUST(call) gemm_must(call, #call)
void gemm_must(cublasStatus_t rc, const char *call);

/* p has its types and shape; dies if there is no memory. */
void gemm_make_descriptors(struct product *p, const struct weight *w, const void *bias);
void gemm_set_rows(struct product *p, int64_t rows, int64_t x_stride, int64_t out_stride);
cublasStatus_t gemm_multiply(struct device *d, struct product *p, const cublasLtMatmulAlgo_t *algo,
    const struct operands *o);

/* Finds the algorithms that the library offers for these numbers of rows, without duplicates; rows
 * of x and out lie at multiples of 16 elements. Returns how many are in `found`
 * [GEMM_MAX_CANDIDATES]. */
#define GEMM_MAX_CANDIDATES 64
int gemm_candidates(struct device *d, struct product *p, const int64_t *rows, int n_rows,
    cublasLtMatmulAlgo_t *found);

/* Some elements of a product, computed on the host in double precision (gemm_sample.c). */
#define GEMM_SAMPLED 16 /* rows of x, and as many of w */
struct gemm_sample {
    enum dtype in;
    int64_t row[GEMM_SAMPLED], column[GEMM_SAMPLED];
    double expected[GEMM_SAMPLED][GEMM_SAMPLED], allowed[GEMM_SAMPLED][GEMM_SAMPLED];
};
/* Reads the operands of these rows from the device; o->out is only looked at for its shape and
 * type. */
void gemm_sample_take(
    struct device *d, struct gemm_sample *s, enum dtype in, const struct operands *o);
/* Whether the device's out has these numbers; if not, `text` says what it has instead. out F32 of
 * I8 products has int32 sums. */
int gemm_sample_agrees(
    struct device *d, const struct gemm_sample *s, struct tensor out, char *text, size_t bytes);

/* Tries and times the library's algorithms for this shape and sets p->algo by gemm.h's rule; dies
 * if there is none. w and bias represent all products of this shape. */
void gemm_choose(struct device *d, struct product *p, const struct weight *w, const void *bias);
/* The same with noise for both. */
void gemm_choose_on_noise(struct device *d, struct product *p);

#endif
