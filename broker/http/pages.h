/* pages.h - what is answered without a score: /health, /ready, /v1/models, /version, /metrics. */
#ifndef ASSAY_HTTP_PAGES_H
#define ASSAY_HTTP_PAGES_H

#include "broker/http/routes.h"
#include "broker/http/server.h"

struct page {
    struct err error; /* code 0: there is a text, or a file */
    int status;       /* of the error; 0: that of its code */
    char *text;       /* the caller frees it */
    int fd;           /* -1: no file; the caller closes it */
    int64_t size;     /* of the file */
    const char *type;
};

void page_write(struct page *page, struct server *server, const struct route *route);
/* /api/overview.json. may_change: its reader may change jobs. */
void overview_write(struct page *page, struct server *server, int may_change);

#endif
