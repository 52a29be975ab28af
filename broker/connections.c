/* connections.c - see connections.h. */
#include "broker/connections.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include "broker/frames.h"

struct connection {
    uint32_t number; /* 0: never a client's */
    int is_there;    /* libzmq has it */
    int is_ended;    /* by this program: it brings nothing more */
    struct frames frames;
};

static struct {
    char paths[CONNECTIONS_MAX_PATHS][sizeof((struct sockaddr_un *)0)->sun_path];
    int are_subscribers[CONNECTIONS_MAX_PATHS];
    int n_paths;
    uint64_t max_bytes;
    struct connection *all; /* by descriptor */
    int room;
    uint32_t last_number;
    uint64_t subscribed; /* bytes of topics in all */
    atomic_uint ended;
    pthread_mutex_t lock; /* held to change connections, and by other threads to look at them */
} watched = {.lock = PTHREAD_MUTEX_INITIALIZER};

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

static struct connection *find(int fd)
{
    return fd >= 0 && fd < watched.room && watched.all[fd].is_there ? &watched.all[fd] : NULL;
}

static void forget_topics(struct connection *c)
{
    if (c->frames.is_subscriber)
        watched.subscribed -= c->frames.held;
    c->frames.held = 0;
}

static void end_connection(int fd)
{
    pthread_mutex_lock(&watched.lock);
    struct connection *c = find(fd);
    if (c) {
        forget_topics(c);
        c->is_there = 0;
    }
    pthread_mutex_unlock(&watched.lock);
}

static int make_room(int fd)
{
    int room = fd < 1024 ? 1024 : fd < INT_MAX / 2 ? 2 * fd : INT_MAX;
    struct connection *all = realloc(watched.all, (size_t)room * sizeof *all);
    if (!all)
        return -1;
    memset(all + watched.room, 0, (size_t)(room - watched.room) * sizeof *all);
    watched.all = all;
    watched.room = room;
    return 0;
}

/* 0, or -1 when there is no memory. */
static int begin_connection(int fd, enum kind kind)
{
    end_connection(fd); /* libzmq has said so already */
    if (kind == OTHER)
        return 0;
    pthread_mutex_lock(&watched.lock);
    int rc = fd < watched.room ? 0 : make_room(fd);
    if (rc == 0)
        watched.all[fd] = (struct connection){.number = ++watched.last_number,
            .is_there = 1,
            .frames.is_subscriber = kind == SUBSCRIBER};
    pthread_mutex_unlock(&watched.lock);
    return rc;
}

uint64_t connections_of(int fd)
{
    uint64_t number = 0;
    pthread_mutex_lock(&watched.lock);
    if (fd >= 0 && fd < watched.room)
        number = watched.all[fd].number;
    pthread_mutex_unlock(&watched.lock);
    return number ? number << 32 | (uint32_t)fd : 0;
}

int connections_is_there(uint64_t connection)
{
    pthread_mutex_lock(&watched.lock);
    const struct connection *c = find((int)(connection & INT_MAX));
    int is_there = c && c->number == connection >> 32;
    pthread_mutex_unlock(&watched.lock);
    return is_there;
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

int epoll_ctl(int epoll, int operation, int fd, struct epoll_event *event)
{
    if (operation == EPOLL_CTL_DEL)
        end_connection(fd);
    return (int)syscall(SYS_epoll_ctl, epoll, operation, fd, event);
}

/* It hears of that as of a connection that has broken. */
static int end(int fd, struct connection *c)
{
    c->is_ended = 1;
    shutdown(fd, SHUT_RDWR);
    atomic_fetch_add(&watched.ended, 1);
    return -1;
}

/* So that no subscriber with few topics is ended for what others keep here. */
static void end_largest_subscriber(void)
{
    int largest = -1;
    for (int fd = 0; fd < watched.room; fd++)
        if (watched.all[fd].frames.is_subscriber && find(fd) &&
            (largest < 0 || watched.all[fd].frames.held > watched.all[largest].frames.held))
            largest = fd;
    if (largest >= 0) {
        forget_topics(&watched.all[largest]);
        end(largest, &watched.all[largest]);
    }
}

/* What libzmq may see of n bytes that have come; -1: the connection is to end. */
static ssize_t pass(int fd, uint8_t *bytes, size_t n)
{
    struct connection *c = &watched.all[fd];
    uint64_t before = c->frames.held;
    ssize_t kept = frames_pass(&c->frames, bytes, n, watched.max_bytes);
    if (c->frames.is_subscriber)
        watched.subscribed += c->frames.held - before;
    if (kept < 0)
        return end(fd, c);
    if (watched.subscribed > CONNECTIONS_SUBSCRIPTION_BYTES)
        end_largest_subscriber();
    return c->is_ended ? -1 : kept;
}

ssize_t recv(int fd, void *bytes, size_t size, int flags)
{
    for (;;) {
        ssize_t n = syscall(SYS_recvfrom, fd, bytes, size, flags, NULL, NULL);
        struct connection *c = find(fd);
        if (n <= 0 || !c)
            return n;
        n = c->is_ended ? -1 : pass(fd, bytes, (size_t)n);
        if (n > 0)
            return n;
        if (n < 0) {
            errno = ECONNRESET;
            return -1;
        }
    } /* all of it was taken away: is there more? */
}
