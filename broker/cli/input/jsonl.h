/* jsonl.h - reads a file of JSON lines: plain, or compressed with gzip or zstd, as its first bytes
 * show; also from stdin.
 *
 * Each line is bounded in bytes and in values, as a few bytes of JSON can take much memory. A line
 * beyond a bound, or one that is not a JSON object, is that line's error, and reading goes on with
 * the next line. Blank lines are skipped but counted. A BOM at the beginning of any line is
 * skipped, because files may have been concatenated.
 *
 * This is the way into the folder, which knows neither verbs nor options nor the broker:
 * inflate.h decompresses, line_count.h counts, foreign.h recognises other files, forgive.h and
 * beginning.h help with lines that the JSON reader refuses, and columns.h says what the columns of
 * a line mean. */
#ifndef ASSAY_JSONL_H
#define ASSAY_JSONL_H

#include <jansson.h>
#include <stdint.h>
#include <sys/stat.h>

#include "schema/err.h"

#define JSONL_MAX_BYTES (64u << 20)
#define JSONL_MAX_VALUES (4u << 20) /* strings, numbers ..; an object or array counts as 16 */

struct jsonl;
struct renames;

struct jsonl_line {
    int64_t number; /* from 1 */
    size_t bytes;   /* its length */
    json_t *object; /* NULL if the line is bad; owned by the caller */
    /* of a bad line, its members before the fault as far as they are certain (beginning.h); NULL:
     * none; owned by the caller */
    json_t *beginning;
    int is_cut; /* only its beginning was looked at */
    /* bits (forgive.h) of id keys whose number is beyond 64 bits and is a string in the object */
    int large_ids;
    struct err err; /* why it is bad */
};

/* Opens path; "-" or NULL: stdin. ASSAY_EIO with the reason. */
int jsonl_open(struct jsonl **j, const char *path, struct err *e);
/* Looks at the first bytes. Returns 0, or an error if the file as a whole is of another kind
 * (foreign.h). A pipe is looked at only when it is read. */
int jsonl_look(struct jsonl *j, struct err *e);
void jsonl_close(struct jsonl **j);
/* From now on, tolerates what the JSON reader cannot hold where it does not matter (forgive.h). names
 * is borrowed. */
void jsonl_forgive(struct jsonl *j, const struct renames *names);
/* Returns 1 and *line, 0 at the end, negative when reading failed or a signal came. */
int jsonl_next(struct jsonl *j, struct jsonl_line *line, struct err *e);
/* The file as it was when it was opened. */
const struct stat *jsonl_opened(const struct jsonl *j);
/* 1: the file has been written to since it was opened. A pipe never has. */
int jsonl_is_changed(const struct jsonl *j);
/* Counts the lines for some milliseconds more. Returns their number once it is known, -1 before,
 * and always of a pipe and of a compressed file. */
int64_t jsonl_count(struct jsonl *j);

/* "a string", "an array" .. */
const char *json_kind(const json_t *value);

#endif
