/* dealer.h - a DEALER socket to a broker, for clients of it: `assay` and `assay-http`. */
#ifndef ASSAY_DEALER_H
#define ASSAY_DEALER_H

#include "schema/err.h"

struct dealer_options {
    const char *endpoint; /* as zmq_connect takes it */
    const char *shown;    /* as errors name it */
    int linger_ms;        /* what is not sent yet goes on so long after the socket's end */
    int sends_any; /* any number of messages wait to be sent; else as many as libzmq's default */
};

/* zmq: a context. Returns 0 and *socket, or ASSAY_EIO and NULL. */
int dealer_connect(void **socket, void *zmq, const struct dealer_options *options, struct err *e);

#endif
