/* connections.c - counts clients and their bytes in functions that libzmq calls in place of the
 * C library's (connections.h). */
#include "broker/api/connections.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include "broker/api/room.h"

enum { CERTAIN_MS = 1000 };

static struct {
    char paths[CONNECTIONS_MAX_PATHS][sizeof((struct sockaddr_un *)0)->sun_path];
    int are_subscribers[CONNECTIONS_MAX_PATHS];
    int n_paths;
} expected;

static struct connections watched = {
    .first_paused = NOBODY, .last_paused = NOBODY, .lock = PTHREAD_MUTEX_INITIALIZER};

void connections_limit_messages(uint64_t max_bytes)
{
    watched.max_bytes = max_bytes;
}

static void expect(const char *path, int are_subscribers)
{
    if (expected.n_paths == CONNECTIONS_MAX_PATHS)
        return;
    expected.are_subscribers[expected.n_paths] = are_subscribers;
    snprintf(expected.paths[expected.n_paths++], sizeof expected.paths[0], "%s", path);
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
    socklen_t len = sizeof address - 1; /* a path that fills it has no terminator */
    if (getsockname(listener, &address.any, &len) != 0)
        return OTHER;
    if (address.any.sa_family != AF_UNIX)
        return address.any.sa_family == AF_INET || address.any.sa_family == AF_INET6 ? CLIENT
                                                                                     : OTHER;
    for (int i = 0; i < expected.n_paths; i++)
        if (strcmp(expected.paths[i], address.un.sun_path) == 0)
            return expected.are_subscribers[i] ? SUBSCRIBER : CLIENT;
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

static void forget_replies(struct connection *c)
{
    watched.unread -= c->unread;
    c->unread = 0;
}

/* libzmq sees a connection that has broken. */
static void end(int fd)
{
    watched.all[fd].is_ended = 1;
    room_unpause(&watched, fd);
    forget_replies(&watched.all[fd]);
    shutdown(fd, SHUT_RDWR);
    atomic_fetch_add(&watched.ended, 1);
}

/* ---- connections begin and end ---- */

static void end_connection(int fd)
{
    pthread_mutex_lock(&watched.lock);
    struct connection *c = find(fd);
    if (c) {
        room_unpause(&watched, fd);
        if (c->has_left) /* libzmq removes it itself */
            syscall(SYS_epoll_ctl, c->epoll, EPOLL_CTL_ADD, fd, &c->event);
        forget_topics(c);
        room_forget_promise(&watched, c);
        forget_replies(c);
        c->is_there = 0;
        room_go_on(&watched);
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

/* Returns 0, or -1 when there is no memory. */
static int begin_connection(int fd, enum kind kind)
{
    end_connection(fd); /* epoll_ctl has ended it already */
    if (kind == OTHER)
        return 0;
    pthread_mutex_lock(&watched.lock);
    int rc = fd < watched.room ? 0 : make_room(fd);
    if (rc == 0)
        watched.all[fd] = (struct connection){.number = ++watched.last_number,
            .is_there = 1,
            .epoll = NOBODY,
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

/* ---- calls from the broker's thread ---- */

static struct connection *find_living(uint64_t connection)
{
    struct connection *c = find((int)(connection & INT_MAX));
    return c && c->number == connection >> 32 && !c->is_ended ? c : NULL;
}

int connections_is_there(uint64_t connection)
{
    pthread_mutex_lock(&watched.lock);
    const struct connection *c = find_living(connection);
    int is_there = c && !c->has_left;
    pthread_mutex_unlock(&watched.lock);
    return is_there;
}

int connections_is_over(uint64_t connection)
{
    pthread_mutex_lock(&watched.lock);
    const struct connection *c = find((int)(connection & INT_MAX));
    int is_over = c && c->number == connection >> 32 && (c->is_ended || c->has_left);
    pthread_mutex_unlock(&watched.lock);
    return is_over;
}

static void end_who_reads_least(void)
{
    int most = 0;
    for (int fd = 1; fd < watched.room; fd++)
        if (watched.all[fd].unread > watched.all[most].unread)
            most = fd;
    end(most);
}

void connections_replied(uint64_t connection, size_t bytes)
{
    pthread_mutex_lock(&watched.lock);
    struct connection *c = find_living(connection);
    if (c) {
        c->unread += bytes;
        watched.unread += bytes;
        if (watched.unread > CONNECTIONS_UNREAD * watched.max_bytes)
            end_who_reads_least();
    }
    pthread_mutex_unlock(&watched.lock);
}

void connections_reply_gone(uint64_t connection, size_t bytes)
{
    pthread_mutex_lock(&watched.lock);
    struct connection *c = find_living(connection);
    if (c) {
        c->unread -= bytes;
        watched.unread -= bytes;
    }
    pthread_mutex_unlock(&watched.lock);
}

void connections_taken(size_t bytes)
{
    uint64_t all = bytes + FRAMES_EACH_BYTES;
    pthread_mutex_lock(&watched.lock);
    watched.ready -= all < watched.ready ? all : watched.ready;
    pthread_mutex_unlock(&watched.lock);
}

void connections_keep(size_t bytes)
{
    pthread_mutex_lock(&watched.lock);
    watched.kept += bytes;
    pthread_mutex_unlock(&watched.lock);
}

void connections_let_go(size_t bytes)
{
    pthread_mutex_lock(&watched.lock);
    watched.kept -= bytes;
    pthread_mutex_unlock(&watched.lock);
}

/* The bytes on their way to the broker vary; the least over a while belong to messages that never
 * arrive. */
void connections_none_left(long long now_ms)
{
    pthread_mutex_lock(&watched.lock);
    if (watched.ready < watched.least_ready)
        watched.least_ready = watched.ready;
    if (now_ms >= watched.least_since_ms + CERTAIN_MS) {
        watched.ready -= watched.least_ready;
        watched.least_ready = watched.ready;
        watched.least_since_ms = now_ms;
    }
    pthread_mutex_unlock(&watched.lock);
}

void connections_go_on(void)
{
    pthread_mutex_lock(&watched.lock);
    room_go_on(&watched);
    pthread_mutex_unlock(&watched.lock);
}

void connections_end_slow(long long now_ms)
{
    pthread_mutex_lock(&watched.lock);
    for (int fd = 0; watched.first_paused != NOBODY && fd < watched.room; fd++) {
        struct connection *c = find(fd);
        int there = 0;
        if (c && c->promised > 0 && !c->is_ended && now_ms > c->since_ms + CONNECTIONS_SLOW_MS &&
            ioctl(fd, FIONREAD, &there) == 0 && there == 0)
            end(fd);
    }
    pthread_mutex_unlock(&watched.lock);
}

uint64_t connections_received(void)
{
    pthread_mutex_lock(&watched.lock);
    uint64_t n = watched.ready + watched.kept + watched.promised;
    pthread_mutex_unlock(&watched.lock);
    return n;
}

/* ---- in place of the C library's functions, for libzmq too ---- */

int accept4(int listener, struct sockaddr *address, socklen_t *len, int flags)
{
    int fd = (int)syscall(SYS_accept4, listener, address, len, flags);
    if (fd < 0)
        return fd;
    enum kind kind = kind_of(listener); /* a rank may use the spare descriptors */
    if ((kind == OTHER || fd < connections_end()) && begin_connection(fd, kind) == 0)
        return fd;
    close(fd);
    errno = ECONNABORTED; /* as if the client had left */
    return -1;
}

int accept(int listener, struct sockaddr *address, socklen_t *len)
{
    return accept4(listener, address, len, 0);
}

/* While a connection is out of libzmq's epoll, the event is only remembered. */
int epoll_ctl(int epoll, int operation, int fd, struct epoll_event *event)
{
    if (operation == EPOLL_CTL_DEL)
        end_connection(fd);
    pthread_mutex_lock(&watched.lock);
    struct connection *c = find(fd);
    if (c) {
        c->epoll = epoll;
        c->event = *event;
    }
    if (c && c->has_left && event->events & EPOLLIN) {
        c->has_left = 0;
        operation = EPOLL_CTL_ADD;
    }
    int is_out = c && (c->is_paused || c->has_left);
    int rc = is_out ? 0 : (int)syscall(SYS_epoll_ctl, epoll, operation, fd, event);
    pthread_mutex_unlock(&watched.lock);
    return rc;
}

static int find_by_event(int epoll, const struct epoll_event *event)
{
    for (int fd = 0; fd < watched.room; fd++) {
        const struct connection *c = find(fd);
        if (c && c->epoll == epoll && c->event.data.u64 == event->data.u64)
            return fd;
    }
    return NOBODY;
}

/* A connection has broken. Returns 1 when libzmq is to see that now, as input to read. */
static int tell_of_end(int epoll, struct epoll_event *event)
{
    int hears = 1, fd = NOBODY;
    pthread_mutex_lock(&watched.lock);
    if (!(event->events & EPOLLIN))
        fd = find_by_event(epoll, event);
    struct connection *c = fd == NOBODY ? NULL : &watched.all[fd];
    if (c && !(c->event.events & EPOLLIN)) {
        c->has_left = 1;
        hears = 0;
        syscall(SYS_epoll_ctl, epoll, EPOLL_CTL_DEL, fd, event);
    } else if (c || event->events & EPOLLIN) {
        event->events = (event->events & EPOLLOUT) | EPOLLIN;
    }
    pthread_mutex_unlock(&watched.lock);
    return hears;
}

int epoll_wait(int epoll, struct epoll_event *events, int room, int timeout_ms)
{
    int n = (int)syscall(SYS_epoll_pwait, epoll, events, room, timeout_ms, NULL, 0), kept = 0;
    for (int i = 0; i < n; i++)
        if (!(events[i].events & (EPOLLERR | EPOLLHUP)) || tell_of_end(epoll, &events[i]))
            events[kept++] = events[i];
    return n < 0 ? n : kept;
}

/* Spares subscribers with few topics: only the largest ends. */
static void end_largest_subscriber(void)
{
    int largest = -1;
    for (int fd = 0; fd < watched.room; fd++)
        if (watched.all[fd].frames.is_subscriber && find(fd) &&
            (largest < 0 || watched.all[fd].frames.held > watched.all[largest].frames.held))
            largest = fd;
    if (largest >= 0) {
        forget_topics(&watched.all[largest]);
        end(largest);
    }
}

static void count(struct connection *c, const struct frames *before)
{
    if (c->frames.is_subscriber)
        watched.subscribed += c->frames.held - before->held;
    if (c->frames.done == before->done)
        return;
    watched.ready += c->frames.done - before->done;
    room_forget_promise(&watched, c);
}

/* Returns how many of n received bytes libzmq may see, or -1: the connection is to end. */
static ssize_t pass(int fd, uint8_t *bytes, size_t n)
{
    struct connection *c = &watched.all[fd];
    struct frames before = c->frames;
    ssize_t kept = frames_pass(&c->frames, bytes, n, watched.max_bytes);
    pthread_mutex_lock(&watched.lock);
    count(c, &before);
    if (kept < 0)
        end(fd);
    else if (watched.subscribed > CONNECTIONS_SUBSCRIPTION_BYTES)
        end_largest_subscriber();
    if (c->is_ended)
        kept = -1;
    pthread_mutex_unlock(&watched.lock);
    return kept;
}

/* Is there room for what comes next? If not, pauses the connection. */
static int may_read(int fd, struct connection *c)
{
    if (c->frames.is_subscriber)
        return 1;
    pthread_mutex_lock(&watched.lock);
    int is_let_in = c->promised > 0 && room_wanted(c) == 0;
    int is_behind = room_is_large(c) && watched.first_paused != NOBODY;
    int goes_on = !c->is_paused && (c->epoll == NOBODY || c->is_ended || is_let_in ||
                                       (room_has(&watched, c) && !is_behind));
    if (goes_on)
        room_let_in(&watched, c);
    else if (!c->is_paused)
        room_pause(&watched, fd, c);
    pthread_mutex_unlock(&watched.lock);
    return goes_on;
}

static ssize_t fail(int error)
{
    errno = error;
    return -1;
}

ssize_t recv(int fd, void *bytes, size_t size, int flags)
{
    for (;;) {
        struct connection *c = find(fd);
        if (c && !may_read(fd, c))
            return fail(EAGAIN);
        ssize_t n = syscall(SYS_recvfrom, fd, bytes, size, flags, NULL, NULL);
        if (n <= 0 || !c)
            return n;
        n = pass(fd, bytes, (size_t)n);
        if (n != 0)
            return n < 0 ? fail(ECONNRESET) : n;
    } /* libzmq may see none of it: read more */
}
