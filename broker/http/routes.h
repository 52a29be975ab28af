/* routes.h - the endpoints: which path is answered how.
 *
 * assay-http (main.c) is a process of its own, in front of a broker, for programs that speak HTTP:
 *
 *     listen.c      sockets and connections, by libmicrohttpd; inherited.c: systemd's socket,
 *                   and acceptor.c: its connections;
 *                   peers.c: those that leave or dawdle
 *     headers.c     what a request's head may say; keys.c: who may ask;
 *                   host.c: under which name, without keys
 *     routes.c      the endpoints; broker/ask/ has requests to score, and their replies
 *     exchange.c    one request, from its head to its reply
 *     link.c        the thread that has the socket to the broker; jobs.c: what it has sent;
 *                   coalesce.c: which requests make one job, and when
 *     assets.c      the page; desk.c: what it asks the broker
 *     metrics.c     counts, for Prometheus (metrics_broker.c: the broker's, metrics_text.c: the form)
 *
 * With --files it has files of requests, too, which are scored while nobody waits:
 *
 *     folder.c      the directory; files.c: what is in it; upload.c: what comes to it
 *     batches.c     batches, and the thread that works on them (batch_*.c); call.c: its requests to
 *                   the broker
 *     stored.c      what is asked of both */
#ifndef ASSAY_HTTP_ROUTES_H
#define ASSAY_HTTP_ROUTES_H

#include "broker/ask/family.h"
#include "broker/http/desk.h"
#include "broker/http/folder.h"

enum route_kind {
    ROUTE_SCORES,
    ROUTE_HEALTH,
    ROUTE_READY,
    ROUTE_MODELS,
    ROUTE_VERSION,
    ROUTE_METRICS,
    ROUTE_ASSET,    /* of the page; anybody may see it */
    ROUTE_OVERVIEW, /* what is known without asking */
    ROUTE_LOOK,     /* desk.h */
    ROUTE_CHANGE,   /* the same, of an administrator */
    ROUTE_FILES,    /* stored.h, from here on */
    ROUTE_FILE,
    ROUTE_CONTENT,
    ROUTE_BATCHES,
    ROUTE_BATCH,
    ROUTE_CANCEL
};

enum { ROUTE_GET = 1, ROUTE_POST = 2, ROUTE_DELETE = 4 };

struct route {
    const char *path; /* with {id} where one stands */
    enum route_kind kind;
    unsigned methods;            /* HEAD is GET */
    const struct family *family; /* of ROUTE_SCORES */
    const char *arguments; /* that may stand behind the path, as ?NAME=VALUE, apart by spaces; NULL:
                              none */
    enum desk_what what;   /* of ROUTE_LOOK and ROUTE_CHANGE */
};

#define ROUTES_MOST 48

/* The k-th; NULL: there are fewer. */
const struct route *route_at(int k);
/* Returns NULL for a path that is none. id: what stands for {id}, else "". */
const struct route *route_find(const char *path, char id[FOLDER_ID_BYTES]);
int route_index(const struct route *route); /* ROUTES_MOST for NULL */
/* The method's bit; 0: another. */
unsigned route_method(const char *method);
int route_is_stored(const struct route *route);
/* The methods, as the header Allow has them. */
const char *route_allowed(const struct route *route);

#endif
