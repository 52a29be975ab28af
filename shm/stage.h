/* stage.h - token staging between the broker and one worker group, in shared memory.
 *
 * Two segments. The input segment holds token batches, written by the broker and mapped read-only
 * by the ranks. The output segment holds scores, written by rank 0, and one progress counter a
 * rank. Both are made by the broker in memory without a name (memfd_create), allocated in full, sealed
 * in their size, the input also against all writing but the broker's, and passed to the ranks as
 * inherited descriptors: there is no name to guess, nothing is left after kill -9.
 *
 * A segment is a fixed array of slots. The broker alone decides who owns a slot, in its own memory:
 *     FREE -> FILLING -> PUBLISHED(token) -> FREE, generation + 1
 * A hand-over carries a token (control.h); whoever reads the other side's bytes copies the
 * descriptor once, compares the token, then checks every count and offset of the copy before use.
 * No locks: a process that dies can strand a slot (the broker revokes it) but never corrupt one.
 *
 * stage.c's essay gives the format byte by byte.
 * LIMITS: one broker, one group; a batch beyond the slot's capacities is refused by stage_fill,
 * never split here. */
#ifndef ASSAY_STAGE_H
#define ASSAY_STAGE_H

#include <stdint.h>

#include "schema/control.h"
#include "schema/err.h"
#include "schema/pooling.h"

#define STAGE_MAX_RANKS 64
#define STAGE_MAX_SLOTS 16

/* Capacities of one slot. Values: floats of results. Positions: explicit pooling positions of all
 * rows. */
struct stage_config {
    uint32_t n_slots;
    uint32_t max_rows;
    uint32_t max_tokens;
    uint32_t max_positions;
    uint32_t max_values;
};

/* One row of a batch, in row order; its tokens, positions and values follow those of the row
 * before.
 *
 * Rows that begin alike may share: the first of them, the owner, is there whole (n_shared 0), and
 * each row after it leaves out its first n_shared tokens, which are the owner's first n_shared. */
struct stage_row {
    uint32_t n_tokens;   /* the whole row's */
    uint32_t pool_type;  /* enum pool_type, never POOL_DEFAULT */
    uint32_t activation; /* enum activation, never ACTIVATION_DEFAULT */
    int32_t step_token;
    uint32_t n_positions; /* explicit ones: of POOL_POSITIONS at least 1; of POOL_LAST 0, or 1 where
                             "last" is not the row's end (hf_pad_rule); else 0 */
    uint32_t n_values;    /* floats expected in the result */
    uint32_t n_shared;    /* below n_tokens, at most the owner's n_tokens, the same for all rows of
                             one owner: the nearest row before that has 0 here */
};

/* A batch as the broker hands it in: borrowed arrays, ids[i] (the whole row's) and positions[i] per
 * row. */
struct stage_fill {
    uint32_t n_rows;
    const struct stage_row *rows;
    const int32_t *const *ids;
    const int32_t *const *positions; /* entries may be NULL where n_positions is 0 */
};

/* A batch as a rank sees it: checked private copies, valid until the next stage_read on the same
 * view. */
struct stage_batch {
    struct stage_token token;
    uint32_t n_rows, n_tokens, n_positions, n_values; /* tokens that are there: shared ones once */
    const struct stage_row *rows;                     /* [n_rows] */
    const int32_t *ids;                               /* [n_tokens], packed */
    const int32_t *shared_ids;  /* the same in the segment itself, where the broker could change
                                     them: only for a device that checks each id as it reads it */
    const int32_t *positions;   /* [n_positions], packed; each < its row's n_tokens */
    const uint32_t *cu_seqlens; /* [n_rows + 1] where each row's own tokens begin */
};

/* ---- broker side ---- */
struct stage;

int stage_new(struct stage **s, const struct stage_config *config, struct err *e);
void stage_free(struct stage **s); /* unmaps and closes; ranks keep their own mappings */
/* Descriptors for the ranks, owned by the stage, close-on-exec: the spawner clears the flag in the
 * child. */
int stage_input_fd(const struct stage *s);  /* nobody can write through it */
int stage_output_fd(const struct stage *s); /* read-write */

/* Copy a batch into a free slot and hand it over. Returns 1 and fills *token (epoch and incarnation
 * as given), 0 when no slot is free, ASSAY_ETOOLARGE naming the capacity that the batch is beyond.
 */
int stage_publish(struct stage *s, uint64_t epoch, uint64_t incarnation,
    const struct stage_fill *fill, struct stage_token *token, struct err *e);

/* After `done`: check the slot's output descriptor against token and the counts handed over, and
 * point *values (n_values floats, rows packed) at a private copy valid until the next collect.
 * ASSAY_EFORMAT when anything differs. */
int stage_collect(struct stage *s, const struct stage_token *token, const float **values,
    uint32_t *n_values, struct err *e);

void stage_release(struct stage *s, const struct stage_token *token); /* the slot is free again */
void stage_revoke_all(struct stage *s); /* the group is dead: all slots free, generations + 1 */
uint32_t stage_free_slots(const struct stage *s);
uint64_t stage_progress(const struct stage *s, uint32_t rank);

/* ---- rank side ---- */
struct stage_view;

int stage_attach(struct stage_view **v, int input_fd, int output_fd, uint32_t rank, struct err *e);
void stage_detach(struct stage_view **v);
/* Copy and check the batch that token names. ASSAY_EFORMAT when the slot holds another token or any
 * count is off. */
int stage_read(struct stage_view *v, const struct stage_token *token, struct stage_batch *batch,
    struct err *e);
/* Rank 0: write n_values floats and the descriptor (token last, with release order). */
int stage_write(struct stage_view *v, const struct stage_token *token, const float *values,
    uint32_t n_values, struct err *e);
void stage_bump(struct stage_view *v); /* progress + 1, relaxed; any thread of the rank */
const struct stage_config *stage_view_config(const struct stage_view *v);
/* The mapped input segment, for a device that reads from it by itself. */
const void *stage_view_input(const struct stage_view *v, uint64_t *bytes);

/* The ranks' communicator (worker/comm_shm.c) has a segment of its own, made by the broker anew at each
 * group start. Its size for n_ranks: one page of counters, then for each rank two areas of
 * STAGE_COMM_FLOATS floats. */
#define STAGE_COMM_FLOATS 65536u
static inline uint64_t stage_comm_bytes(uint32_t n_ranks)
{
    return 4096u + (uint64_t)n_ranks * 2 * STAGE_COMM_FLOATS * sizeof(float);
}

/* A plain shared segment of `bytes` (zeroed, allocated, sealed in its size), for the ranks' communicator.
 * Returns its descriptor. */
int stage_segment_new(uint64_t bytes, struct err *e);

#endif
