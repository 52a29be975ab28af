/* routes.h - the endpoints: which path is answered how. */
#ifndef ASSAY_HTTP_ROUTES_H
#define ASSAY_HTTP_ROUTES_H

#include "broker/http/ask.h"
#include "broker/http/answers.h"
#include "broker/http/folder.h"

enum route_kind {
    ROUTE_SCORES,
    ROUTE_HEALTH,
    ROUTE_READY,
    ROUTE_MODELS,
    ROUTE_VERSION,
    ROUTE_METRICS,
    ROUTE_FILES, /* stored.h, from here on */
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
    unsigned methods; /* HEAD is GET */
    const char *id;   /* begins the reply's `id` */
    ask_decoder *decode;
    answer_writer *reply;
    const char *arguments; /* that may stand behind the path, as ?NAME=VALUE, apart by spaces; NULL:
                              none */
};

#define ROUTES_MOST 32

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
