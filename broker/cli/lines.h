/* lines.h - lines of a JSONL file (jsonl.h), each checked, as the row of a submit message.
 *
 * What its columns mean is said in columns.h. A line that cannot be a row is that line's error (code, message with field, expected, found),
 * never the file's: it is checked by the reader of messages itself, so that what passes here is
 * not refused by the broker. */
#ifndef ASSAY_LINES_H
#define ASSAY_LINES_H

#include <jansson.h>

#include "broker/cli/cli.h"
#include "schema/msg.h"

struct lines;

struct line {
    int64_t number; /* from 1 */
    json_t *id;     /* the line's id or custom_id, else its number; owned */
    json_t *object; /* the parsed line, NULL when it is not an object; owned */
    struct slice
        row;        /* msgpack of the row; absent when the line is bad; valid until the next call */
    struct err err; /* why it is bad */
};

/* The input is the command line's operand; the options say how rows are pooled (CLI_POOL ..). EX_
 * code on failure, told on stderr. */
int lines_open(struct lines **l, const struct cli *c);
void lines_close(struct lines **l);
/* 1 and *line (release it), 0 at the end, negative when reading failed. */
int lines_next(struct lines *l, struct line *line, struct err *e);
void line_release(struct line *line);
/* A bad line as a row that fails with the line's error; valid until the next call. */
struct slice lines_refused(struct lines *l, const struct line *line);
/* How many lines there are, -1 when that is not known. */
int64_t lines_count(const struct lines *l);

#endif
