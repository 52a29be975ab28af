/* answered.h - rows that have a result: one that equals them takes it (dedupe.h).
 *
 * A row is read from the database, and so is the result of a row of several sequences; both are
 * kept until another one is asked for, because equal rows often come one after the other. */
#ifndef ASSAY_ANSWERED_H
#define ASSAY_ANSWERED_H

#include "broker/row.h"
#include "broker/sched/dedupe_index.h"
#include "broker/store/store.h"
#include "broker/table.h"

struct answered {
    struct store *store;      /* borrowed; set by the caller, as are seed and rows */
    uint64_t seed;            /* of hashes (content.h) */
    const struct table *rows; /* in flight, as in dedupe_use_rows; borrowed; NULL: none */
    struct sequence **read;   /* [n_read] of the last row read from the database, by hash */
    uint32_t n_read;
    int64_t read_row;
    float *values; /* the result of a row of several sequences, the last one read */
    int64_t values_row;
};

void answered_release(struct answered *a);

/* Looks for an answer among the rows that the index names: 1: r has it, as origin and found_values
 * or found_error; 0: there is none; negative: the store failed. r->hash must be set. The index is
 * distrusted if it names a row that it cannot mean. */
int answered_find(
    struct answered *a, struct dedupe_index *index, struct sequence *r, struct err *e);

/* Allocates r->found_values for a result of this origin; drops any error that was found. */
void answered_make_room(struct sequence *r, enum row_origin origin);

#endif
