/* listen.h - the socket that clients connect to, and the threads that serve it. */
#ifndef ASSAY_HTTP_LISTEN_H
#define ASSAY_HTTP_LISTEN_H

#include "broker/http/server.h"

struct listener;

/* Listens where the options say. Beyond this machine that needs API keys. Returns 0, or a code:
 * ASSAY_EBADREQ for an address that is none, ASSAY_EUNAUTHORIZED without keys, ASSAY_EIO. */
int listener_new(struct listener **listener, struct server *server, struct err *e);
/* Takes no new connections from here on. */
void listener_quiesce(struct listener *listener);
/* No ticket may be in the link any more. */
void listener_free(struct listener **listener);

#endif
