/* broker.h - the broker's context. The parts of its event loop (loop.c) all work on it.
 *
 * One thread runs the loop. A tick takes, in this order:
 *     groups    hears what ranks say, and starts dead ones again (group_tick)
 *     outcomes  writes the results of finished batches, in one transaction, synced
 *     dispatch  gives the next batches to groups with free slots
 *     copies    writes results of rows that dedupe knows, a bounded number, as it does outcomes
 *     adapters  goes on with an adapter that is added or removed (adapters.h)
 *     requests  handles client messages in one transaction; replies are held until another thread
 *               has synced it, while the next tick runs. Threads prepare the large ones before
 *               (inbox.h), and their rows are written before, a few in each tick (ahead.h).
 *               Rows of chunks that were kept are placed likewise (kept.h)
 *     waiters   answers requests whose rows are done, or whose time is over
 *     retain    purges jobs that have been over for long
 *     progress  events to subscribers; then purging, and housekeeping about once a second
 *
 * Data for display only (running rows, batch records, rates, workers) joins the next transaction of
 * any kind and is never synced for its own sake. It may be lost, and is lost when the disk is full.
 *
 * A row's route: prepare.c decodes it, admit.c checks it, store/placing.c stores it, planner.c
 * plans it, group.c stages it, (the worker computes it,) outcomes.c checks and stores its result,
 * reply_results.c and waiters.c reply. */
#ifndef ASSAY_BROKER_H
#define ASSAY_BROKER_H

#include <pthread.h>

#include "broker/api/admit.h"
#include "broker/api/listen.h"
#include "broker/workers/devices.h"
#include "broker/workers/group.h"
#include "broker/workers/model_info.h"
#include "broker/options.h"
#include "broker/api/outbox.h"
#include "broker/sched/planner.h"
#include "broker/served.h"
#include "broker/store/store.h"
#include "broker/ticks.h"
#include "schema/notify.h"
#include "schema/request.h"

struct adapter_change;
struct catalog;
struct inbox;
struct message;
struct sessions;
struct waiters;
struct progress_table;
struct reload;

#define BROKER_MODELS STORE_MODELS
#define BROKER_MESSAGES_PER_TICK 256
/* Beside them a message that was written ahead, one whose chunks were placed, and a job of
 * these. */
#define BROKER_TOUCHED (BROKER_MESSAGES_PER_TICK + 3)

struct counters {
    int64_t requests, refused, rows_accepted, rows_done, rows_failed, rows_copied, rows_cached;
    /* Only of rows that were computed. tokens: of their whole length; tokens_shared: of these, not
     * computed, since a row of the batch before them begins with the same. */
    int64_t tokens, tokens_shared, batches, batches_lost;
};

/* Batches whose outcomes are not written yet (outcomes.c). */
struct held {
    struct batch *first;  /* NULL: none */
    struct err refused;   /* why no group can take the first, if that is its outcome */
    long long again_ms;   /* when to write them again; 0: they are new */
    struct err unwritten; /* why they could not be written; only with again_ms */
};

/* Large messages whose rows are written ahead, in the order they came (api/ahead.c). */
struct ahead {
    struct message *first, *last; /* first NULL: none */
    int is_written;               /* the first is to be handled */
    struct message *handled;
};

/* Jobs whose next chunk is kept and to be placed, in the order they were found (api/kept.c). */
struct kept_job;
struct kept_work;
struct kept_chunks {
    struct kept_job *first, *last;
    struct kept_work *work;         /* on the first one's next chunk; NULL: none */
    long long again_ms;             /* not before; the database could not be written */
    struct message *done, *handled; /* messages to be handled once more; the one that is */
    int is_first;                   /* before `ahead`, in this tick */
};

/* Appends to sessions whose rows a thread writes, one at a time (api/session_requests.c). */
struct large_appends {
    struct message *now;          /* whose turn it is; NULL: nobody's */
    struct message *first, *last; /* those that wait; first NULL: none */
};

/* A job of whose results a page was given that is not the last (retain.h). */
struct reading {
    int64_t job;        /* 0: none */
    long long until_ms; /* monotonic */
};
#define BROKER_READINGS 256 /* the oldest makes room */

struct broker {
    const struct options *options;
    struct devices devices; /* what the groups run on */
    const char *data;
    struct front *front; /* NULL: no --http */
    int data_fd;         /* descriptor of `data`, if its path is too long for a socket; else -1 */
    /* Those that are served, NULL where there is none; the first is for rows that name none. */
    struct served_model *models[BROKER_MODELS];
    struct catalog *catalog; /* the same, for the threads that prepare messages; NULL: one model */
    struct catalog *earlier; /* what was `catalog` before, and is in use: a list */
    struct adapter_change *change; /* of the adapters, under way (adapters.h); NULL: none */
    struct reload *reload;         /* of a model, under way (reload.h); NULL: none */
    long long look_ms;             /* when to look whether a model that was replaced may end */
    uint32_t next_id;              /* of a model */
    pthread_mutex_t adapters_lock; /* for writing info.adapters, and reading in other threads */
    struct request_limits limits;
    int lock_fd; /* lock of the data directory, until the store takes it over; -1 */
    struct store *store;
    struct score_cache *cache; /* NULL: not used, or given up */
    struct dedupe *dedupe;     /* NULL: --no-dedupe */
    struct homes *homes;       /* of sessions; NULL: each would be the same, or of no use */
    struct planner *planner;
    /* [n_groups] NULL where the model of that number is gone */
    struct group *groups[BROKER_MODELS * OPTIONS_MAX_REPLICAS];
    int n_groups;
    void *zmq, *clients; /* context; ROUTER */
    struct listeners listeners;
    struct outbox *outbox;
    struct waiters *waiters;
    struct sessions *sessions;
    struct progress_table *progress;
    struct admit admit;  /* the loop's own */
    struct inbox *inbox; /* while the loop runs */
    struct ahead ahead;
    struct kept_chunks kept;
    struct large_appends appends;
    struct counters counters;
    struct ticks ticks;
    struct store_census unfinished, counting; /* as last counted; and as far as it is now */
    int64_t started_ms;
    struct notify notify; /* who started this process and wants to know how it is */
    int is_serving;       /* and has been told that all models are served */
    int draining;
    /* Called once when the database has failed for good: sends the error `why` to all clients that
     * wait. NULL: before the loop runs, or already called. */
    void (*at_end)(struct broker *b, const char *why);
    int in_transaction; /* a transaction is open; no reply has left for anything in it */
    int64_t touched[BROKER_TOUCHED]; /* jobs that this tick's requests wrote to */
    int n_touched;
    uint32_t n_undone; /* ticks whose requests were undone */
    int cannot_write;  /* last logged reason: ASSAY_EFULL, ASSAY_ELOCKED; 0: it can write */
    struct held held;
    int turn;                 /* the group that gets the next batch, where several could */
    int known_waits;          /* the last tick was too long for known results */
    int connections_are_full; /* as last logged */
    unsigned connections_ended;
    struct reading readings[BROKER_READINGS];
    long long retain_due_ms;  /* next look at jobs that have been over for long */
    long long purge_due_ms;   /* next look at purged jobs; 0: a purge was requested */
    uint64_t workers_sum;     /* of the workers table's content */
    long long workers_due_ms; /* next write of the table even if it has not changed */
    int wake;                 /* the next tick must not wait: this one left something to look at */
};

#endif
