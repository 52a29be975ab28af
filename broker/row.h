/* row.h - a row and a batch while they are in the broker's memory. The database keeps the truth;
 * these are leases. */
#ifndef ASSAY_ROW_H
#define ASSAY_ROW_H

#include <stdint.h>

#include "schema/pooling.h"

/* Row number in the database: job in the upper 32 bits, index in the job in the lower. */
static inline int64_t row_number(int64_t job, uint32_t i)
{
    return job << 32 | i;
}
static inline int64_t row_job(int64_t row)
{
    return row >> 32;
}
static inline uint32_t row_index(int64_t row)
{
    return (uint32_t)(row & 0xffffffff);
}

/* One leased row, in one allocation: ids and positions follow the struct. Positions lie inside the
 * row: admission saw to it. */
struct row {
    int64_t row;
    uint32_t n_tokens, n_positions;
    int pool_type, activation; /* resolved: never DEFAULT */
    int32_t step_token;
    uint32_t n_values; /* floats that its result has */
    uint32_t attempts; /* groups that it killed alone */
    int32_t *ids;
    int32_t *positions;
    struct row *next; /* for lists of whoever owns it */
};

struct row *row_new(uint32_t n_tokens, uint32_t n_positions); /* NULL: no memory */
void row_free(struct row **r);

/* Rows that run together. Owned by planner, group or broker, one at a time. */
struct batch {
    int64_t number; /* in the database, 0 before it is recorded */
    uint32_t n_rows, n_tokens, n_positions, n_values;
    struct row **rows; /* [n_rows], owned */
    int suspect;       /* was running when a group died: runs alone, to find the row to blame */
    int64_t started_wall_ms, ms;
    int lost_signal, lost_exit; /* how the group ended, when it was lost */
    float *values; /* [n_values] results, rows packed; owned, NULL until there are any */
    struct batch *next;
};

struct batch *batch_new(uint32_t max_rows);
void batch_add(struct batch *b, struct row **r); /* takes the row, adds up the counts */
void batch_free(struct batch **b);               /* rows too */

#endif
