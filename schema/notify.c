/* notify.c - see notify.h. */
#include "schema/notify.h"

#include <limits.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

/* A path, or an abstract name, which begins with '@'. Returns the address's length, or 0. */
static socklen_t address_of(struct sockaddr_un *a, const char *path)
{
    size_t n = strlen(path);
    *a = (struct sockaddr_un){.sun_family = AF_UNIX};
    if ((*path != '/' && *path != '@') || n >= sizeof a->sun_path)
        return 0;
    memcpy(a->sun_path, path, n);
    if (*path == '@')
        a->sun_path[0] = '\0';
    return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + n);
}

void notify_open(struct notify *n, const char *path, const char *watchdog_us, const char *pid)
{
    struct sockaddr_un address;
    socklen_t len = path ? address_of(&address, path) : 0;
    *n = (struct notify){0};
    if (len == 0)
        return;
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd > 0 && connect(fd, (struct sockaddr *)&address, len) == 0)
        n->fd = fd;
    else if (fd >= 0)
        close(fd);
    if (n->fd == 0)
        return;
    long long us = watchdog_us ? atoll(watchdog_us) : 0;
    if (us > 0 && (!pid || atoll(pid) == (long long)getpid()))
        n->period_ms = us / 3000 > 0 ? us / 3000 : 1; /* one may be late */
}

void notify_send(const struct notify *n, const char *lines)
{
    if (n->fd > 0 && send(n->fd, lines, strlen(lines), MSG_NOSIGNAL) < 0)
        return;
}

long long notify_alive(struct notify *n, long long now_ms)
{
    if (n->period_ms == 0)
        return LLONG_MAX;
    if (now_ms >= n->due_ms) {
        notify_send(n, "WATCHDOG=1");
        n->due_ms = now_ms + n->period_ms;
    }
    return n->due_ms;
}

void notify_close(struct notify *n)
{
    if (n->fd > 0)
        close(n->fd);
    n->fd = 0;
}
