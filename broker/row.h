/* row.h - rows and their sequences in the broker's memory. These are copies: the database is the
 * truth. */
#ifndef ASSAY_ROW_H
#define ASSAY_ROW_H

#include <stdint.h>

#include "schema/err.h"
#include "schema/pooling.h"

/* A row's number in the database: job in the upper 32 bits, index in the job in the lower 32. */
static inline int64_t row_id_of(int64_t job, uint32_t i)
{
    return job << 32 | i;
}
/* The highest row number that the job may have. */
static inline int64_t row_last(int64_t job)
{
    return row_id_of(job, UINT32_MAX);
}
static inline int64_t row_job(int64_t row)
{
    return row >> 32;
}
static inline uint32_t row_index(int64_t row)
{
    return (uint32_t)(row & 0xffffffff);
}

/* Where a result comes from. */
enum row_origin { ROW_COMPUTED, ROW_COPIED, ROW_CACHED };

/* What a sequence got, and its duplicates get with it. */
enum row_answer { ROW_NO_ANSWER, ROW_VALUES, ROW_ERROR };

/* A row of several sequences (responses to a prompt, a pair) while they are in flight. Each
 * sequence runs on its own, in any batch; the row is finished when all are. Shared by its
 * sequences, freed with the last. */
struct row {
    uint32_t n_parts, n_tokens, n_done, n_back, refs;
    int64_t mode;      /* of its result: of several models, an ensemble's (store/models.c) */
    int is_in_flight;  /* in the planner's set: its first sequence was given out */
    float *values;     /* [n_parts] one a sequence */
    int32_t *pooled;   /* [n_parts] pairs (position, token id) */
    uint32_t n_pooled; /* n_parts, or 0 for MEAN */
    uint8_t *done;     /* [n_parts] */
    int origin; /* enum row_origin: COMPUTED if any sequence was, else CACHED if any, else COPIED */
    int error_code; /* of the first sequence that failed; 0: none */
    char error_message[200];
};

struct row *row_new(uint32_t n_parts, uint32_t n_tokens);
void row_unref(struct row *l); /* NULL-safe */

#define ROW_KEY_BYTES 16

/* One sequence, in one allocation: ids and positions follow the struct. Positions lie inside the
 * sequence: admission checks them. */
struct sequence {
    int64_t row_id;
    uint32_t n_tokens, n_positions;
    struct pooling pool; /* resolved: never DEFAULT */
    uint32_t n_values;   /* floats in its result */
    int64_t mode;        /* checkpoint, mode and adapter (store.h) */
    uint32_t lane;       /* of the planner: the place of its model (store.h) */
    int64_t session;     /* whose row it is (sched/homes.h); 0: none's */
    uint32_t home;       /* that it waits for in the planner; 0: none */
    const char *adapter; /* its adapter's digest while it is handed to a group; NULL: none */
    uint32_t n_shared;   /* first tokens that it shares with its prefix owner (stage.h) */
    uint32_t attempts;   /* times that it killed a group while alone */
    int32_t *ids;
    int32_t *positions;
    struct row *of;        /* its row; NULL: this is the row's only sequence */
    uint32_t part;         /* its index in the row */
    struct sequence *next; /* for lists of whoever owns it */

    /* For equal rows (dedupe.h). */
    uint64_t hash, hash_seed;    /* of its content; 0, 0: none yet */
    uint8_t key[ROW_KEY_BYTES];  /* in the score cache, when has_key */
    int has_key, not_cached;     /* not_cached: the score cache was searched and does not have it */
    int fresh;                   /* its job takes nothing from the score cache */
    int is_primary;              /* being computed; duplicates may wait for it */
    struct sequence *next_alike; /* another primary whose hash is the same */
    int answer;                  /* enum row_answer */
    int origin;                  /* enum row_origin */
    float *found_values;         /* [n_values] the result that was found; owned */
    int found_error;             /* or the error that was found, an ASSAY_ code; 0: none */
    char *found_message;         /* with found_error; owned */
    struct sequence *duplicates; /* equal sequences that wait for this one; owned */
};

struct sequence *sequence_new(uint32_t n_tokens, uint32_t n_positions); /* NULL: no memory */
void sequence_free(struct sequence **r);
/* Returns the position and id of each pooled token as int32 pairs, *n of them; none for ALL and
 * MEAN. The caller frees it. */
int32_t *sequence_pooled_at(const struct sequence *r, uint32_t *n);
uint32_t sequence_pooled(const struct sequence *r); /* tokens that it pools; all for ALL and MEAN */

#endif
