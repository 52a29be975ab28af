/* bundle.h - the input of rows that came together, as the database keeps it (table row_input).
 *
 * A bundle is up to BUNDLE_ROWS rows with successive numbers: one record for all of them costs a queue a
 * fraction of one for each. Its record has the first row's number and four columns:
 *     rows       absent in a bundle of one row; else for each row the end of its ids among the ids of all
 *     ids        of all rows, one after another, in one of ids.h's forms
 *     positions  absent where no row has any. Of one row: its positions. Of more: for each row the end of
 *                its positions, then the positions of all
 *     ends       likewise: where each of a row's sequences ends among its ids
 * Ends and positions are little-endian 32-bit numbers. Before version 5 of the schema each row was a bundle. */
#ifndef ASSAY_BUNDLE_H
#define ASSAY_BUNDLE_H

#include <stdint.h>

#include "schema/msg.h"

#define BUNDLE_ROWS 64
#define BUNDLE_TOKENS 65536 /* a row that has more is a bundle of its own */

struct bundle_columns {
    struct slice rows, ids, positions, ends; /* absent: at is NULL */
};

/* One row's input. Numbers in the database need not be aligned. */
struct bundle_input {
    uint32_t from, n_tokens; /* of the bundle's ids */
    uint32_t n_positions, n_ends;
    const uint8_t *positions, *ends;
};

/* ---- reading ---- */

struct bundle {
    struct bundle_columns columns; /* borrowed */
    uint32_t n_rows, n_tokens;
};

/* 0, or -1 when the columns do not fit each other. n_tokens: of the first row, which a bundle of one row
 * does not say itself. */
int bundle_open(struct bundle *s, const struct bundle_columns *columns, uint32_t n_tokens)
    __attribute__((warn_unused_result));
/* Row k of it, k < n_rows. */
struct bundle_input bundle_input(const struct bundle *s, uint32_t k);
void bundle_ids(const struct bundle *s, const struct bundle_input *input, int32_t *ids);

/* ---- writing ---- */

/* Numbers of all rows, one after another, and where each row's end. */
struct bundle_list {
    uint32_t *numbers; /* BUNDLE_ROWS of room before them, for the ends */
    uint32_t n, room;
    uint32_t ends[BUNDLE_ROWS];
};

/* All 0: an empty one. */
struct bundle_writer {
    uint32_t n_rows;
    struct bundle_list ids, positions, ends;
    uint8_t *packed;
    uint32_t packed_room; /* ids that it has room for */
};

/* May a row of n_tokens be added? Always to an empty one. */
int bundle_has_room(const struct bundle_writer *w, uint32_t n_tokens);
/* Copies them; absent ones have n 0. */
void bundle_add(struct bundle_writer *w, const int32_t *ids, uint32_t n_tokens,
    const int32_t *positions, uint32_t n_positions, const uint32_t *ends, uint32_t n_ends);
/* Valid until the writer is changed. */
struct bundle_columns bundle_encode(struct bundle_writer *w);
void bundle_clear(struct bundle_writer *w); /* keeps the memory */
void bundle_writer_release(struct bundle_writer *w);

#endif
