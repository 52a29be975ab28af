/* comm_nccl.h - the sum and the maximum over a group's ranks on GPUs, by NCCL.
 *
 * NCCL only moves bytes. Each rank receives all ranks' parts of its share of x, adds them in rank
 * order (kernel_sum_ranks) and sends the sum to all: NCCL's own all-reduce adds in an order that
 * depends on size and position, and scores must not. Each rank is one process with one device;
 * ranks exchange NCCL's id through the group's shared memory (worker/comm.h). */
#ifndef ASSAY_CUDA_COMM_NCCL_H
#define ASSAY_CUDA_COMM_NCCL_H

#include "cuda/gpu.h"

int comm_nccl_new(
    struct comm_nccl **c, struct device *d, const struct device_options *options, struct err *e);
void comm_nccl_free(struct comm_nccl **c);
/* x: rows, contiguous or with gaps; in place, on d's compute stream. */
void comm_nccl_all_reduce(struct device *d, struct tensor x);
/* The largest of each of n numbers, none of which is NaN; in place, on d's compute stream. 4 n is
 * at most device_options.reduce_bytes. */
void comm_nccl_all_reduce_max(struct device *d, float *x, int64_t n);

#endif
