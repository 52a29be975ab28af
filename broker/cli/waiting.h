/* waiting.h - what a verb waits for, in words: in the bar where there is one, else on stderr, once and
 * then rarely. */
#ifndef ASSAY_WAITING_H
#define ASSAY_WAITING_H

#include "broker/cli/progress.h"
#include "schema/err.h"

struct waiting {
    struct progress *progress; /* NULL: there is no bar */
    int refuse;                /* --no-wait: a reason to wait is an error */
    long long again_ms;        /* when it may be said again */
};

/* Say it. */
void waiting_tell(struct waiting *w, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* No longer. */
void waiting_over(struct waiting *w);
/* Is this what the broker says when it cannot take a request for now? */
int waiting_is_worth(const struct err *e);
/* Say the reason in *e and sleep as long as the broker advises: 0, try again; or negative: not to be
 * waited for, or a signal came. */
int waiting_pause(struct waiting *w, struct err *e);

#endif
