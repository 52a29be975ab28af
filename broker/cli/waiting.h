/* waiting.h - says what a verb is waiting for: in the progress bar if there is one, else on stderr,
 * once and then rarely. */
#ifndef ASSAY_WAITING_H
#define ASSAY_WAITING_H

#include <jansson.h>

#include "broker/cli/progress.h"
#include "schema/err.h"

struct waiting {
    struct progress *progress; /* NULL: there is no bar */
    int refuse;                /* --no-wait: having to wait is an error */
    long long again_ms;        /* when the message may be repeated */
};

/* Reports what is waited for. */
void waiting_tell(struct waiting *w, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Ends the report. */
void waiting_over(struct waiting *w);
/* Reports what keeps a job from going on, by the reply of `status`; ends the report if nothing
 * does. idle_ms: how long the job has made no progress. */
void waiting_tell_what_blocks(struct waiting *w, const json_t *status, long long idle_ms);
/* Is this an error with which the broker says that it cannot take a request now? */
int waiting_is_worth(const struct err *e);
/* Reports the reason in *e and sleeps as long as the broker advises. Returns 0 to try again, or
 * negative if waiting is not worth it or a signal came. */
int waiting_pause(struct waiting *w, struct err *e);

#endif
