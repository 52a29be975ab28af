/* stage.h - stages token batches between the broker and one worker group in shared memory.
 *
 * There are two segments. The input segment holds token batches, written by the broker and mapped
 * read-only by the ranks. The output segment holds scores, written by rank 0, and a progress
 * counter for each rank. The broker makes both as nameless memory (memfd_create), allocates them in
 * full, and seals their size; the input is also sealed against all writes but the broker's. The
 * ranks inherit the descriptors. So there is no name to guess, and nothing is left after kill -9.
 *
 * A segment is a fixed array of slots. Only the broker decides who owns a slot, in its own memory:
 *     FREE -> FILLING -> PUBLISHED(token) -> FREE, generation + 1
 * A hand-over carries a token (control.h). A reader of the other side's bytes copies the descriptor
 * once, compares the token, then checks every count and offset of the copy before use. There are no
 * locks: a process that dies can strand a slot (the broker revokes it) but never corrupt one.
 *
 * stage.c describes the format byte by byte.
 * LIMITS: one broker, one group; stage_publish refuses a batch beyond the slot's capacities and
 * never splits it. */
#ifndef ASSAY_STAGE_H
#define ASSAY_STAGE_H

#include <stdint.h>

#include "schema/control.h"
#include "schema/err.h"
#include "schema/pooling.h"

#define STAGE_MAX_RANKS 64
#define STAGE_MAX_SLOTS 16

/* The capacities of one slot. Values: floats of results. Positions: explicit pooling positions of
 * all rows. */
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
 * Rows with a common beginning may share it: the first of them, the prefix owner, is there whole
 * (n_shared 0), and each row after it leaves out its first n_shared tokens, which equal the owner's
 * first n_shared. */
struct stage_row {
    uint32_t n_tokens;    /* of the whole row */
    struct pooling pool;  /* never POOL_DEFAULT, never ACTIVATION_DEFAULT */
    uint32_t n_positions; /* explicit ones: for POOL_POSITIONS at least 1; for POOL_LAST 0, or 1
                             where "last" is not the row's end (hf_pad_rule); else 0 */
    uint32_t n_values;    /* floats expected in the result */
    uint32_t n_shared;    /* below n_tokens, at most the owner's n_tokens, equal for all rows of one
                             owner: the nearest row before them with 0 here */
    uint32_t adapter;     /* which one it goes through, from 1 on; 0: none. Equal for all rows that
                             share */
};

/* A batch from the broker: borrowed arrays, with ids[i] (all of row i's) and positions[i] per
 * row. */
struct stage_fill {
    uint32_t n_rows;
    const struct stage_row *rows;
    const int32_t *const *ids;
    const int32_t *const *positions; /* entries may be NULL where n_positions is 0 */
};

/* A batch for a rank: checked private copies, valid until the next stage_read on the same view. */
struct stage_batch {
    struct stage_token token;
    uint32_t n_rows, n_tokens, n_positions, n_values; /* shared tokens count once */
    const struct stage_row *rows;                     /* [n_rows] */
    const int32_t *ids;                               /* [n_tokens], packed */
    const int32_t *shared_ids;  /* the ids in the segment itself, where the broker could change
                                     them: only for a device that checks each id as it reads it */
    const int32_t *positions;   /* [n_positions], packed; each < its row's n_tokens */
    const uint32_t *cu_seqlens; /* [n_rows + 1] where each row's own tokens begin */
};

/* ---- broker side ---- */
struct stage;

int stage_new(struct stage **s, const struct stage_config *config, struct err *e);
void stage_free(struct stage **s); /* unmaps and closes; ranks keep their own mappings */
/* Descriptors for the ranks, owned by the stage, close-on-exec: the spawner clears that flag in the
 * child. */
int stage_input_fd(const struct stage *s);  /* not writable */
int stage_output_fd(const struct stage *s); /* read-write */

/* Copies a batch into a free slot and hands it over. Returns 1 and fills *token (epoch and
 * incarnation as given), 0 when no slot is free, or ASSAY_ETOOLARGE with the capacities it
 * exceeds. */
int stage_publish(struct stage *s, uint64_t epoch, uint64_t incarnation,
    const struct stage_fill *fill, struct stage_token *token, struct err *e);

/* After `done`: checks the slot's output descriptor against the token and the counts handed over,
 * and copies the values to *values (n_values floats, rows packed), which the caller frees.
 * ASSAY_EFORMAT when anything differs. */
int stage_collect(struct stage *s, const struct stage_token *token, float **values,
    uint32_t *n_values, struct err *e);

void stage_release(struct stage *s, const struct stage_token *token); /* frees the slot */
void stage_revoke_all(struct stage *s); /* after the group died: frees all slots, generations + 1 */
uint32_t stage_free_slots(const struct stage *s);
uint64_t stage_progress(const struct stage *s, uint32_t rank);

/* ---- rank side ---- */
struct stage_view;

int stage_attach(struct stage_view **v, int input_fd, int output_fd, uint32_t rank, struct err *e);
void stage_detach(struct stage_view **v);
/* Copies and checks the batch that token names. ASSAY_EFORMAT when the slot holds another token or
 * any count is wrong. */
int stage_read(struct stage_view *v, const struct stage_token *token, struct stage_batch *batch,
    struct err *e);
/* On rank 0, writes n_values floats and the descriptor (its sequence last, with release order). */
int stage_write(struct stage_view *v, const struct stage_token *token, const float *values,
    uint32_t n_values, struct err *e);
void stage_bump(struct stage_view *v); /* progress + 1, relaxed; any thread of the rank may call */
const struct stage_config *stage_view_config(const struct stage_view *v);
/* Returns the mapped input segment, for a device that reads from it directly. */
const void *stage_view_input(const struct stage_view *v, uint64_t *bytes);

/* The size in bytes of the segment of the ranks' communicator (worker/comm_shm.c), which the broker
 * makes anew at each group start: one page of counters, then for each of n_ranks two areas of
 * STAGE_COMM_FLOATS floats. */
#define STAGE_COMM_FLOATS 65536u
static inline uint64_t stage_comm_bytes(uint32_t n_ranks)
{
    return 4096u + (uint64_t)n_ranks * 2 * STAGE_COMM_FLOATS * sizeof(float);
}

/* The same of the segment through which pipeline stages hand over what they computed
 * (worker/pipeline.c): between each stage and the next one PIPELINE_BUFFERS buffers, each a page of
 * descriptors and two arrays of floats. */
#define PIPELINE_BUFFERS 3u
static inline uint64_t stage_pipeline_bytes(
    uint32_t n_stages, uint32_t max_tokens, uint32_t hidden_size)
{
    uint64_t arrays = 2 * (uint64_t)max_tokens * hidden_size * sizeof(float);
    return (n_stages - 1) * PIPELINE_BUFFERS * (4096u + (arrays + 4095u) / 4096u * 4096u);
}

/* Makes a shared segment of `bytes` (zeroed, allocated, sealed in its size) for the ranks'
 * communicator or pipeline. Returns its descriptor or a negative code. */
int stage_segment_new(uint64_t bytes, struct err *e);

#endif
