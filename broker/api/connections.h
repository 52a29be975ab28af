/* connections.h - how many clients may be connected, and what each may send.
 *
 * As many as there are descriptors, less some.
 * libzmq 4.3 ends the process when accept() finds no free descriptor. So this program has an accept() of its
 * own, which libzmq calls: it closes a connection whose descriptor is among the last CONNECTIONS_SPARE that
 * the process may have. Its client's libzmq tries again by itself until there is room, and the broker can still
 * open files and start workers. Numbers of descriptors are given from the lowest, so the number tells how many
 * there are.
 *
 * In the same way it has a recv(): what comes over a client's connection goes through frames.h before libzmq sees it. One
 * that sends what is refused there is ended, as if it had broken. And an epoll_ctl(), which tells when libzmq is done with
 * a connection, and an epoll_wait(): when a client leaves while libzmq wants nothing more of it (its messages are at the
 * high water mark), libzmq hears of that once it wants to read again. libzmq 4.3 would mistake it for something to read,
 * give the descriptor up, and end the process at the connection's next heartbeat. libzmq's thread alone (a context of the default single one) accepts and receives; the broker's asks. These
 * functions are the C library's, and what they keep has no other place than static memory.
 *
 * WHAT HAS COME AND IS NOT TAKEN. libzmq keeps a number of messages for each connection, of any size. Here the bytes of
 * all are bounded: those of messages that are there whole until the broker takes them, and those that a message has
 * promised (a frame begins with its length) until it is there whole. Where there is no room for a message, its
 * connection is paused: it is taken out of libzmq's epoll for a while (epoll_ctl again), so its client waits, in the order
 * in which they came. Large messages leave some room to small ones. A message that was let in has all its room, so it can come
 * whole, unless its client stops: while others wait, it is given CONNECTIONS_SLOW_MS, then its connection is ended.
 * LIMITS: libzmq reads 8 kB before it knows how long a message is; so much more each connection may take. */
#ifndef ASSAY_CONNECTIONS_H
#define ASSAY_CONNECTIONS_H

#include <stddef.h>
#include <stdint.h>

#define CONNECTIONS_SPARE 64
#define CONNECTIONS_MAX_PATHS 16
#define CONNECTIONS_MESSAGES 4             /* of the largest size, that there is room for */
#define CONNECTIONS_SMALL_BYTES (16 << 20) /* for small ones beside them */
#define CONNECTIONS_UNREAD 8
#define CONNECTIONS_SLOW_MS 5000
/* Of topics in all, which libzmq keeps at some 30 bytes for each. Beyond, the connection that has the most is ended. */
#define CONNECTIONS_SUBSCRIPTION_BYTES (8 << 20)

/* Before anything is bound: what a message of a client may take, over all of its frames. */
void connections_limit_messages(uint64_t max_bytes);
/* Clients will come to this socket file; connections to others (workers') are left alone. Those over tcp are always
 * clients'. */
void connections_expect_clients(const char *path);
/* The same of those who hear events. */
void connections_expect_subscribers(const char *path);
/* The connection that has this descriptor, or had it last: never the same number again. 0: no client's. */
uint64_t connections_of(int fd);
/* Is it there yet, and not ended? Nobody hears a reply to one that has gone. */
int connections_is_there(uint64_t connection);
/* Libzmq has it still, and would keep what is sent to it, but nobody will read that. */
int connections_is_over(uint64_t connection);
/* How many connections were ended for what they sent, so far. */
unsigned connections_ended(void);

/* A reply to that connection took so many bytes; and libzmq has let go of it, sent or not. Beyond CONNECTIONS_UNREAD
 * messages of the largest size in all, the connection that has the most is ended: its client does not read. */
void connections_replied(uint64_t connection, size_t bytes);
void connections_reply_gone(uint64_t connection, size_t bytes);
/* The broker took a frame of that many bytes. */
void connections_taken(size_t bytes);
/* There is no message left to take. What was counted a while ago and did not come never will: libzmq refused it. */
void connections_none_left(long long now_ms);
/* Lets those go on for which there is room now. */
void connections_go_on(void);
/* Ends those that keep others waiting; once in a while. */
void connections_end_slow(long long now_ms);
/* Bytes that have come or are promised, and are not taken. */
uint64_t connections_received(void);

/* Descriptors from this number on are not for connections. */
int connections_end(void);
/* Are connections refused now? */
int connections_are_full(void);

#endif
