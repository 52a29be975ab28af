/* comm.h - the sum and the maximum over a group's ranks, and the barrier at which they wait for
 * each other. A group of one needs no communicator's work; CPU ranks use shared memory.
 *
 * All ranks map one segment, which the broker makes (stage_segment_new). All-reduce handles
 * STAGE_COMM_FLOATS floats at a time: each rank writes its part to its own area; after a barrier
 * each rank adds up one share of the piece in rank order 0, 1, 2 .. (or finds its largest numbers)
 * and publishes it; after a second barrier each rank copies the result. So the bits are the same on
 * every rank and in every run.
 *
 * The barrier is a futex on a counter, with a short spin before it unless there are more ranks than
 * cores. If a rank misses the deadline, the waiting process exits: the broker restarts the whole
 * group, and a communicator is never repaired in place. A waiting rank reports no progress
 * (stage_bump), so a stopped peer looks like the hang that it is. */
#ifndef ASSAY_COMM_H
#define ASSAY_COMM_H

#include <stddef.h>
#include <stdint.h>

#include "schema/err.h"

struct comm;

/* Exit code of a rank whose peers did not come; its last log line names them
 * (event=rank_missing missing=1,3). */
#define COMM_EXIT_DEADLINE 73

/* Map the segment `fd` (stage_comm_bytes of it) as rank `rank` of `n_ranks`. With n_ranks 1, fd is
 * ignored and every call does nothing. */
int comm_new(
    struct comm **c, int fd, uint32_t rank, uint32_t n_ranks, uint32_t deadline_ms, struct err *e);
void comm_free(struct comm **c);
void comm_set_deadline(struct comm *c, uint32_t deadline_ms); /* for later barriers */
uint32_t comm_rank(const struct comm *c);
uint32_t comm_size(const struct comm *c);
void comm_all_reduce(struct comm *c, float *x, uint64_t n); /* in place */
/* The largest of each, in place; no x is NaN. */
void comm_all_reduce_max(struct comm *c, float *x, uint64_t n);
/* Copy rank 0's n bytes to every rank, in place. */
void comm_share(struct comm *c, void *bytes, size_t n);
/* Give every rank n bytes from each rank, in rank order: all is [n_ranks * n]. n is at most 4
 * STAGE_COMM_FLOATS. */
void comm_gather(struct comm *c, const void *mine, void *all, size_t n);

#endif
