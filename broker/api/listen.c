/* listen.c - see listen.h. */
#include "broker/api/listen.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>
#include <zmq.h>

#include "broker/api/connections.h"
#include "schema/endpoint.h"

/* Whoever may replace the socket hears what is meant for the broker. In a folder such as /tmp (sticky) nobody can
 * replace another's files; in one that only the group of this process may write to, its members are trusted. */
static int check_folder(const char *path, struct err *e)
{
    char folder[sizeof((struct sockaddr_un *)0)->sun_path] = ".";
    const char *slash = strrchr(path, '/');
    struct stat s;
    if (slash)
        snprintf(folder, sizeof folder, "%.*s", slash == path ? 1 : (int)(slash - path), path);
    if (stat(folder, &s) != 0)
        return err_errno(e, ASSAY_EIO, "endpoint 'ipc://%s': folder '%s'", path, folder);
    int others = s.st_mode & S_IWOTH || (s.st_mode & S_IWGRP && s.st_gid != getegid());
    if ((s.st_uid != geteuid() && s.st_uid != 0) || (others && !(s.st_mode & S_ISVTX)))
        return err_set(e, ASSAY_EFORMAT,
            "endpoint 'ipc://%s': expected a folder in which no other user can replace files, "
            "found '%s' with mode %o of user %u",
            path, folder, (unsigned)s.st_mode & 07777, (unsigned)s.st_uid);
    return 0;
}

/* Does somebody listen there? */
static int is_in_use(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
    int failed = connect(fd, (struct sockaddr *)&address, sizeof address) != 0 && errno != EAGAIN;
    if (fd >= 0)
        close(fd);
    return !failed;
}

/* libzmq deletes what it finds at the path. */
static int check_file(const char *path, struct err *e)
{
    struct stat s;
    if (lstat(path, &s) != 0)
        return errno == ENOENT ? 0 : err_errno(e, ASSAY_EIO, "endpoint 'ipc://%s'", path);
    if (!S_ISSOCK(s.st_mode))
        return err_set(e, ASSAY_EFORMAT,
            "endpoint 'ipc://%s': expected no file or a socket there, found another kind of file",
            path);
    if (is_in_use(path))
        return err_set(e, ASSAY_EBUSY,
            "endpoint 'ipc://%s': expected a socket of its own, found one that another program "
            "listens on",
            path);
    return 0;
}

int listen_bind(void *socket, const char *endpoint, struct err *e)
{
    struct endpoint parsed;
    int rc = endpoint_parse(&parsed, endpoint, ENDPOINT_LISTEN, e);
    if (rc == 0 && parsed.path)
        rc = check_folder(parsed.path, e);
    if (rc == 0 && parsed.path)
        rc = check_file(parsed.path, e);
    if (rc != 0)
        return rc == ASSAY_EBADREQ ? e->code = ASSAY_EFORMAT : rc;
    if (parsed.path)
        connections_expect_clients(parsed.path);
    if (zmq_setsockopt(socket, ZMQ_IPV6, &parsed.is_ipv6, sizeof parsed.is_ipv6) != 0 ||
        zmq_bind(socket, endpoint) != 0)
        return err_set(e, ASSAY_EIO, "cannot bind '%s': %s", endpoint, zmq_strerror(errno));
    return 0;
}
