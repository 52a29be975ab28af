/* packed_rows.h - the input of rows that came together, as the database keeps it (table row_input).
 *
 * Packed rows are up to PACKED_ROWS rows with successive numbers: one record for all of them costs a queue a
 * fraction of one for each. Its record has the first row's number and four columns:
 *     rows       absent in a pack of one row; else for each row the end of its ids among the ids of all
 *     ids        of all rows, one after another, in one of ids.h's forms
 *     positions  absent where no row has any. Of one row: its positions. Of more: for each row the end of
 *                its positions, then the positions of all
 *     ends       likewise: where each of a row's sequences ends among its ids
 * Ends and positions are little-endian 32-bit numbers. Before version 5 of the schema each row was a pack. */
#ifndef ASSAY_PACKED_ROWS_H
#define ASSAY_PACKED_ROWS_H

#include <stdint.h>

#include "schema/msg.h"

#define PACKED_ROWS 64
#define PACKED_TOKENS 65536 /* a row that has more is a pack of its own */

struct packed_columns {
    struct slice rows, ids, positions, ends; /* absent: at is NULL */
};

/* One row's input. Numbers in the database need not be aligned. */
struct packed_input {
    uint32_t from, n_tokens; /* of the pack's ids */
    uint32_t n_positions, n_ends;
    const uint8_t *positions, *ends;
};

/* ---- reading ---- */

struct packed_rows {
    struct packed_columns columns; /* borrowed */
    uint32_t n_rows, n_tokens;
};

/* 0, or -1 when the columns do not fit each other. n_tokens: of the first row, which a pack of one row
 * does not say itself. */
int packed_open(struct packed_rows *s, const struct packed_columns *columns, uint32_t n_tokens)
    __attribute__((warn_unused_result));
/* Row k of it, k < n_rows. */
struct packed_input packed_input(const struct packed_rows *s, uint32_t k);
void packed_ids(const struct packed_rows *s, const struct packed_input *input, int32_t *ids);

/* ---- writing ---- */

/* Numbers of all rows, one after another, and where each row's end. */
struct packed_list {
    uint32_t *numbers; /* PACKED_ROWS of room before them, for the ends */
    uint32_t n, room;
    uint32_t ends[PACKED_ROWS];
};

/* All 0: an empty one. */
struct packed_writer {
    uint32_t n_rows;
    struct packed_list ids, positions, ends;
    uint8_t *packed;
    uint32_t packed_room; /* ids that it has room for */
};

/* May a row of n_tokens be added? Always to an empty one. */
int packed_has_room(const struct packed_writer *w, uint32_t n_tokens);
/* Copies them; absent ones have n 0. */
void packed_add(struct packed_writer *w, const int32_t *ids, uint32_t n_tokens,
    const int32_t *positions, uint32_t n_positions, const uint32_t *ends, uint32_t n_ends);
/* Valid until the writer is changed. */
struct packed_columns packed_encode(struct packed_writer *w);
void packed_clear(struct packed_writer *w); /* keeps the memory */
void packed_writer_release(struct packed_writer *w);

#endif
