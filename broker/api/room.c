/* room.c - counts what was let in, and keeps the list of paused connections (room.h). A large
 * message that waits holds up other large ones, not the small. */
#include "broker/api/room.h"

#include <sys/syscall.h>
#include <unistd.h>

#include "broker/api/connections.h"
#include "schema/clock.h"

enum { SMALL_BYTES = 2 * FRAMES_EACH_BYTES };

uint64_t room_wanted(const struct connection *c)
{
    return c->frames.held > c->promised ? c->frames.held - c->promised : 0;
}

int room_is_large(const struct connection *c)
{
    return c->frames.held > SMALL_BYTES;
}

int room_has(const struct connections *w, const struct connection *c)
{
    uint64_t room = CONNECTIONS_MESSAGES * w->max_bytes;
    if (!room_is_large(c))
        room += CONNECTIONS_SMALL_BYTES;
    return w->ready + w->kept + w->promised + room_wanted(c) <= room;
}

void room_let_in(struct connections *w, struct connection *c)
{
    if (c->promised == 0)
        c->since_ms = now_mono_ms();
    w->promised += room_wanted(c);
    c->promised += room_wanted(c);
}

void room_forget_promise(struct connections *w, struct connection *c)
{
    w->promised -= c->promised;
    c->promised = 0;
}

void room_pause(struct connections *w, int fd, struct connection *c)
{
    c->is_paused = 1;
    c->next = NOBODY;
    if (w->last_paused != NOBODY)
        w->all[w->last_paused].next = fd;
    else
        w->first_paused = fd;
    w->last_paused = fd;
    syscall(SYS_epoll_ctl, c->epoll, EPOLL_CTL_DEL, fd, &c->event);
}

/* before: the descriptor paused before it, or NOBODY. */
static void unpause(struct connections *w, int fd, int before)
{
    struct connection *c = &w->all[fd];
    if (before != NOBODY)
        w->all[before].next = c->next;
    else
        w->first_paused = c->next;
    if (w->last_paused == fd)
        w->last_paused = before;
    c->is_paused = 0;
    syscall(SYS_epoll_ctl, c->epoll, EPOLL_CTL_ADD, fd, &c->event);
}

void room_unpause(struct connections *w, int fd)
{
    int before = NOBODY, at = w->all[fd].is_paused ? w->first_paused : NOBODY;
    for (; at != NOBODY && at != fd; at = w->all[at].next)
        before = at;
    if (at != NOBODY)
        unpause(w, fd, before);
}

void room_go_on(struct connections *w)
{
    int large_waits = 0;
    for (int fd = w->first_paused, before = NOBODY, next; fd != NOBODY; fd = next) {
        struct connection *c = &w->all[fd];
        next = c->next;
        if (room_has(w, c) && !(large_waits && room_is_large(c))) {
            unpause(w, fd, before);
            room_let_in(w, c);
        } else {
            large_waits |= room_is_large(c);
            before = fd;
        }
    }
}
