/* gemm_product.c - a product in cuBLASLt's terms: its descriptors and the call (gemm_private.h). */
#include "cuda/gemm_private.h"

#include "schema/log.h"

#define SET(p, attribute, value)                                                                   \
    LT_MUST(cublasLtMatmulDescSetAttribute(                                                        \
        (p)->desc, CUBLASLT_MATMUL_DESC_##attribute, &(value), sizeof(value)))

void gemm_must(cublasStatus_t rc, const char *call)
{
    if (rc != CUBLAS_STATUS_SUCCESS)
        die(GPU_EXIT_ERROR, "event=gpu_error error=%s call=%.100s", cublasLtGetStatusString(rc),
            call);
}

static cudaDataType_t data_type(enum dtype t)
{
    static const cudaDataType_t types[N_DTYPES] = {
        CUDA_R_32F, CUDA_R_16F, CUDA_R_16BF, CUDA_R_8F_E4M3, CUDA_R_8I};
    return types[t];
}

/* w and bias: any of this shape. The library needs their pointers set when it is asked for
 * algorithms. */
void gemm_make_descriptors(struct product *p, const struct weight *w, const void *bias)
{
    int whole = p->in == DTYPE_I8;
    cublasOperation_t transposed = CUBLAS_OP_T;
    cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_BIAS;
    cublasLtMatmulMatrixScale_t scales = CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F;
    cudaDataType_t in = data_type(p->in), out = whole ? CUDA_R_32I : data_type(p->out);
    LT_MUST(cublasLtMatmulDescCreate(&p->desc, whole ? CUBLAS_COMPUTE_32I : CUBLAS_COMPUTE_32F,
        whole ? CUDA_R_32I : CUDA_R_32F));
    SET(p, TRANSA, transposed);
    if (p->has_bias) {
        SET(p, EPILOGUE, epilogue);
        SET(p, BIAS_DATA_TYPE, out);
        SET(p, BIAS_POINTER, bias);
    }
    if (p->in == DTYPE_F8) {
        SET(p, A_SCALE_MODE, scales);
        SET(p, B_SCALE_MODE, scales);
        SET(p, A_SCALE_POINTER, w->scale);
        SET(p, B_SCALE_POINTER, w->scale);
    }
    LT_MUST(
        cublasLtMatrixLayoutCreate(&p->a, in, (uint64_t)p->k, (uint64_t)p->n, p->weight_stride));
    LT_MUST(cublasLtMatrixLayoutCreate(&p->b, in, (uint64_t)p->k, 1, p->k));
    LT_MUST(cublasLtMatrixLayoutCreate(&p->d, out, (uint64_t)p->n, 1, p->n));
}

static void set_layout(cublasLtMatrixLayout_t l, int64_t rows, int64_t stride)
{
    uint64_t cols = (uint64_t)rows;
    LT_MUST(cublasLtMatrixLayoutSetAttribute(l, CUBLASLT_MATRIX_LAYOUT_COLS, &cols, sizeof cols));
    LT_MUST(cublasLtMatrixLayoutSetAttribute(l, CUBLASLT_MATRIX_LAYOUT_LD, &stride, sizeof stride));
}

void gemm_set_rows(struct product *p, int64_t rows, int64_t x_stride, int64_t out_stride)
{
    set_layout(p->b, rows, x_stride);
    set_layout(p->d, rows, out_stride);
}

cublasStatus_t gemm_multiply(
    struct device *d, struct product *p, const cublasLtMatmulAlgo_t *algo, const struct operands *o)
{
    const float one = 1, zero = 0;
    const int32_t whole_one = 1, whole_zero = 0;
    int whole = p->in == DTYPE_I8;
    struct gemm *g = d->gemm;
    gemm_set_rows(p, o->x.rows, o->x.stride, o->out.stride);
    if (p->has_bias)
        SET(p, BIAS_POINTER, o->bias);
    if (p->in == DTYPE_F8) {
        SET(p, A_SCALE_POINTER, o->w.scale);
        SET(p, B_SCALE_POINTER, o->x.scale);
    }
    return cublasLtMatmul(g->handle, p->desc, whole ? (const void *)&whole_one : &one, o->w.data,
        p->a, o->x.data, p->b, whole ? (const void *)&whole_zero : &zero, o->out.data, p->d,
        o->out.data, p->d, algo, g->workspace, GEMM_WORKSPACE_BYTES, gpu_stream(d));
}

/* ---- the table ---- */
