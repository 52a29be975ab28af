/* batch.h - a batch: rows that run together. Rows that begin with the same tokens share them
 * (batch.c). */
#ifndef ASSAY_BATCH_H
#define ASSAY_BATCH_H

#include <stdint.h>

#include "broker/row.h"

/* What came of a batch. */
enum batch_outcome {
    BATCH_DONE,         /* its values are there */
    BATCH_LOST_RUNNING, /* the group died while it ran this batch, its oldest */
    BATCH_LOST_WAITING, /* the group died before it began this one */
    BATCH_REFUSED,      /* no group can take it */
};

/* A batch has one owner at a time: the planner, a group or the broker. */
struct batch {
    int64_t number; /* in the database, 0 before it is recorded */
    uint32_t lane;  /* of its rows: the model that computes it */
    uint32_t n_rows, n_positions, n_values;
    uint32_t n_tokens;     /* tokens to compute: shared ones count once */
    uint32_t n_pooled;     /* tokens that its rows pool; shared ones count in each row */
    uint32_t min_shared;   /* rows with fewer first tokens in common share none; 0: no row shares */
    uint32_t prefix_owner; /* index of the last row that shares nothing */
    struct sequence **rows; /* [n_rows], owned */
    int known;              /* its results were found (dedupe.h): no group computes it */
    int suspect; /* was running when its group died: runs alone, to find the row to blame */
    int64_t started_wall_ms, ms;
    enum batch_outcome outcome;
    int lost_signal, lost_exit; /* how the group ended, if it died with the batch */
    float *values; /* [n_values] results, row after row; owned, NULL before there are any */
    struct batch *next;
};

/* How a row would join a batch, and the batch's tokens to compute after that (batch.c). */
struct joining {
    uint32_t n_shared; /* tokens that it shares with the owner; 0: none */
    int detaches;      /* the row before it leaves its owner and becomes this row's */
    uint32_t n_tokens; /* of the whole batch */
};
struct joining batch_try(const struct batch *b, const struct sequence *r);

struct batch *batch_new(uint32_t max_rows, uint32_t min_shared);
/* Moves *r to the end of the batch and sets it to NULL; it shares what batch_try says. The batch
 * must have room for it. */
void batch_add(struct batch *b, struct sequence **r);
/* Like batch_add, but the row keeps the n_shared that it has in the batch it comes from; move the
 * rows after it in that batch too, in order. The first row of a batch shares nothing. */
void batch_move(struct batch *b, struct sequence **r);
void batch_free(struct batch **b); /* and its rows; sets *b to NULL */

/* Lists of batches; NULL is an empty one. */
void batch_push(struct batch **list, struct batch *b);
void batch_append(struct batch **list, struct batch *b);
struct batch *batch_pop(struct batch **list); /* the first; NULL: there is none */
void batch_free_all(struct batch **list);

#endif
