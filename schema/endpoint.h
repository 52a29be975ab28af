/* endpoint.h - addresses of the broker's socket: what is understood to the last character, and nothing else.
 *
 *     ipc://PATH             a socket in the file system
 *     tcp://127.0.0.1:5555   an IPv4 address and a port
 *     tcp://[::1]:5555       an IPv6 address and a port
 *     tcp://host:5555        to connect only
 *
 * libzmq reads more into such a text: wildcards, interface names, the abstract names that anybody on the machine may
 * connect to, an address to come from before a ';'. What is refused here never gets there. */
#ifndef ASSAY_ENDPOINT_H
#define ASSAY_ENDPOINT_H

#include "schema/err.h"

enum endpoint_use { ENDPOINT_LISTEN, ENDPOINT_CONNECT };

struct endpoint {
    const char *path; /* within the text; NULL: tcp */
    int is_ipv6;
};

/* 0; ASSAY_EBADREQ: not such a text; ASSAY_EUNSUPPORTED: one that is not built, as to listen beyond this machine. */
int endpoint_parse(struct endpoint *out, const char *text, enum endpoint_use use, struct err *e);

#define ENDPOINT_BYTES 128
/* The socket `name` in a directory whose path may be longer than a socket's may be: ipc://DIR/NAME where that fits,
 * else by way of a descriptor of the directory, ipc:///proc/self/fd/N/NAME, which holds in this process, and in one
 * that inherits it. *dir_fd: -1, or from an earlier call; the caller closes it when the socket is closed. */
int endpoint_in_dir(
    char out[ENDPOINT_BYTES], const char *dir, const char *name, int *dir_fd, struct err *e);

#endif
