/* routes.h - the endpoints: which path is answered how. */
#ifndef ASSAY_HTTP_ROUTES_H
#define ASSAY_HTTP_ROUTES_H

#include "broker/http/ask.h"
#include "broker/http/answers.h"

enum route_kind {
    ROUTE_SCORES,
    ROUTE_HEALTH,
    ROUTE_READY,
    ROUTE_MODELS,
    ROUTE_VERSION,
    ROUTE_METRICS
};

struct route {
    const char *path;
    enum route_kind kind;
    const char *id; /* begins the reply's `id` */
    ask_decoder *decode;
    answer_writer *reply;
    const char *argument; /* that may stand behind the path, as ?NAME=VALUE; NULL: none */
};

#define ROUTES_MOST 24

/* The k-th; NULL: there are fewer. */
const struct route *route_at(int k);
/* Returns NULL for a path that is none. */
const struct route *route_find(const char *path);
int route_index(const struct route *route); /* ROUTES_MOST for NULL */

#endif
