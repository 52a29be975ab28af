/* rows.h - the rows of one HTTP request, as msgpack maps that the broker takes.
 *
 * A row knows where its content begins, so that rows which begin alike can be put side by side
 * (coalesce.h): the broker computes what neighbours have in common once. */
#ifndef ASSAY_ASK_ROWS_H
#define ASSAY_ASK_ROWS_H

#include <jansson.h>

#include "broker/ask/budget.h"
#include "schema/msg.h"

struct row_place {
    size_t at, len; /* in the bytes */
    size_t content; /* offset in the row, at which its content begins */
};

struct rows {
    struct msg_writer bytes;
    struct row_place *all;
    uint32_t n, room;
    /* What it may become; rows_init sets no bounds. */
    uint32_t max_rows;
    size_t max_bytes;
    struct budget *budget; /* borrowed; NULL: none */
    size_t n_taken;        /* of the budget */
};

#define ROWS_COPIES 2 /* of each row's bytes: one here, one in the message to the broker */

void rows_init(struct rows *rows);
void rows_release(struct rows *rows);
/* Frees the bytes, which were sent, and not the number of rows. */
void rows_drop_bytes(struct rows *rows);

/* What every row of a request says of how it is scored: fields that are written once, in front of
 * each row's own. */
struct row_options {
    struct msg_writer fields;
    uint32_t n;
    int text_is_bare; /* add_special_tokens: false, in rows of a text */
};

void row_options_init(struct row_options *o);
void row_options_release(struct row_options *o);
/* Writes a field's name; the caller writes its value to the returned writer. */
struct msg_writer *row_options_add(struct row_options *o, const char *name);

/* Each appends a row. Returns 0; ASSAY_ETOOLARGE as soon as there are more rows or bytes than there
 * may be, for a small body can ask for the same text in many rows; ASSAY_EQUEUEFULL where the budget
 * has no room. Ids out of int32's range become one that no vocabulary has, so the row fails as
 * bad_token; what is no integer is ASSAY_EBADREQ and names `where`. */
int rows_add_text(
    struct rows *rows, const struct row_options *o, const char *text, size_t len, struct err *e);
int rows_add_ids(struct rows *rows, const struct row_options *o, const json_t *ids,
    const char *where, struct err *e);
int rows_add_messages(
    struct rows *rows, const struct row_options *o, const json_t *messages, struct err *e);
/* Two fields, which are JSON values: a prompt and its response, a query and a document. */
int rows_add_pair(struct rows *rows, const struct row_options *o, const char *first_name,
    const json_t *first, const char *second_name, const json_t *second, struct err *e);

/* Reads each row as the broker will. Returns 0, or ASSAY_EBADREQ, so that a row which the broker
 * would refuse is refused before it meets those of other clients. */
int rows_check(const struct rows *rows, struct err *e);

#endif
