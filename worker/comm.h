/* comm.h - the sum over a group's ranks, and their meeting place while they start. One small
 * interface: alone (size 1) or over shared memory
 * (CPU ranks).
 *
 * The shared-memory communicator lives in one segment that the broker made (stage_segment_new) and
 * every rank maps. All-reduce goes in pieces of STAGE_COMM_FLOATS floats: each rank writes its part
 * to its own area, all meet, each rank adds a share of the piece in rank order 0, 1, 2 .. and
 * publishes it, all meet, each copies the result. So the bits are the same on every rank and in
 * every run. Meeting is a futex on a counter: no busy waiting beyond a short spin, which is left
 * out when there are more ranks than cores. A meeting that a rank does not reach within the
 * deadline ends the process: the group is restarted as a whole, a communicator is never repaired in
 * place. A rank that waits makes no progress that the broker would see (stage_bump), so a peer that
 * was stopped looks like the hang that it is. */
#ifndef ASSAY_COMM_H
#define ASSAY_COMM_H

#include <stddef.h>
#include <stdint.h>

#include "schema/err.h"

struct comm;

/* Exit code of a rank whose peers did not come; its last log line names them
 * (event=rank_missing missing=1,3). */
#define COMM_EXIT_DEADLINE 73

/* Map the segment `fd` (stage_comm_bytes of it) as rank `rank` of `n_ranks`. n_ranks 1: fd is
 * ignored and every call is a no-op. */
int comm_new(
    struct comm **c, int fd, uint32_t rank, uint32_t n_ranks, uint32_t deadline_ms, struct err *e);
void comm_free(struct comm **c);
void comm_set_deadline(struct comm *c, uint32_t deadline_ms); /* of meetings from here on */
uint32_t comm_rank(const struct comm *c);
uint32_t comm_size(const struct comm *c);
void comm_all_reduce(struct comm *c, float *x, uint64_t n); /* in place */
/* Rank 0's n bytes to every rank, in place. */
void comm_share(struct comm *c, void *bytes, size_t n);
/* n bytes of every rank, in rank order, to every rank: all is [n_ranks * n]. n is at most 4
 * STAGE_COMM_FLOATS. */
void comm_gather(struct comm *c, const void *mine, void *all, size_t n);

#endif
