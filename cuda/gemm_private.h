/* gemm_private.h - what gemm.c, gemm_choose.c and gemm_product.c share: a shape of product, and its call. */
#ifndef ASSAY_CUDA_GEMM_PRIVATE_H
#define ASSAY_CUDA_GEMM_PRIVATE_H

#include <cublasLt.h>

#include "cuda/gemm.h"

#define GEMM_WORKSPACE_BYTES ((size_t)32 << 20)
#define GEMM_MAX_PRODUCTS 64
/* No product is given more rows at once: what an algorithm does was tried up to there. */
#define GEMM_MAX_ROWS 8192
#define GEMM_SUM_ROWS 1024 /* of I8, which keep their sums */

static inline int64_t gemm_max_rows(enum dtype in)
{
    return in == DTYPE_I8 ? GEMM_SUM_ROWS : GEMM_MAX_ROWS;
}

/* One shape, with its descriptors; the numbers of rows and leading dimensions are set for a call.
 * Products of I8 give int32 sums; `out` is F32 then, as long. */
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
    char cache_file[512]; /* empty: none */
    char machine[256];    /* device, driver and library, as in the file */
    struct product products[GEMM_MAX_PRODUCTS];
    int n_products;
    struct tensor quantized; /* an input that came as floats; 0 rows: none do */
    struct tensor sums;      /* of I8, some rows at a time */
};

/* What is multiplied: out = x W^T (+ bias). */
struct operands {
    struct tensor out, x;
    struct weight w; /* all parts: they follow each other */
    const void *bias;
};

#define LT_MUST(call) gemm_must(call, #call)
void gemm_must(cublasStatus_t rc, const char *call);

/* p has its types and shape; dies when there is no memory. */
void gemm_make_descriptors(struct product *p, const struct weight *w, const void *bias);
void gemm_set_rows(struct product *p, int64_t rows, int64_t x_stride, int64_t out_stride);
cublasStatus_t gemm_multiply(struct device *d, struct product *p, const cublasLtMatmulAlgo_t *algo,
    const struct operands *o);

/* What the library would take for these numbers of rows, each algorithm once; rows of x and out lie
 * at multiples of 16 elements. Returns how many of `found` [GEMM_MAX_CANDIDATES]. */
#define GEMM_MAX_CANDIDATES 64
int gemm_candidates(struct device *d, struct product *p, const int64_t *rows, int n_rows,
    cublasLtMatmulAlgo_t *found);

/* Tries and times what the library offers for this shape, and sets p->algo (gemm.h says by what
 * rule); dies when there is none. w and bias stand for all of this shape. */
void gemm_choose(struct device *d, struct product *p, const struct weight *w, const void *bias);

#endif
