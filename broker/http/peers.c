/* peers.c - see peers.h. */
#include "broker/http/peers.h"

#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/socket.h>

#include "schema/alloc.h"
#include "schema/clock.h"

enum peer_state { PEER_IDLE, PEER_BODY, PEER_WAITS, PEER_ENDED };

struct peer {
    struct peer *next, **at;
    int fd;
    enum peer_state state;
    long long until_ms;
    struct ticket *ticket;
};

struct peers {
    pthread_mutex_t lock;
    struct peer *first;
};

struct peers *peers_new(void)
{
    struct peers *peers = xcalloc(1, sizeof *peers);
    pthread_mutex_init(&peers->lock, NULL);
    return peers;
}

void peers_free(struct peers **peers)
{
    if (!*peers)
        return;
    pthread_mutex_destroy(&(*peers)->lock);
    free(*peers);
    *peers = NULL;
}

struct peer *peers_add(struct peers *peers, int fd)
{
    struct peer *p = xcalloc(1, sizeof *p);
    p->fd = fd;
    p->until_ms = now_mono_ms() + PEERS_IDLE_MS;
    pthread_mutex_lock(&peers->lock);
    p->next = peers->first;
    p->at = &peers->first;
    if (p->next)
        p->next->at = &p->next;
    peers->first = p;
    pthread_mutex_unlock(&peers->lock);
    return p;
}

void peers_remove(struct peers *peers, struct peer **peer)
{
    struct peer *p = *peer;
    *peer = NULL;
    pthread_mutex_lock(&peers->lock);
    *p->at = p->next;
    if (p->next)
        p->next->at = p->at;
    pthread_mutex_unlock(&peers->lock);
    free(p);
}

static void set(struct peers *peers, struct peer *p, enum peer_state state, long long until_ms,
    struct ticket *t)
{
    pthread_mutex_lock(&peers->lock);
    if (p->state != PEER_ENDED) {
        p->state = state;
        p->until_ms = until_ms;
    }
    p->ticket = t;
    pthread_mutex_unlock(&peers->lock);
}

void peer_is_idle(struct peers *peers, struct peer *p)
{
    set(peers, p, PEER_IDLE, now_mono_ms() + PEERS_IDLE_MS, NULL);
}

void peer_sends_body(struct peers *peers, struct peer *p)
{
    set(peers, p, PEER_BODY, now_mono_ms() + PEERS_BODY_MS, NULL);
}

void peer_waits(struct peers *peers, struct peer *p, struct ticket *t)
{
    set(peers, p, PEER_WAITS, FOREVER, t);
}

void peer_has_sent(struct peers *peers, struct peer *p, size_t n_bytes)
{
    pthread_mutex_lock(&peers->lock);
    p->until_ms += (long long)(n_bytes * 1000 / PEERS_BODY_RATE);
    pthread_mutex_unlock(&peers->lock);
}

static int has_left(int fd)
{
    struct pollfd item = {.fd = fd, .events = POLLRDHUP};
    return poll(&item, 1, 0) > 0 && (item.revents & (POLLRDHUP | POLLHUP | POLLERR));
}

/* Are there bytes that the server has not read yet? Then it is the slow one. */
static int has_unread(int fd)
{
    struct pollfd item = {.fd = fd, .events = POLLIN};
    return poll(&item, 1, 0) > 0 && (item.revents & POLLIN) && !has_left(fd);
}

void peers_tick(struct peers *peers, struct link *link)
{
    long long now_ms = now_mono_ms();
    pthread_mutex_lock(&peers->lock);
    for (struct peer *p = peers->first; p; p = p->next) {
        if (p->state == PEER_WAITS && p->ticket && has_left(p->fd)) {
            link_abandon(link, p->ticket);
            p->ticket = NULL;
        } else if (p->state != PEER_ENDED && p->until_ms < now_ms &&
                   !(p->state == PEER_BODY && has_unread(p->fd))) {
            shutdown(p->fd, SHUT_RDWR);
            p->state = PEER_ENDED;
        }
    }
    pthread_mutex_unlock(&peers->lock);
}
