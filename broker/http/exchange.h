/* exchange.h - one HTTP request and its reply, from the head to the last byte. */
#ifndef ASSAY_HTTP_EXCHANGE_H
#define ASSAY_HTTP_EXCHANGE_H

#include <microhttpd.h>

#include "broker/http/server.h"

/* libmicrohttpd's callbacks; cls is the struct server. */
enum MHD_Result exchange_step(void *cls, struct MHD_Connection *connection, const char *url,
    const char *method, const char *version, const char *upload, size_t *n_upload, void **state);
void exchange_end(void *cls, struct MHD_Connection *connection, void **state,
    enum MHD_RequestTerminationCode why);

#endif
