/* batch_lines.h - a batch's input: lines of JSON, each a request with its custom_id.
 * Blank lines are none, and a byte order mark in front of one is passed over. */
#ifndef ASSAY_HTTP_BATCH_LINES_H
#define ASSAY_HTTP_BATCH_LINES_H

#include "broker/ask/batch_line.h"

#define LINES_MOST (1u << 20)

struct batch_place {
    int64_t at;      /* byte in the file */
    uint32_t number; /* of the line, from 1; blank ones count */
};

struct batch_lines {
    int fd;                     /* owned; -1: not open */
    struct batch_place *places; /* [n + 1]: where each begins; the last: where the file ends */
    uint32_t n;
    size_t max_bytes; /* of one line */
};

/* Takes the descriptor over, also on failure, and finds the lines. Returns 0, ASSAY_ETOOLARGE for
 * too many, or ASSAY_EIO. */
int batch_lines_open(struct batch_lines *lines, int fd, size_t max_bytes, struct err *e);
void batch_lines_release(struct batch_lines *lines);

/* Reads the k-th line, which must be a request to `url`. Returns 0; else a code with e->field the
 * parameter, and *code as OpenAI has them. The caller releases the line either way. */
int batch_lines_read(const struct batch_lines *lines, uint32_t k, const char *url,
    struct batch_line *line, const char **code, struct err *e);

/* The ids that were seen. */
struct seen;
struct seen *seen_new(uint32_t n_most);
void seen_free(struct seen **seen);
int seen_add(struct seen *seen, const char *id); /* 1: it was there already */

#endif
