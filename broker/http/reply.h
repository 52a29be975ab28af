/* reply.h - what the broker's replies say: that which tells them apart, and what has a place of its
 * own. All else is read by what it is. */
#ifndef ASSAY_HTTP_REPLY_H
#define ASSAY_HTTP_REPLY_H

#include "schema/msg.h"

struct reply {
    int64_t id, job;
    int is_ok;
    struct slice checkpoint, mode; /* of the job's model */
    struct slice rows;             /* in the message */
    uint64_t next;                 /* of a page of results */
    int is_done;
};

/* Returns 0, or ASSAY_EBADMSG. What a reply lacks is 0. */
int reply_read(struct slice message, struct reply *reply, struct err *e);

#endif
