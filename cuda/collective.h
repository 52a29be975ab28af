/* collective.h - the sum over a group's ranks on GPUs, by NCCL.
 *
 * NCCL moves bytes, own code adds: each rank gets everyone's part of its share of x, adds the parts
 * in rank order (kernel_sum_ranks) and sends the sum to all. NCCL's own all-reduce adds in an order
 * that depends on size and position, and a score must not. One process a rank, one device a
 * process; the ranks meet over the group's shared memory (worker/comm.h) to hand over NCCL's id. */
#ifndef ASSAY_CUDA_COLLECTIVE_H
#define ASSAY_CUDA_COLLECTIVE_H

#include "cuda/gpu.h"

int collective_new(
    struct collective **c, struct device *d, const struct device_options *options, struct err *e);
void collective_free(struct collective **c);
/* x: rows that follow each other or with gaps; in place, on d's compute stream. */
void collective_all_reduce(struct device *d, struct tensor x);

#endif
