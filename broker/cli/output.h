/* output.h - writes the result lines, in input order or as they come, one for each line of the
 * input.
 *
 * target.h says how a file is written. A line stays in memory from when it is read until it is
 * written; output_is_full bounds how many do, and how large their objects and requests are. */
#ifndef ASSAY_OUTPUT_H
#define ASSAY_OUTPUT_H

#include <jansson.h>

#include "broker/cli/lines.h"
#include "broker/cli/target.h"

struct output_entry {
    json_t *id, *object; /* owned; object only with keep_input */
    size_t bytes;        /* of the object's text, or of what the request keeps */
    json_t *result;      /* the output line, once known; owned */
    int64_t i;           /* of its first row; for a bad line, that of the next row */
    uint32_t n;          /* rows; 0: a bad line */
    struct asked *asked; /* of a request; owned */
    int written;
};

struct output {
    struct target target;
    int keep_input, by_completion;
    struct output_entry *entries; /* entries [head, end) are waiting */
    size_t head, end, room;
    size_t kept_bytes; /* of all entries */
    int64_t next_i;
    int64_t n_written, n_failed;
    char first_failure[ERR_FIELD_BYTES + ERR_MESSAGE_BYTES + 40]; /* with the id */
};

int output_open(struct output *o, const struct cli *c, struct err *e);
void output_release(struct output *o);
/* Records a line that was read: takes its id, and with keep_input its object. i: row index, -1 for
 * a bad line. */
void output_expect(struct output *o, struct line *line, int64_t i);
/* Takes the broker's result for row i (borrowed). The row must have been passed to
 * output_expect. */
int output_result(struct output *o, int64_t i, json_t *row, struct err *e);
int output_flush(struct output *o, struct err *e); /* writes what can be written */
size_t output_waiting(const struct output *o);
/* Are so many lines waiting that no more should be read? */
int output_is_full(const struct output *o);
/* Discards all lines so far: none is waiting, and the file is empty again. */
int output_begin_anew(struct output *o, struct err *e);
int output_finish(struct output *o, struct err *e);

/* Returns the output line for a result row, without `i` and with the line's own id; new
 * reference. */
json_t *output_line(const json_t *row, json_t *id);

#endif
