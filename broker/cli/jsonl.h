/* jsonl.h - a file of JSON lines in: plain, or compressed with gzip or zstd, as its first bytes
 * say; stdin too.
 *
 * Lines are read one at a time with a bound, of bytes and of values, as a few bytes of JSON are many of
 * memory; one beyond it is skipped to its end and is that line's error, as is one that is no JSON object. Blank
 * lines are passed over but counted. A mark (BOM) that a line begins with is passed over: files have it at their
 * beginning, and may have been put behind one another. */
#ifndef ASSAY_JSONL_H
#define ASSAY_JSONL_H

#include <jansson.h>
#include <stdint.h>

#include "schema/err.h"

#define JSONL_MAX_BYTES (64u << 20)
#define JSONL_MAX_VALUES (4u << 20) /* texts, numbers ..; an object or array counts as 16 */

struct jsonl;

struct jsonl_line {
    int64_t number; /* from 1 */
    json_t *object; /* NULL when the line is bad; owned by the caller */
    json_t *
        beginning; /* of one that is bad: its members before the fault, as far as they are certain (beginning.h); NULL:
                          none; owned by the caller */
    int is_cut; /* it is longer than what was looked at */
    int large_ids; /* bits of keys (forgive.h) whose number is beyond 64 bits, and stands in the object as a text */
    struct err err; /* why it is bad */
};

/* "-" or NULL: stdin. ASSAY_EIO with the reason. */
int jsonl_open(struct jsonl **j, const char *path, struct err *e);
/* What is in it, as far as that can be told at once: 0, or what is wrong with the file as a whole (foreign.h). A
 * pipe is looked at when it is read. */
int jsonl_look(struct jsonl *j, struct err *e);
void jsonl_close(struct jsonl **j);
/* From now on what JSON's reader cannot hold is no error where it cannot matter (forgive.h). */
void jsonl_forgive(struct jsonl *j, int (*is_read)(const char *key, size_t len),
    int (*is_id)(const char *key, size_t len));
/* 1 and *line, 0 at the end, negative when reading failed. */
int jsonl_next(struct jsonl *j, struct jsonl_line *line, struct err *e);
/* How many lines there are, -1 when that is not known before the end: a pipe, a compressed file. */
int64_t jsonl_count(const struct jsonl *j);

/* "a string", "an array" .. */
const char *json_kind(const json_t *value);

#endif
