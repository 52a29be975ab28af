/* listen.h - binds the broker's sockets to their endpoints, never taking one from another program,
 * and watches their files.
 *
 * A socket whose file is removed or replaced lives on for connected clients, but no new client
 * finds it. So the files are checked now and then, and a lost one is bound again where that takes
 * nothing from another program. The old listener stays open beside the new one, because its
 * connections belong to it. */
#ifndef ASSAY_LISTEN_H
#define ASSAY_LISTEN_H

#include <sys/stat.h>

#include "schema/endpoint.h"

#define LISTEN_MAX 16

/* Plain data, all zero at the beginning. */
struct listeners {
    struct listener {
        void *socket; /* ZeroMQ's, borrowed */
        char endpoint[ENDPOINT_BYTES];
        struct stat file; /* its socket file */
    } all[LISTEN_MAX];    /* sockets in the file system only */
    int n;
};

/* Binds a ZeroMQ socket. A socket file on which no program listens is replaced, because a killed
 * broker leaves one. Refuses a file on which another program listens, any other kind of file, and a
 * folder in which other users can replace files. */
int listen_bind(struct listeners *l, void *socket, const char *endpoint, struct err *e);
/* Watches a socket that was bound by other means. */
int listen_watch(struct listeners *l, void *socket, const char *endpoint, struct err *e);
/* Binds sockets again that have lost their file, and logs that. Returns a negative code when it
 * cannot: new clients would not find the broker. */
int listen_check(struct listeners *l, struct err *e);
/* Removes the files, so that no client connects any more. Call it before the sockets are closed,
 * while the files are certainly ours. */
void listen_end(struct listeners *l);

#endif
