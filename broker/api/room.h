/* room.h - room for the messages of all connections, and those that are paused for lack of it
 * (connections.h, MEMORY).
 *
 * Before its client's bytes are read, a connection either has room for what comes next and is let
 * in, which takes that room, or it is paused: its descriptor leaves libzmq's epoll, and waits in a
 * list for its turn. Call all of this with the lock held. */
#ifndef ASSAY_ROOM_H
#define ASSAY_ROOM_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <sys/epoll.h>

#include "broker/api/frames.h"

enum { NOBODY = -1 }; /* in place of a descriptor */

struct connection {
    uint32_t number; /* 0: never a client's connection */
    int is_there;    /* libzmq has it */
    int is_ended;    /* by this program; it brings nothing more */
    struct frames frames;
    uint64_t promised;  /* bytes of its present message that were let in */
    long long since_ms; /* when its message was let in */
    uint64_t unread;    /* bytes of replies to it */
    int epoll;          /* libzmq's epoll, or NOBODY */
    struct epoll_event event;
    int is_paused, next; /* next: the descriptor paused after it, or NOBODY */
    int has_left;        /* the client left while libzmq did not read; it is out of the epoll */
};

struct connections {
    uint64_t max_bytes;     /* of one message */
    struct connection *all; /* by descriptor */
    int room;               /* how many descriptors `all` is for */
    uint32_t last_number;
    uint64_t subscribed;      /* bytes of all topics */
    uint64_t ready;           /* bytes of complete messages not taken yet */
    uint64_t kept;            /* bytes of messages that the broker has put aside */
    uint64_t promised;        /* bytes of incomplete messages that were let in */
    uint64_t least_ready;     /* the least `ready` while the broker found no message .. */
    long long least_since_ms; /* .. since this time */
    uint64_t unread;          /* bytes of replies on connections that have not ended */
    int first_paused, last_paused;
    atomic_uint ended;
    pthread_mutex_t lock; /* held to change connections, and by other threads to read them */
};

/* Returns how many bytes the present message needs beyond those let in. */
uint64_t room_wanted(const struct connection *c);
/* Is the present message one that waits behind other large ones? */
int room_is_large(const struct connection *c);
int room_has(const struct connections *w, const struct connection *c); /* room for all it wants */
/* Takes the room that the message wants; room_forget_promise gives back what it has. */
void room_let_in(struct connections *w, struct connection *c);
void room_forget_promise(struct connections *w, struct connection *c);

/* Pauses a connection: puts it at the end of the list. fd is its descriptor. */
void room_pause(struct connections *w, int fd, struct connection *c);
/* Ends the pause of this descriptor's connection, if it is paused. */
void room_unpause(struct connections *w, int fd);
/* Lets in the paused connections that have room now, in order. */
void room_go_on(struct connections *w);

#endif
