/* control.h - the messages between the broker and its ranks: msgpack maps over ZeroMQ (ipc in the
 * private directory).
 *
 *     rank -> broker  ready   weights are loaded and a canary row was scored: pid, device, threads,
 *                             mode, checkpoint
 *     broker -> rank  run     the slot of this token is published
 *     rank -> broker  done    the results are in the output segment: token, digest, ms, busy_us,
 *                             up_us, tokens, reused, kv_bytes
 *     rank -> broker  failed  this batch could not be read or run, or the rank could not start, and
 *                             the rank ends: token (all 0), message, code
 *     broker -> rank  stop    finish what was handed over, then exit 0
 *
 * Every message is a map with all fields of struct control; those that its type does not use are 0
 * or empty. All ranks of a group get every run; those of a pipeline stage when the stage before is
 * done with it, and there is room for what they give to the next one. Only the first rank of the
 * last stage writes results; each rank of that stage sends a digest of its own scores, so that the
 * broker sees whether the ranks agree. The broker does not trust what ranks send. */
#ifndef ASSAY_CONTROL_H
#define ASSAY_CONTROL_H

#include <stddef.h>
#include <stdint.h>

#include "schema/err.h"

struct msg_writer;

/* Names one hand-over of one slot. A message or result with another token is stale. */
struct stage_token {
    uint64_t epoch;       /* which start of the broker */
    uint64_t incarnation; /* which start of the group */
    uint64_t sequence;    /* hand-overs to this group, from 1 */
    uint32_t slot;
    uint32_t generation; /* which use of this slot */
};

enum control_type { CONTROL_READY, CONTROL_RUN, CONTROL_DONE, CONTROL_FAILED, CONTROL_STOP };

struct control {
    enum control_type type;
    int32_t rank;
    uint64_t incarnation;
    struct stage_token token;
    uint64_t digest; /* of the bits of the batch's scores */
    uint32_t ms;     /* time to compute the batch */
    uint64_t busy_us,
        up_us; /* time computing, and time since this rank was ready, at the batch's end */
    uint64_t tokens, reused; /* of all batches so far, and those of them that were not computed */
    uint64_t kv_bytes;       /* of the KV cache, that hold something */
    int32_t pid;
    uint32_t threads;
    uint32_t code; /* exit code with which the rank ends; 0: it does not end by itself */
    char device[64];
    char mode[272];      /* all that decides a score's bits on this rank */
    char checkpoint[65]; /* digest of what the rank loaded, "" where it got none */
    char message[448];
};

static inline int stage_token_equal(const struct stage_token *a, const struct stage_token *b)
{
    return a->epoch == b->epoch && a->incarnation == b->incarnation && a->sequence == b->sequence &&
           a->slot == b->slot && a->generation == b->generation;
}

/* Writes *c to w in place of what w holds. Texts are UTF-8. */
void control_encode(const struct control *c, struct msg_writer *w);

/* Returns 0 or a negative code. The receiver checks whether rank, slot and counts make sense. */
int control_decode(struct control *c, const uint8_t *bytes, size_t len, struct err *e);

#endif
