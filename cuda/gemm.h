/* gemm.h - the large products, by cuBLASLt: out = x W^T (+ bias).
 *
 * For each shape one algorithm, chosen when it is first needed (the canary row needs them all,
 * before READY) and then kept: only algorithms without split K that give a row the same bits in
 * batches of any size that products are given (longer ones are cut) are taken, and of these the
 * fastest. What was chosen is remembered in a file
 * by device, driver, library version and shape. The ranks of a group use what rank 0 chose. */
#ifndef ASSAY_CUDA_GEMM_H
#define ASSAY_CUDA_GEMM_H

#include "cuda/gpu.h"

/* o->cache_dir NULL: nothing is remembered. o->quant: memory for quantized products is taken. */
int gemm_new(struct gemm **g, struct device *d, const struct device_options *o, struct err *e);
void gemm_free(struct gemm **g);

/* As ops.linear. The parts of w follow each other in memory (prepare_weights.c). */
void gemm_linear(struct device *d, struct tensor out, struct tensor x, const struct weight *parts,
    int n_parts, const void *bias);

/* Of all shapes and choices so far: part of what makes a score's bits. */
uint64_t gemm_table_hash(const struct gemm *g);

#endif
