/* endpoint.h - parses the addresses of the broker's socket, and accepts these forms only.
 *
 *     ipc://PATH             a socket in the file system
 *     tcp://127.0.0.1:5555   an IPv4 address and a port
 *     tcp://[::1]:5555       an IPv6 address and a port
 *     tcp://host:5555        to connect only
 *
 * libzmq would accept more: wildcards, interface names, abstract names that anybody on the machine
 * may connect to, a source address before a ';'. What is refused here never reaches it. */
#ifndef ASSAY_ENDPOINT_H
#define ASSAY_ENDPOINT_H

#include "schema/err.h"

enum endpoint_use { ENDPOINT_LISTEN, ENDPOINT_CONNECT };

struct endpoint {
    const char *path; /* points into the text; NULL: tcp */
    int is_ipv6;
};

/* Parses the text. Returns 0, ASSAY_EBADREQ when it has none of these forms, or ASSAY_EUNSUPPORTED
 * when that is not built, such as listening beyond this machine. */
int endpoint_parse(struct endpoint *out, const char *text, enum endpoint_use use, struct err *e);

#define ENDPOINT_BYTES 128
/* Writes the endpoint of socket `name` in a directory whose path may be too long for a socket's:
 * ipc://DIR/NAME where that fits (ASSAY_EFORMAT if DIR has a control character), else
 * ipc:///proc/self/fd/N/NAME by a descriptor of the directory, which works in this process and in
 * those that inherit it. *dir_fd: -1, or from an earlier call; the caller closes it when the socket
 * is closed. */
int endpoint_in_dir(
    char out[ENDPOINT_BYTES], const char *dir, const char *name, int *dir_fd, struct err *e);

#define ENDPOINT_SOCKET_BYTES 32
/* Writes the name of the broker's socket in its data directory: broker.sock; or broker.sock.PID,
 * which nobody else looks for, of the broker that process `owner` has for itself (0: none has). */
void endpoint_socket(char name[ENDPOINT_SOCKET_BYTES], int owner);

#endif
