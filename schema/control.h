/* control.h - what the broker and its ranks say to each other, as msgpack maps over ZeroMQ (ipc in
 * the private directory).
 *
 *     rank -> broker  ready   weights are loaded, a canary row was scored: pid, device, threads,
 *                            mode, checkpoint
 *     broker -> rank  run     the slot of this token is published
 *     rank -> broker  done    its results are in the output segment: token, digest, ms, busy_us, up_us
 *     rank -> broker  failed  this batch could not be read or run, or the rank could not start, and it
 *                            ends: token (all 0), message, code
 *     broker -> rank  stop    finish what was handed over, exit 0
 *
 * Every message is a map with all fields of struct control, those that its type does not use 0 or
 * empty. All ranks of a group get every run. Rank 0 alone writes results; each rank sends a digest
 * of its own scores so that the broker sees that the ranks agree. The broker treats what ranks send
 * as untrusted. */
#ifndef ASSAY_CONTROL_H
#define ASSAY_CONTROL_H

#include <stddef.h>
#include <stdint.h>

#include "schema/err.h"

struct msg_writer;

/* Names one hand-over of one slot. A message or result with any other token than the one handed
 * over is stale. */
struct stage_token {
    uint64_t epoch;       /* broker start */
    uint64_t incarnation; /* group start */
    uint64_t sequence;    /* hand-overs of this group, from 1 */
    uint32_t slot;
    uint32_t generation; /* uses of this slot */
};

enum control_type { CONTROL_READY, CONTROL_RUN, CONTROL_DONE, CONTROL_FAILED, CONTROL_STOP };

struct control {
    enum control_type type;
    int32_t rank;
    uint64_t incarnation;
    struct stage_token token;
    uint64_t digest; /* of the batch's scores, over their bits */
    uint32_t ms;     /* compute time of the batch */
    uint64_t busy_us,
        up_us; /* computing, of the time since this rank was ready, as of this batch's end */
    int32_t pid;
    uint32_t threads;
    uint32_t code; /* exit code that the rank ends with, 0: it does not end by itself */
    char device[64];
    char mode[224];      /* what makes a score's bits, as the rank computes */
    char checkpoint[65]; /* digest of what it has loaded, "" where it was told none */
    char message[448];
};

static inline int stage_token_equal(const struct stage_token *a, const struct stage_token *b)
{
    return a->epoch == b->epoch && a->incarnation == b->incarnation && a->sequence == b->sequence &&
           a->slot == b->slot && a->generation == b->generation;
}

/* Replaces what w holds. Texts are UTF-8. */
void control_encode(const struct control *c, struct msg_writer *w);

/* 0, or a negative code. Whether rank, slot and counts make sense is the receiver's to judge. */
int control_decode(struct control *c, const uint8_t *bytes, size_t len, struct err *e);

#endif
