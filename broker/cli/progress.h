/* progress.h - one terminal line for the progress of long work: bar, counts, rate, time left. Draws
 * at most ten times a second, and only on a terminal. */
#ifndef ASSAY_PROGRESS_H
#define ASSAY_PROGRESS_H

#include <stdint.h>

struct progress {
    int on;        /* draw at all */
    int64_t total; /* -1: unknown */
    int64_t started_ms, drawn_ms;
    int64_t first_done; /* done at the start: an earlier run's work does not count as speed */
    int started;
    char note[200]; /* shown instead of the bar: what is waited for; empty: the bar */
};

void progress_init(struct progress *p, int on, int64_t total);
void progress_show(struct progress *p, int64_t done, int64_t failed, int force);
/* Shows text instead of the bar until called with NULL. The text may come from a broker. */
void progress_note(struct progress *p, const char *text);
void progress_end(struct progress *p); /* wipes the line */

#endif
