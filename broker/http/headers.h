/* headers.h - a request's head, as far as it matters here. Where two readers could take it for
 * different requests it is refused: a proxy in front may be the other reader. */
#ifndef ASSAY_HTTP_HEADERS_H
#define ASSAY_HTTP_HEADERS_H

#include <microhttpd.h>
#include <stddef.h>

#include "schema/err.h"

struct head {
    const char *host, *length, *coding, *type, *content_coding, *authorization, *request_id;
    int n_lengths, n_codings, n_hosts, n_types, n_authorizations;
    int has_nul; /* a value with a NUL in it */
};

void head_read(struct head *head, struct MHD_Connection *connection);
/* Returns 0, or the status with *e: 400 for a head that can be read in two ways, 501 for a transfer
 * coding other than chunked. */
int head_check(const struct head *head, struct err *e);
/* The same of a request with a body: 411, 413, 415. */
int head_check_body(const struct head *head, size_t max_bytes, struct err *e);
/* The same of an upload. */
int head_check_upload(const struct head *head, size_t max_bytes, struct err *e);
/* The same of a request that may have no body: one that is there must be empty. */
int head_check_empty(const struct head *head, struct err *e);
/* Of the arguments behind the path: none but `known`, names apart by spaces (NULL: none at all),
 * each once, with a value.
 * Returns 0, or 400 with the argument's name. */
int head_check_query(struct MHD_Connection *connection, const char *known, struct err *e);

#endif
