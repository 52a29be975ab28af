/* batch.h - rows that run together, and which of them share their first tokens. */
#ifndef ASSAY_BATCH_H
#define ASSAY_BATCH_H

#include <stdint.h>

#include "broker/row.h"

/* Rows that run together. Owned by planner, group or broker, one at a time. */
struct batch {
    int64_t number; /* in the database, 0 before it is recorded */
    uint32_t n_rows, n_positions, n_values;
    uint32_t n_tokens;      /* that are computed: shared ones once */
    uint32_t n_pooled;      /* tokens that its rows pool, each row's own count */
    uint32_t min_shared;    /* rows that have fewer first tokens in common share none; 0: none do */
    uint32_t prefix_owner;  /* index of the last row that is there whole */
    struct sequence **rows; /* [n_rows], owned */
    int known;              /* of rows whose results were found: no group computes it */
    int suspect; /* was running when a group died: runs alone, to find the row to blame */
    int64_t started_wall_ms, ms;
    int lost_signal, lost_exit; /* how the group ended, when it was lost */
    float *values; /* [n_values] results, rows packed; owned, NULL until there are any */
    struct batch *next;
};

/* How a row would join a batch (batch.c). */
struct joining {
    uint32_t n_shared; /* with the owner; 0: it is there whole */
    int detaches;      /* the row before it no longer shares with its owner, but leads this one */
    uint32_t n_tokens; /* of the batch then */
};
struct joining batch_try(const struct batch *b, const struct sequence *r);

struct batch *batch_new(uint32_t max_rows, uint32_t min_shared);
/* Takes the row, adds up the counts; the row shares what batch_try says. */
void batch_add(struct batch *b, struct sequence **r);
/* The same, but the row goes on sharing what it shared in the batch that it comes from, as do those
 * that come from there after it. The first row of a batch shares nothing. */
void batch_move(struct batch *b, struct sequence **r);
void batch_free(struct batch **b); /* rows too */

#endif
