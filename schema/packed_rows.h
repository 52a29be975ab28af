/* packed_rows.h - reads and writes packs: the database's records of row input (table row_input).
 *
 * A pack holds up to PACKED_ROWS rows with successive numbers that were sent together. One record
 * for all of them costs a queue a fraction of one record each. A record has the first row's number
 * and four columns:
 *     rows       for each row, the end of its ids among all ids; absent in a pack of one row
 *     ids        the ids of all rows, end to end, in one of the forms of ids.h
 *     positions  one row: its positions. More: for each row the end of its positions, then the
 *                positions of all rows. Absent when no row has any
 *     ends       in the same form: the end of each of a row's sequences among the row's ids
 * Ends and positions are little-endian 32-bit numbers. Before version 5 of the schema each row was
 * a pack of its own. */
#ifndef ASSAY_PACKED_ROWS_H
#define ASSAY_PACKED_ROWS_H

#include <stdint.h>

#include "schema/msg.h"

#define PACKED_ROWS 64
#define PACKED_TOKENS 65536 /* a longer row is a pack of its own */

struct packed_columns {
    struct slice rows, ids, positions, ends; /* at == NULL: absent */
};

/* One row's input. Positions and ends may be unaligned. */
struct packed_input {
    uint32_t from, n_tokens; /* its part of the pack's ids */
    uint32_t n_positions, n_ends;
    const uint8_t *positions, *ends;
};

/* The same with all ids: arrays of 32-bit integers, which may be unaligned; 0 of one that is
 * absent. */
struct row_input {
    const void *ids, *positions, *ends;
    uint32_t n_tokens, n_positions, n_ends;
};

/* ---- reading ---- */

struct packed_rows {
    struct packed_columns columns; /* borrowed */
    uint32_t n_rows, n_tokens;
};

/* Opens a pack on borrowed columns. n_tokens is the first row's, which a pack of one row does not
 * hold itself. Returns 0, or -1 when the columns do not fit each other. */
int packed_open(struct packed_rows *s, const struct packed_columns *columns, uint32_t n_tokens)
    __attribute__((warn_unused_result));
/* Returns the input of row k, k < n_rows. Its pointers are into the columns. */
struct packed_input packed_input(const struct packed_rows *s, uint32_t k);
void packed_ids(const struct packed_rows *s, const struct packed_input *input, int32_t *ids);

/* ---- writing ---- */

/* The numbers of all rows, end to end, and where each row's end. */
struct packed_list {
    uint32_t *numbers; /* room for PACKED_ROWS ends comes first */
    uint32_t n, room;
    uint32_t ends[PACKED_ROWS];
};

/* An empty writer is all 0. */
struct packed_writer {
    uint32_t n_rows;
    struct packed_list ids, positions, ends;
    uint8_t *packed;
    uint32_t packed_room; /* ids that `packed` has room for */
};

/* Does a row of n_tokens fit? An empty writer takes any row. */
int packed_has_room(const struct packed_writer *w, uint32_t n_tokens);
void packed_add(struct packed_writer *w, const struct row_input *in); /* adds a copy */
/* Returns the pack's columns, valid until the writer is changed. */
struct packed_columns packed_encode(struct packed_writer *w);
void packed_clear(struct packed_writer *w); /* keeps the memory */
void packed_writer_release(struct packed_writer *w);

#endif
