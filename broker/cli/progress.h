/* progress.h - one line on a terminal that says how far long work is: bar, counts, rate, time left.
 * Draws at most ten times a second; draws nothing when not on a terminal. */
#ifndef ASSAY_PROGRESS_H
#define ASSAY_PROGRESS_H

#include <stdint.h>

struct progress {
    int on;        /* draw at all */
    int64_t total; /* -1: not known */
    int64_t started_ms, drawn_ms;
    int64_t first_done; /* done when it began: work of an earlier run is not counted as speed */
    int started;
    char note[200]; /* shown in the bar's place: what is waited for; empty: nothing */
};

void progress_init(struct progress *p, int on, int64_t total);
void progress_show(struct progress *p, int64_t done, int64_t failed, int force);
/* A line in the bar's place until it is NULL; text may come from a broker. */
void progress_note(struct progress *p, const char *text);
void progress_end(struct progress *p); /* wipes the line */

#endif
