/* pipeline.h - hands a batch's intermediate tensors from a pipeline stage to the next one, through
 * shared memory.
 *
 * All ranks map one segment, which the broker makes anew at each group start (stage_segment_new).
 * It has PIPELINE_BUFFERS buffers between each stage and the next; a batch takes the one of its
 * hand-over's number. The broker alone decides who has a buffer, in its own memory: a stage is told
 * to run a batch when the stage before is done with it, and when the stage after is done with the
 * batch that had the buffer. So nobody waits here, but for the canary row, which each rank runs
 * before the broker knows of it.
 *
 * A device copies in and out itself (device_ops), so what a stage gives is there when its batch is
 * done, and said to be there then (pipeline_sent). A GPU does not send to the next stage's: that
 * one would have to wait for it, or take what it has not been told of.
 *
 * Ranks of a stage have the same tensors, so each writes its share of the rows, and readers take
 * all of them. A reader trusts nothing: the writers' descriptors must have the hand-over's token
 * and the number of tokens that the reader computes itself. */
#ifndef ASSAY_PIPELINE_H
#define ASSAY_PIPELINE_H

#include "schema/control.h"
#include "worker/qwen2.h"

struct pipeline;

/* Which rank of a stage this is, of which stage, what a buffer holds, and the device that
 * copies. */
struct pipeline_options {
    uint32_t rank, n_ranks, pp_rank, n_pp_ranks;
    uint32_t max_tokens, hidden_size;
    enum dtype type;      /* of hidden_states; the residual is float32 */
    uint32_t deadline_ms; /* how long a stage's canary row may take to come */
    const struct device_ops *ops;
    struct device *device; /* borrowed; to be closed first */
};

/* Maps the segment `fd`, of stage_pipeline_bytes, and shares with the device what this stage reads
 * and writes. With one stage, fd is ignored and *p is NULL. */
int pipeline_new(
    struct pipeline **p, int fd, const struct pipeline_options *options, struct err *e);
void pipeline_free(struct pipeline **p);

/* Lets the device write this rank's share of what the next stage takes, before the batch's end. */
int pipeline_send(struct pipeline *p, const struct stage_token *token,
    const struct intermediate_tensors *t, struct err *e);

/* The oldest batch that was sent is done on the device: says so to the next stage. */
void pipeline_sent(struct pipeline *p);

/* Lets the device fill `t` with what the stage before gave. If it does not come in time, this
 * process ends (COMM_EXIT_DEADLINE). ASSAY_EFORMAT if it is not of this hand-over, or has other
 * sizes or another type. */
int pipeline_receive(struct pipeline *p, const struct stage_token *token,
    const struct intermediate_tensors *t, struct err *e);

#endif
