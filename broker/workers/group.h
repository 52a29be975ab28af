/* group.h - one worker group: the ranks that together hold a copy of the model, from spawn to reap.
 *
 *     STARTING -> READY -> DEAD -> (back-off 0, 0.5, 1, 2 .. 30 s) -> STARTING, incarnation + 1
 *              stop ->  DRAINING -> STOPPED
 * A rank that exits, reports an error, disagrees with the others about a batch's scores, or makes
 * no progress for hang_ms while it has work, or has been stopped by a signal for so long: the whole group is SIGKILLed and reaped, its batches
 * come back through group_take, and new ranks are started. Death is a readable pidfd; a hang is all
 * progress counters unchanged.
 *
 * The group owns batches between group_run and group_take. One thread; every call returns at once.
 * The owner polls the descriptors of group_poll_items, calls group_tick when one is readable or the
 * deadline that it returned has passed, then takes what is finished. */
#ifndef ASSAY_GROUP_H
#define ASSAY_GROUP_H

#include <zmq.h>

#include "broker/batch.h"
#include "schema/err.h"
#include "shm/stage.h"

#define GROUP_MAX_RANKS 16

enum group_state { GROUP_STARTING, GROUP_READY, GROUP_DEAD, GROUP_DRAINING, GROUP_STOPPED };

struct group_options {
    const char *worker_path; /* assay-worker */
    const char *model_dir;
    const char *run_dir; /* private directory for the control socket, and what ranks remember */
    void *zmq_context;
    int number; /* of the group, from 0 */
    uint32_t tp;
    uint32_t threads; /* of the whole group, shared among ranks, at least one each */
    const char *isa;
    const char *quant;   /* "none", "fp8", "int8" */
    const char *dtype;   /* "auto", "f32", "bf16" */
    const char *weights; /* "auto", "single", "index" */
    const int *gpus;     /* [tp] a rank's device; NULL: the CPU */
    const char *mode;    /* that a rank must have to be ready (control.h); NULL: any */
    const char *digest,
        *identity; /* likewise of the checkpoint, and the files that it was taken of */
    uint32_t max_len;
    struct stage_config stage;
    uint64_t epoch;
    uint32_t hang_ms;  /* 2000 */
    uint32_t start_ms; /* longest start-up */
};

struct group_rank_info {
    int pid;
    char device[64];
    int ready;
    uint64_t busy_us, up_us; /* as the rank last said: computing, of the time since it was ready */
};

struct group;

/* Makes the segments and the control socket; the first start happens in the first tick. */
int group_new(struct group **g, const struct group_options *options, struct err *e);
void group_free(struct group **g); /* kills and reaps what still lives */

int group_poll_items(
    const struct group *g, zmq_pollitem_t *items, int max); /* fills, returns how many */
long long group_tick(struct group *g,
    long long now_ms); /* does all due work; returns the next deadline (monotonic ms) */

enum group_state group_state(const struct group *g);
const char *group_state_name(enum group_state state); /* "starting", "ready", "dead", "draining" */
uint64_t group_incarnation(const struct group *g);
uint32_t group_in_flight(const struct group *g);
uint32_t group_free_slots(const struct group *g); /* 0 unless READY */
const struct group_rank_info *group_ranks(const struct group *g, uint32_t *n);
int64_t group_restarts(const struct group *g);
/* How many starts in a row ended before the ranks were ready. */
int group_failed_starts(const struct group *g);
/* Starts will go on to fail: three in a row ended with what does not pass (exit codes 78, the
 * checkpoint or a device; 64 and 127, the program), or six with whatever else (a signal, no memory, a
 * GPU that fails, a start that takes too long). They are tried all the same. */
int group_is_hopeless(const struct group *g);
/* Does it not pass, as far as the last start tells? */
int group_failure_stays(const struct group *g);
/* Why the last incarnation ended, "" when none did: in the rank's own words, if it had any. */
const char *group_last_failure(const struct group *g, int *exit_code);

/* Stage the batch and hand it over: 1 taken (*b NULL), 0 no slot free or not READY, negative: the
 * batch can never run (too large). */
int group_run(struct group *g, struct batch **b, struct err *e);

/* What became of batches: 1 and *b (now the caller's), 0 nothing. BATCH_DONE: b->values is valid
 * until group_release(g, b). BATCH_LOST_RUNNING: it was the one being computed (the oldest);
 * BATCH_LOST_WAITING: handed over, not begun. */
enum batch_outcome { BATCH_DONE, BATCH_LOST_RUNNING, BATCH_LOST_WAITING };
int group_take(struct group *g, struct batch **b, enum batch_outcome *outcome);
/* DRAINING: no new batches; `stop` is sent when nothing is in flight, and ranks that have not ended
 * hang_ms later are killed. Of a group that is not READY, at once. */
void group_stop(struct group *g);

#endif
