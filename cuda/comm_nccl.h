/* comm_nccl.h - the sum over a group's ranks on GPUs, by NCCL.
 *
 * NCCL moves bytes, own code adds: each rank gets everyone's part of its share of x, adds the parts
 * in rank order (kernel_sum_ranks) and sends the sum to all. NCCL's own all-reduce adds in an order
 * that depends on size and position, and a score must not. One process a rank, one device a
 * process; the ranks meet over the group's shared memory (worker/comm.h) to hand over NCCL's id. */
#ifndef ASSAY_CUDA_COMM_NCCL_H
#define ASSAY_CUDA_COMM_NCCL_H

#include "cuda/gpu.h"

int comm_nccl_new(
    struct comm_nccl **c, struct device *d, const struct device_options *options, struct err *e);
void comm_nccl_free(struct comm_nccl **c);
/* x: rows that follow each other or with gaps; in place, on d's compute stream. */
void comm_nccl_all_reduce(struct device *d, struct tensor x);

#endif
