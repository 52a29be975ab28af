/* front.h - the assay-http that a broker starts in front of itself (--http). It is a process of its
 * own, and nothing that goes wrong in it touches the broker: it is started again, later each time,
 * and ends with the broker. */
#ifndef ASSAY_FRONT_H
#define ASSAY_FRONT_H

#include <zmq.h>

#include "broker/options.h"
#include "schema/err.h"

struct front;

/* Finds the program beside this one. data: the broker's directory. Borrows all. Returns 0, or
 * ASSAY_EFORMAT where the program is not there. */
int front_new(struct front **front, const struct options *o, const char *data, struct err *e);
/* Ends it: waits for the process if it is to end (front_stop), else kills it. */
void front_free(struct front **front);

/* All take NULL, too: no --http. */
/* Starts the process when that is due, and notices its end. Returns when it is to be called
 * again. */
long long front_tick(struct front *front, long long now_ms);
/* Readable when the process has ended. Returns how many items were written, at most 1. */
int front_poll_item(const struct front *front, zmq_pollitem_t *item);
/* Asks the process to end; it is not started again. */
void front_stop(struct front *front);
int front_is_over(const struct front *front); /* no process runs, and none is to */

/* What `info` says of it. */
struct front_info {
    const char *url;     /* where clients connect */
    int pid;             /* 0: it does not run */
    int restarts;        /* since the broker's start */
    const char *failure; /* why it does not run; "": it does */
};
void front_describe(const struct front *front, struct front_info *info);

#endif
