/* listen.c - checks an endpoint's folder and file, binds to it, and notices when its file is
 * gone (listen.h). */
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
#include "schema/log.h"
#include "schema/regular.h"

/* A user who can replace the socket gets what is meant for the broker. In a sticky folder such as
 * /tmp users cannot replace each other's files; a folder that only this process's group may write
 * to is trusted. */
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

/* Does a program listen there? */
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

/* Refuses what must not be replaced: libzmq deletes any file at the path. */
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

/* path: of the endpoint's socket file; NULL: it has none. */
static int bind_at(void *socket, const char *endpoint, const char *path, int is_ipv6, struct err *e)
{
    int rc = path ? check_folder(path, e) : 0;
    if (rc == 0 && path)
        rc = check_file(path, e);
    if (rc != 0)
        return rc;
    if (zmq_setsockopt(socket, ZMQ_IPV6, &is_ipv6, sizeof is_ipv6) != 0 ||
        zmq_bind(socket, endpoint) != 0)
        return err_set(e, ASSAY_EIO, "cannot bind '%s': %s", endpoint, zmq_strerror(errno));
    return 0;
}

static const char *path_of(const struct listener *one)
{
    return one->endpoint + strlen("ipc://");
}

/* Returns 1 when the file is the socket's own, 0 when it is another or none, -1 when unknown. */
static int has_file(const struct listener *one, struct stat *s)
{
    *s = (struct stat){.st_nlink = 0};
    if (lstat(path_of(one), s) != 0)
        return errno == ENOENT || errno == ENOTDIR ? 0 : -1;
    return regular_is_same(&one->file, s);
}

/* Takes the file that is there now as its own. */
static int take_file(struct listener *one, struct err *e)
{
    return lstat(path_of(one), &one->file) == 0
               ? 0
               : err_errno(e, ASSAY_EIO, "endpoint '%s'", one->endpoint);
}

int listen_watch(struct listeners *l, void *socket, const char *endpoint, struct err *e)
{
    if (l->n == LISTEN_MAX)
        return err_set(e, ASSAY_EINTERNAL, "endpoint '%s': one of more than %d", endpoint, l->n);
    struct listener *one = &l->all[l->n++];
    one->socket = socket;
    snprintf(one->endpoint, sizeof one->endpoint, "%s", endpoint);
    return take_file(one, e);
}

int listen_bind(struct listeners *l, void *socket, const char *endpoint, struct err *e)
{
    struct endpoint parsed;
    int rc = endpoint_parse(&parsed, endpoint, ENDPOINT_LISTEN, e);
    if (rc != 0)
        return rc == ASSAY_EBADREQ ? e->code = ASSAY_EFORMAT : rc;
    if (parsed.path)
        connections_expect_clients(parsed.path);
    rc = bind_at(socket, endpoint, parsed.path, parsed.is_ipv6, e);
    return rc == 0 && parsed.path ? listen_watch(l, socket, endpoint, e) : rc;
}

int listen_check(struct listeners *l, struct err *e)
{
    struct stat s;
    for (int i = 0; i < l->n; i++) {
        struct listener *one = &l->all[i];
        if (has_file(one, &s) != 0)
            continue;
        const char *how = s.st_nlink > 0 ? "replaced" : "removed";
        int rc = bind_at(one->socket, one->endpoint, path_of(one), 0, e);
        if (rc == 0)
            rc = take_file(one, e);
        if (rc != 0) {
            struct err why = *e;
            return err_set(e, rc,
                "%s was %s while the broker listened there, and cannot be bound "
                "again: %.400s",
                path_of(one), how, why.msg);
        }
        log_warn(
            "event=listening_again endpoint=%s reason=\"its socket was %s\"", one->endpoint, how);
    }
    return 0;
}

void listen_end(struct listeners *l)
{
    struct stat s;
    for (; l->n > 0; l->n--)
        if (has_file(&l->all[l->n - 1], &s) == 1)
            unlink(path_of(&l->all[l->n - 1]));
}
