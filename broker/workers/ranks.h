/* ranks.h - the processes of a group's incarnation, one a rank, and the socket over which they and the
 * group speak: started, spoken to, killed and reaped together. What they say, and what follows from it,
 * is group.c's. */
#ifndef ASSAY_RANKS_H
#define ASSAY_RANKS_H

#include <zmq.h>

#include "broker/workers/group.h"
#include "broker/workers/spawn.h"
#include "schema/control.h"
#include "schema/endpoint.h"
#include "schema/msg.h"
#include "shm/stage.h"

struct ranks {
    const struct group_options *options; /* borrowed */
    uint64_t incarnation;
    void *socket; /* ROUTER; NULL: no ranks */
    char socket_path[ENDPOINT_BYTES];
    int dir_fd;           /* of run_dir, where its path is too long for a socket; -1 */
    int comm_fd, pipe_fd; /* the segment that they sum in; that ends when this process does */
    struct child children[GROUP_MAX_RANKS];
    long long stopped_ms
        [GROUP_MAX_RANKS]; /* since when it is stopped by a signal, as far as was seen; 0 */
    struct msg_writer writer;
};

/* No ranks yet. `options` must outlive r. */
void ranks_init(struct ranks *r, const struct group_options *options);
/* Starts a new incarnation. When it fails, what was started is there to be ended. */
int ranks_start(struct ranks *r, uint64_t incarnation, const struct stage *stage, struct err *e);
/* Kills and reaps every rank. The first that ended by itself gives *exit_code and *signal, which else
 * stay as they are. */
void ranks_end(struct ranks *r, int *exit_code, int *signal);
void ranks_release(struct ranks *r); /* of ranks that were ended */

/* A rank that cannot be reached is not waited for: its death will be seen. */
void ranks_send(struct ranks *r, uint32_t rank, const struct control *c);
void ranks_send_all(struct ranks *r, const struct control *c);
/* A message that came: 1, its rank, and *body, which the caller closes; 0: none. */
int ranks_receive(struct ranks *r, uint32_t *rank, zmq_msg_t *body);

/* One that has ended by itself, -1: none has. */
int ranks_find_dead(const struct ranks *r);
/* One that a signal has stopped, for stopped_for_ms without a break; -1: none. With `anew`, what was seen
 * before does not count. */
int ranks_find_stopped(struct ranks *r, long long now_ms, long long stopped_for_ms, int anew);
int ranks_all_ended(const struct ranks *r);
/* Descriptors that are readable when there is something to receive, or a rank has ended: how many. */
int ranks_poll_items(const struct ranks *r, zmq_pollitem_t *items, int max);

#endif
