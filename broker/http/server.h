/* server.h - what all requests share: assay-http's one context. */
#ifndef ASSAY_HTTP_SERVER_H
#define ASSAY_HTTP_SERVER_H

#include <stdatomic.h>
#include <stddef.h>

#include "broker/ask/budget.h"
#include "broker/http/keys.h"
#include "broker/http/link.h"
#include "broker/http/metrics.h"
#include "broker/http/options.h"
#include "broker/http/peers.h"

struct desk;
struct stored;

struct server {
    const struct http_options *options;
    struct link *link;
    struct desk *desk;
    struct keys *keys; /* NULL: none are asked for */
    struct metrics *metrics;
    struct peers *peers;
    struct stored *stored; /* files and batches; NULL: --files was not given */
    struct budget bytes;   /* of bodies, rows and messages of all requests that are not over */
    int inherited_fd;      /* listens instead of --listen; 0: none does; the listener's */
    atomic_int n_open;     /* requests that are not over */
    long long started_ms;
};

#endif
