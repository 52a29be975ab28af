/* inherited.h - the socket that systemd has opened for this process (sd_listen_fds(3)): descriptor 3,
 * where LISTEN_PID is this process and LISTEN_FDS is 1. Clients may connect before the process is
 * there, and wait in the socket's queue while it is started anew. */
#ifndef ASSAY_HTTP_INHERITED_H
#define ASSAY_HTTP_INHERITED_H

#include "schema/err.h"

/* fds and pid: the values of LISTEN_FDS and LISTEN_PID; NULL: not set. Returns the descriptor, which
 * does not block and is closed on exec from here on; 0 where none is for this process; or
 * ASSAY_EBADREQ: there are several, or it is no TCP socket that listens. */
int inherited_socket(const char *fds, const char *pid, struct err *e);

#endif
