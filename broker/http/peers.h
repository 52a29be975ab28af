/* peers.h - the connections that are open: which of them dawdle, and which have left.
 *
 * libmicrohttpd does not look at a connection that waits for scores, and its own time limit starts
 * anew with every byte. So each tick looks at all of them. */
#ifndef ASSAY_HTTP_PEERS_H
#define ASSAY_HTTP_PEERS_H

#include "broker/http/link.h"

#define PEERS_IDLE_MS 75000   /* from one reply to the next request's whole head */
#define PEERS_BODY_MS 10000   /* of a body, and as long as PEERS_BODY_RATE takes */
#define PEERS_BODY_RATE 65536 /* bytes a second that are fast enough */

struct peers;
struct peer;

struct peers *peers_new(void);
void peers_free(struct peers **peers);

struct peer *peers_add(struct peers *peers, int fd);
/* Before its socket is closed. */
void peers_remove(struct peers *peers, struct peer **peer);

/* What the peer does from now on. */
void peer_is_idle(struct peers *peers, struct peer *peer);
void peer_sends_body(struct peers *peers, struct peer *peer);
void peer_waits(struct peers *peers, struct peer *peer, struct ticket *t);
/* n_bytes more of its body have come. */
void peer_has_sent(struct peers *peers, struct peer *peer, size_t n_bytes);

/* Ends connections that dawdle, and abandons the tickets of those that have left. */
void peers_tick(struct peers *peers, struct link *link);

#endif
