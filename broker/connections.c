/* connections.c - see connections.h. */
#include "broker/connections.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include "broker/frames.h"

struct connection {
    int is_watched;
    struct frames frames;
};

static struct {
    char paths[CONNECTIONS_MAX_PATHS][sizeof((struct sockaddr_un *)0)->sun_path];
    int are_subscribers[CONNECTIONS_MAX_PATHS];
    int n_paths;
    uint64_t max_bytes;
    struct connection *all; /* by descriptor */
    int room;
    atomic_uint ended;
} watched;

void connections_limit_messages(uint64_t max_bytes)
{
    watched.max_bytes = max_bytes;
}

static void expect(const char *path, int are_subscribers)
{
    if (watched.n_paths == CONNECTIONS_MAX_PATHS)
        return;
    watched.are_subscribers[watched.n_paths] = are_subscribers;
    snprintf(watched.paths[watched.n_paths++], sizeof watched.paths[0], "%s", path);
}

void connections_expect_clients(const char *path)
{
    expect(path, 0);
}

void connections_expect_subscribers(const char *path)
{
    expect(path, 1);
}

unsigned connections_ended(void)
{
    return atomic_load(&watched.ended);
}

int connections_end(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur > INT_MAX)
        return INT_MAX;
    return limit.rlim_cur > 2 * CONNECTIONS_SPARE ? (int)limit.rlim_cur - CONNECTIONS_SPARE
                                                  : (int)limit.rlim_cur / 2;
}

int connections_are_full(void)
{
    int fd = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 0);
    if (fd >= 0)
        close(fd);
    return fd < 0 ? errno == EMFILE : fd >= connections_end();
}

enum kind { OTHER, CLIENT, SUBSCRIBER };

static enum kind kind_of(int listener)
{
    union {
        struct sockaddr any;
        struct sockaddr_un un;
    } address = {.un = {.sun_family = AF_UNSPEC}};
    socklen_t len = sizeof address - 1; /* a path that fills it has no end of its own */
    if (getsockname(listener, &address.any, &len) != 0)
        return OTHER;
    if (address.any.sa_family != AF_UNIX)
        return address.any.sa_family == AF_INET || address.any.sa_family == AF_INET6 ? CLIENT
                                                                                     : OTHER;
    for (int i = 0; i < watched.n_paths; i++)
        if (strcmp(watched.paths[i], address.un.sun_path) == 0)
            return watched.are_subscribers[i] ? SUBSCRIBER : CLIENT;
    return OTHER;
}

/* 0, or -1 when there is no memory. */
static int begin_connection(int fd, enum kind kind)
{
    if (fd >= watched.room && kind != OTHER) {
        int room = fd < 1024 ? 1024 : 2 * fd;
        struct connection *all = realloc(watched.all, (size_t)room * sizeof *all);
        if (!all)
            return -1;
        memset(all + watched.room, 0, (size_t)(room - watched.room) * sizeof *all);
        watched.all = all;
        watched.room = room;
    }
    if (fd < watched.room)
        watched.all[fd] = (struct connection){
            .is_watched = kind != OTHER, .frames.is_subscriber = kind == SUBSCRIBER};
    return 0;
}

/* In place of the C library's, for libzmq too. */
int accept4(int listener, struct sockaddr *address, socklen_t *len, int flags)
{
    int fd = (int)syscall(SYS_accept4, listener, address, len, flags);
    if (fd < 0)
        return fd;
    enum kind kind = kind_of(listener); /* a rank's may have what is spared */
    if ((kind == OTHER || fd < connections_end()) && begin_connection(fd, kind) == 0)
        return fd;
    close(fd);
    errno = ECONNABORTED; /* as of a client that has gone again */
    return -1;
}

int accept(int listener, struct sockaddr *address, socklen_t *len)
{
    return accept4(listener, address, len, 0);
}

ssize_t recv(int fd, void *bytes, size_t size, int flags)
{
    for (;;) {
        ssize_t n = syscall(SYS_recvfrom, fd, bytes, size, flags, NULL, NULL);
        if (n <= 0 || fd >= watched.room || !watched.all[fd].is_watched)
            return n;
        n = frames_pass(&watched.all[fd].frames, bytes, (size_t)n, watched.max_bytes);
        if (n > 0)
            return n;
        if (n < 0) {
            atomic_fetch_add(&watched.ended, 1);
            errno = ECONNRESET;
            return -1;
        }
    } /* all of it was taken away: is there more? */
}
