/* gemm.h - the large products, by cuBLASLt: out = x W^T (+ bias).
 *
 * Each shape gets one algorithm, chosen when it is first needed (the canary row needs them all,
 * before READY) and then kept: the fastest without split K whose numbers are right, and that gives
 * a row the same bits in batches of any size that products are given (longer ones are cut). A file remembers choices by
 * device, driver, library version and shape. All ranks of a group use rank 0's choice. */
#ifndef ASSAY_CUDA_GEMM_H
#define ASSAY_CUDA_GEMM_H

#include "cuda/gpu.h"

/* o->cache_dir NULL: nothing is remembered. o->quant: allocates memory for quantized products. */
int gemm_new(struct gemm **g, struct device *d, const struct device_options *o, struct err *e);
void gemm_free(struct gemm **g);

/* As ops.linear. The parts of w are contiguous in memory (prepare_weights.c), or some of them are
 * packed (packed.h). */
void gemm_linear(struct device *d, struct tensor out, struct tensor x, const struct weight *parts,
    int n_parts, const void *bias);

/* As ops.choose_linear. */
void gemm_choose_linear(
    struct device *d, enum dtype type, int64_t rows, int64_t cols, int has_bias);

/* Hash of all shapes and choices so far: part of what determines a score's bits. */
uint64_t gemm_table_hash(const struct gemm *g);

#endif
