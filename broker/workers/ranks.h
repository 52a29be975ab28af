/* ranks.h - the processes of a group's incarnation, one a rank, and their control socket. They are
 * started, messaged, killed and reaped together. group.c decides what messages mean. */
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
    int dir_fd; /* descriptor of run_dir, if its path is too long for a socket; else -1 */
    int comm_fds[GROUP_MAX_RANKS]; /* for each pipeline stage, the segment in which its ranks sum */
    int pipeline_fd; /* through which stages hand over what they computed; -1: there is one stage */
    int pipe_fd;     /* closes when this process ends */
    struct child children[GROUP_MAX_RANKS];
    long long stopped_ms
        [GROUP_MAX_RANKS]; /* when a signal was seen to stop each rank; 0: it is not stopped */
    struct msg_writer writer;
};

/* No ranks yet. `options` must outlive r. */
void ranks_init(struct ranks *r, const struct group_options *options);
/* Starts a new incarnation. After a failure, call ranks_end: some ranks may have started. */
int ranks_start(struct ranks *r, uint64_t incarnation, const struct stage *stage, struct err *e);
/* Kills and reaps every rank. *exit_code and *signal are those of the first rank that ended by
 * itself; if none did, they are unchanged. */
void ranks_end(struct ranks *r, int *exit_code, int *signal);
void ranks_release(struct ranks *r); /* call ranks_end first */

/* Sends without waiting. A rank that cannot be reached misses the message: its death will be
 * noticed. */
void ranks_send(struct ranks *r, uint32_t rank, const struct control *c);
void ranks_send_all(struct ranks *r, const struct control *c);
void ranks_send_stage(struct ranks *r, uint32_t stage, const struct control *c); /* to its ranks */
/* Receives one message: 1, its rank, and *body, which the caller closes; 0: none. */
int ranks_receive(struct ranks *r, uint32_t *rank, zmq_msg_t *body);

/* Returns a rank that has ended by itself; -1: none. */
int ranks_find_dead(const struct ranks *r);
/* Returns a rank that a signal has stopped for stopped_for_ms without a break; -1: none. `anew`
 * restarts the clock of ranks that were seen stopped before. */
int ranks_find_stopped(struct ranks *r, long long now_ms, long long stopped_for_ms, int anew);
int ranks_all_ended(const struct ranks *r);
/* Fills items, at most max, that become readable when a message arrives or a rank ends; returns how
 * many. */
int ranks_poll_items(const struct ranks *r, zmq_pollitem_t *items, int max);

#endif
