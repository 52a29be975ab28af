/* listen.h - a broker's socket at an endpoint: bound where that takes nothing from anybody. */
#ifndef ASSAY_LISTEN_H
#define ASSAY_LISTEN_H

#include "schema/err.h"

/* socket: ZeroMQ's. A socket file that nobody listens on is replaced, for a broker that was killed leaves one. Refused
 * is one that another program listens on, anything else at that path, and a folder in which others can replace it. */
int listen_bind(void *socket, const char *endpoint, struct err *e);

#endif
