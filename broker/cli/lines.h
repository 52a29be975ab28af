/* lines.h - turns each line of a JSONL file (jsonl.h) into a checked row of a submit message.
 *
 * columns.h says what the columns mean. A line that cannot be a row is an error of that line (code,
 * message with field, expected, found), never of the file. The broker's own message reader checks
 * the row, so the broker does not refuse what passes here. */
#ifndef ASSAY_LINES_H
#define ASSAY_LINES_H

#include <jansson.h>
#include <sys/stat.h>

#include "broker/cli/asked.h"
#include "broker/cli/cli.h"
#include "schema/msg.h"

struct lines;

struct line {
    int64_t number; /* from 1 */
    size_t bytes;   /* its length in the file */
    json_t *id;     /* the line's id or custom_id, else its number; owned */
    json_t *object; /* the parsed line, NULL if it is not an object; owned */
    /* msgpack of the row; absent if the line is bad; valid until the next call */
    struct slice row;
    uint32_t n_rows;     /* in it; 1, but for requests */
    struct asked *asked; /* with --format openai-batch; owned */
    struct err err;      /* why it is bad */
};

/* Opens the operand as the input; the options say how rows are pooled (CLI_POOL ..). Returns an EX_
 * code after printing an error to stderr. */
int lines_open(struct lines **l, const struct cli *c);
void lines_close(struct lines **l);
/* With --format openai-batch: what the lines' requests are read under, before the first. Borrowed. */
void lines_set_card(struct lines *l, struct card *card);
/* Returns 1 and *line (to be released), 0 at the end, negative when reading failed. */
int lines_next(struct lines *l, struct line *line, struct err *e);
void line_release(struct line *line);
/* Returns a bad line as a row that fails with the line's error; valid until the next call. */
struct slice lines_refused(struct lines *l, const struct line *line);
/* jsonl_opened, jsonl_is_changed of the input */
const struct stat *lines_opened(const struct lines *l);
int lines_is_changed(const struct lines *l);
/* jsonl_count: counts on, returns the number of lines, or -1. */
int64_t lines_count(struct lines *l);

#endif
