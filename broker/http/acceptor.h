/* acceptor.h - takes connections from a socket that outlives this process, for libmicrohttpd.
 *
 * libmicrohttpd shuts its listening socket down when it ends, which would end it for systemd and for
 * the next process too. So it gets no such socket, but connections. What is not accepted when the
 * thread is stopped waits in the socket's queue. */
#ifndef ASSAY_HTTP_ACCEPTOR_H
#define ASSAY_HTTP_ACCEPTOR_H

#include "schema/err.h"

struct MHD_Daemon;
struct acceptor;

/* Starts a thread. fd: does not block; borrowed, as the daemon is. most: connections at a time; others
 * wait. Returns 0, or ASSAY_EIO. */
int acceptor_new(
    struct acceptor **acceptor, int fd, struct MHD_Daemon *daemon, unsigned most, struct err *e);
/* No more is accepted. */
void acceptor_free(struct acceptor **acceptor);

#endif
