/* line_count.h - counts the lines of a plain file beside its reading, a piece at a time: nothing
 * waits for the whole count. */
#ifndef ASSAY_LINE_COUNT_H
#define ASSAY_LINE_COUNT_H

#include <stdint.h>

struct line_count {
    int fd; /* -1: none, or the count is over */
    int64_t n;
    int64_t total; /* -1: unknown so far, and for ever where there is no fd */
    char last;     /* byte */
};

/* Begins at the first byte of the file. NULL, or a file that is not a plain one (a pipe, a
 * compressed file): the total stays unknown. */
void line_count_init(struct line_count *c, const char *path);
void line_count_release(struct line_count *c);
/* Counts for about for_ms, or to the end. Returns the total, -1 if it is unknown. */
int64_t line_count_go_on(struct line_count *c, int for_ms);

#endif
