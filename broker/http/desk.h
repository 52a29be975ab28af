/* desk.h - what the page asks of the broker: one thread, one short request after the other, over a
 * socket of its own, so that neither clients' rows nor connections wait for it. Replies are kept
 * for a second: many pages that look on cost the broker no more than one. */
#ifndef ASSAY_HTTP_DESK_H
#define ASSAY_HTTP_DESK_H

#include <stdint.h>

#include "schema/err.h"

struct desk;

enum desk_what {
    DESK_JOBS,       /* the newest, and those that are unfinished */
    DESK_THROUGHPUT, /* of a day */
    DESK_SCORES,     /* a sample of a job's */
    DESK_FAILED,     /* rows of a job, the first of them */
    DESK_PAUSE,
    DESK_RESUME,
    DESK_CANCEL,
    DESK_RETRY
};

/* A request; the caller's, who touches nothing of it from desk_ask until `done` is called, in the
 * desk's thread. */
struct desk_request {
    enum desk_what what;
    int64_t job; /* of those that are about one; else 0 */
    void (*done)(struct desk_request *q);
    void *owner;
    /* Set by the desk. */
    char *text; /* JSON, where error.code is 0; the caller frees it */
    struct err error;
    long long until_ms;
    struct desk_request *next;
};

/* Starts the thread. endpoint: the broker's. Returns 0, or ASSAY_EIO. */
int desk_new(struct desk **desk, const char *endpoint, struct err *e);
/* Ends the thread; requests end as ASSAY_ENOTREADY. */
void desk_stop(struct desk *desk);
void desk_free(struct desk **desk);

/* From any thread. Where too many wait, or the desk is over, `done` is called at once with the
 * error. */
void desk_ask(struct desk *desk, struct desk_request *q);

#endif
