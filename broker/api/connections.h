/* connections.h - limits how many clients may be connected and how much each may send.
 *
 * This program has its own accept(), recv(), epoll_ctl() and epoll_wait(), which libzmq calls in
 * place of the C library's. Only libzmq's I/O thread (the context has one, the default) accepts and
 * receives; the broker's thread calls the functions below. The state is static because the C
 * library's functions take no context.
 *
 * NUMBER. libzmq 4.3 ends the process when accept() finds no free descriptor. Our accept() closes a
 * connection whose descriptor is among the last CONNECTIONS_SPARE that the process may have. The
 * client's libzmq retries until there is room, and the broker can still open files and start
 * workers. The kernel gives out the lowest free descriptor, so its number shows how many are open.
 *
 * CONTENT. recv() passes a client's bytes through frames.h before libzmq sees them. If frames.h
 * refuses them, the connection ends as if it had broken. epoll_ctl() shows when libzmq is done with
 * a connection.
 *
 * CLIENTS THAT LEAVE. When a client leaves while libzmq does not read from it (its messages are at
 * the high water mark), epoll_wait() hides that until libzmq wants to read again. libzmq 4.3 would
 * take the event for input, give the descriptor up, and end the process at the connection's next
 * heartbeat.
 *
 * MEMORY. libzmq keeps a number of messages for each connection, of any size. Here the bytes over
 * all connections are bounded: complete messages count until the broker has handled them,
 * incomplete ones with what they have promised (a frame begins with its length). A connection whose
 * message has no room is paused: epoll_ctl removes it from libzmq's epoll for a while, so its
 * client waits, first come, first served. Large messages leave some room for small ones. A message
 * that was let in has all its room, so only its client can keep it from completing: while others
 * wait, a client that stops gets CONNECTIONS_SLOW_MS, then its connection ends.
 * LIMITS: libzmq reads 8 kB before it knows how long a message is; each connection may take that
 * much more. */
#ifndef ASSAY_CONNECTIONS_H
#define ASSAY_CONNECTIONS_H

#include <stddef.h>
#include <stdint.h>

#define CONNECTIONS_SPARE 64
#define CONNECTIONS_MAX_PATHS 16
#define CONNECTIONS_MESSAGES 4             /* room for so many messages of the largest size */
#define CONNECTIONS_SMALL_BYTES (16 << 20) /* room for small messages beside them */
#define CONNECTIONS_UNREAD 8
#define CONNECTIONS_SLOW_MS 5000
/* Topics of all subscribers. libzmq keeps some 30 bytes for each byte of them. Beyond this the
 * connection with the most topics ends. */
#define CONNECTIONS_SUBSCRIPTION_BYTES (8 << 20)

/* Sets the bytes that one message of a client may take, over all its frames. Call it before
 * anything is bound. */
void connections_limit_messages(uint64_t max_bytes);
/* Says that clients connect to this socket file. Connections to other files (the workers') are left
 * alone; tcp connections are always clients'. */
void connections_expect_clients(const char *path);
/* The same for subscribers to events. */
void connections_expect_subscribers(const char *path);
/* Returns a number for the connection that has this descriptor, or had it last; numbers are never
 * used again. 0: it was never a client's. */
uint64_t connections_of(int fd);
/* Is the connection still there and not ended? Otherwise nobody hears a reply to it. */
int connections_is_there(uint64_t connection);
/* Does libzmq still have the connection, and keep what is sent to it, although nobody reads it? */
int connections_is_over(uint64_t connection);
/* How many connections this program has ended so far; refused ones do not count. */
unsigned connections_ended(void);

/* connections_replied counts a reply of `bytes` to that connection; connections_reply_gone takes it
 * off when libzmq lets go of it, sent or not. When unread replies exceed CONNECTIONS_UNREAD
 * messages of the largest size, the connection with the most ends: its client does not read. */
void connections_replied(uint64_t connection, size_t bytes);
void connections_reply_gone(uint64_t connection, size_t bytes);
/* Says that the broker took a frame of `bytes`. */
void connections_taken(size_t bytes);
/* Says that the broker puts aside what needs this memory, and then that it lets it go. Meanwhile it
 * has its room, as messages do that were not taken. */
void connections_keep(size_t bytes);
void connections_let_go(size_t bytes);
/* Says that no message is left to take. What was counted a while ago and did not arrive never will:
 * libzmq refused it. */
void connections_none_left(long long now_ms);
/* Resumes the paused connections that have room now. */
void connections_go_on(void);
/* Ends the connections that keep others waiting. Call it once in a while. */
void connections_end_slow(long long now_ms);
/* Bytes that were received or promised and that the broker has not taken, or has put aside. */
uint64_t connections_received(void);

/* Connections get descriptors below this number only. */
int connections_end(void);
/* Are new connections refused now? */
int connections_are_full(void);

#endif
