/* group.h - one worker group: ranks that together hold a copy of the model, from spawn to reap.
 *
 *     STARTING -> READY -> DEAD -> (back-off 0, 0.5, 1, 2 .. 30 s) -> STARTING, incarnation + 1
 *     group_adapters_changed: READY -> (in flight: none) -> DEAD -> STARTING, at once
 *              stop ->  DRAINING -> STOPPED
 * The group dies when a rank exits, reports an error, disagrees with the others about a batch's
 * scores, or stays stopped by a signal for hang_ms, or when no rank makes progress for hang_ms
 * while there is work. The whole group is then SIGKILLed and reaped, its batches come back through
 * group_take, and new ranks start. A death shows as a readable pidfd, a hang as progress counters
 * that all stand still.
 *
 * With several pipeline stages a group has tp ranks for each: rank r is of stage r / tp. A stage is
 * told to run a batch when the stage before is done with it, and the one after with the batch whose
 * buffer it needs (worker/pipeline.h). So as many batches run at a time as there are stages, each
 * in its turn everywhere, and the batch that a dying rank was running is the one to blame.
 *
 * The group owns batches between group_run and group_take. It has one thread, and every call
 * returns at once. The owner polls the descriptors of group_poll_items, calls group_tick when one
 * is readable or the deadline that it returned has passed, then takes what is finished. */
#ifndef ASSAY_GROUP_H
#define ASSAY_GROUP_H

#include <zmq.h>

#include "broker/batch.h"
#include "schema/adapters.h"
#include "schema/err.h"
#include "shm/stage.h"

#define GROUP_MAX_RANKS 16

enum group_state { GROUP_STARTING, GROUP_READY, GROUP_DEAD, GROUP_DRAINING, GROUP_STOPPED };

/* The adapters that ranks load when they start. Their owner may change this, and calls
 * group_adapters_changed then. */
struct group_adapters {
    struct adapters list;
    char *loras[ADAPTERS_MOST]; /* [list.n] NAME=DIR */
};

struct group_options {
    const char *worker_path; /* assay-worker */
    const char *model_dir;
    const char *run_dir; /* private directory: control socket, the ranks' caches */
    void *zmq_context;
    int number;           /* the group's number, from 0 */
    uint32_t tp;          /* ranks of a pipeline stage */
    uint32_t pp;          /* pipeline stages, at least 1 */
    uint32_t hidden_size; /* of what stages hand over */
    uint32_t threads;     /* of the whole group, divided among its ranks, at least one each */
    const char *isa;
    const char *quant;       /* "none", "fp8", "int8" */
    const char *dtype;       /* "auto", "f32", "bf16" */
    const char *head;        /* "auto", or as worker/head_option.h says */
    const char *weights;     /* "auto", "single", "index" */
    const char *activations; /* "auto", "as-stored", "weights-only" */
    const int *gpus;         /* [group_size] each rank's device; NULL: the CPU */
    const char *mode;        /* a rank with another mode (control.h) is refused; NULL: any */
    const char *digest,
        *identity; /* same for the checkpoint's digest; the identity of its files (identity.h) */
    const struct group_adapters *adapters; /* beside the model; NULL: none */
    uint32_t max_batch_tokens, max_len;
    uint64_t kv_cache_bytes; /* of each rank; 0: none */
    struct stage_config stage;
    uint64_t epoch;
    uint32_t hang_ms;  /* 2000 */
    uint32_t start_ms; /* longest start-up */
};

static inline uint32_t group_size(const struct group_options *o) /* how many ranks */
{
    return o->tp * o->pp;
}

struct group_rank_info {
    int pid;
    char device[64];
    int ready;
    uint64_t busy_us, up_us;           /* from its last message: time computing, time since ready */
    uint64_t tokens, reused, kv_bytes; /* and what control.h says of them */
};

struct group;

/* Makes the staging segments; the first start, with its control socket, happens in the first tick.
 * ASSAY_EBADREQ if tp or pp is out of range, or negative from stage_new; *g is NULL then. The
 * strings and arrays of `options` must outlive the group. */
int group_new(struct group **g, const struct group_options *options, struct err *e);
void group_free(struct group **g); /* kills and reaps its ranks */

int group_poll_items(
    const struct group *g, zmq_pollitem_t *items, int max); /* fills items, returns how many */
long long group_tick(struct group *g,
    long long now_ms); /* does all due work; returns the next deadline (monotonic ms) */

enum group_state group_state(const struct group *g);
const char *group_state_name(enum group_state state); /* "starting", "ready", "dead", "draining" */
uint64_t group_incarnation(const struct group *g);
uint32_t group_in_flight(const struct group *g);
int group_takes_batches(const struct group *g);   /* when it has a free slot */
int group_is_empty(const struct group *g);        /* it has no batch, and group_take gives none */
uint32_t group_free_slots(const struct group *g); /* 0 unless READY */
const struct group_rank_info *group_ranks(const struct group *g, uint32_t *n);
int64_t group_restarts(const struct group *g);
/* Counts the latest starts in a row that ended before all ranks were ready. */
int group_failed_starts(const struct group *g);
/* 1: starts are likely to go on failing. Three in a row ended with an error that does not pass
 * (exit code 78: checkpoint or device; 64 or 127: program), or six with any error (a signal, no
 * memory, a failing GPU, a start that takes too long). The group still tries. */
int group_is_hopeless(const struct group *g);
/* 1: the last start ended with an error that does not pass. */
int group_failure_stays(const struct group *g);
/* Returns why the last incarnation ended, in the rank's own words if it sent any; "": none has
 * ended. */
const char *group_last_failure(const struct group *g, int *exit_code);

/* Ranks read this directory from the next start on, which must have the same contents. Borrowed. */
void group_set_dir(struct group *g, const char *model_dir);
/* Has the ranks load what they lack: a READY group finishes what is in flight, and starts anew,
 * which is no failure. Adapters that are not wanted any more stay until the next start. */
void group_adapters_changed(struct group *g);
int group_has_adapters(const struct group *g); /* it is READY, with all of them */

/* Stages the batch and hands it to the ranks. 1: taken, *b is NULL; 0: no free slot, not READY, or
 * it lacks an adapter;
 * negative: the batch is too large and can never run. */
int group_run(struct group *g, struct batch **b, struct err *e);

/* Gives back the next batch that ended, with its outcome, to the caller; NULL: none. */
struct batch *group_take(struct group *g);
/* Takes no new batches (DRAINING), sends `stop` when nothing is in flight, and kills ranks that
 * have not ended hang_ms later. A group that is not READY ends at once. */
void group_stop(struct group *g);

#endif
