/* pipeline.h - hands a batch's intermediate tensors from a pipeline stage to the next one, through
 * shared memory; CPU ranks.
 *
 * All ranks map one segment, which the broker makes anew at each group start (stage_segment_new).
 * It has PIPELINE_BUFFERS buffers between each stage and the next; a batch takes the one of its
 * hand-over's number. The broker alone decides who has a buffer, in its own memory: a stage is told
 * to run a batch when the stage before is done with it, and when the stage after is done with the
 * batch that had the buffer. So nobody waits here, but for the canary row, which each rank runs
 * before the broker knows of it.
 *
 * Ranks of a stage have the same tensors, so each writes its share of the rows, and readers take
 * all of them. A reader trusts nothing: the writers' descriptors must have the hand-over's token
 * and the number of tokens that the reader computes itself. */
#ifndef ASSAY_PIPELINE_H
#define ASSAY_PIPELINE_H

#include "schema/control.h"
#include "worker/qwen2.h"

struct pipeline;

/* ASSAY_EUNSUPPORTED for several stages on a device that this cannot read from. */
int pipeline_check_ops(uint32_t n_pp_ranks, const struct ops *ops, struct err *e);

/* Which rank of a stage this is, of which stage, and what a buffer holds. */
struct pipeline_options {
    uint32_t rank, n_ranks, pp_rank, n_pp_ranks;
    uint32_t max_tokens, hidden_size;
    uint32_t deadline_ms; /* how long a stage's canary row may take to come */
};

/* Maps the segment `fd`, of stage_pipeline_bytes. With one stage, fd is ignored and *p is NULL. */
int pipeline_new(
    struct pipeline **p, int fd, const struct pipeline_options *options, struct err *e);
void pipeline_free(struct pipeline **p);

/* Writes this rank's share of what the next stage takes. */
int pipeline_send(struct pipeline *p, const struct stage_token *token,
    const struct intermediate_tensors *t, struct err *e);

/* Fills `t` with what the stage before gave. If it does not come in time, this process ends
 * (COMM_EXIT_DEADLINE). ASSAY_EFORMAT if it is not of this hand-over, or has other sizes. */
int pipeline_receive(struct pipeline *p, const struct stage_token *token,
    const struct intermediate_tensors *t, struct err *e);

#endif
