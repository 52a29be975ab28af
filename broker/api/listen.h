/* listen.h - a broker's sockets at their endpoints: bound where that takes nothing from anybody, and looked after.
 *
 * A socket whose file is removed or replaced lives on for those who are connected, and nobody else finds it. So the files
 * are looked at now and then, and bound again where that takes nothing from anybody. The listener of before stays open
 * beside the new one, since its connections are of it. */
#ifndef ASSAY_LISTEN_H
#define ASSAY_LISTEN_H

#include <stdint.h>

#include "schema/endpoint.h"

#define LISTEN_MAX 16

/* Plain data, all zero at its beginning. */
struct listeners {
    struct listener {
        void *socket; /* ZeroMQ's, borrowed */
        char endpoint[ENDPOINT_BYTES];
        uint64_t device, inode; /* of its file */
    } all[LISTEN_MAX];          /* those in the file system alone */
    int n;
};

/* socket: ZeroMQ's. A socket file that nobody listens on is replaced, for a broker that was killed leaves one. Refused
 * is one that another program listens on, anything else at that path, and a folder in which others can replace it. */
int listen_bind(struct listeners *l, void *socket, const char *endpoint, struct err *e);
/* One that was bound just now, in another way. */
int listen_watch(struct listeners *l, void *socket, const char *endpoint, struct err *e);
/* Binds again what has lost its file, and logs that. Negative when it cannot: new clients would not find the broker. */
int listen_check(struct listeners *l, struct err *e);
/* Removes the files, so that nobody connects any more; before the sockets are closed, while they are certainly ours. */
void listen_end(struct listeners *l);

#endif
