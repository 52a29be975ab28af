/* broker.h - the broker's one context, and the parts that its event loop (loop.c) is made of.
 *
 * One thread. A tick of the loop:
 *     outcomes  results of the batches that came back, one transaction, synced
 *     dispatch  the next batches to groups with free slots
 *     copies    results of rows that are known, a bounded number, as outcomes are
 *     requests  whatever clients sent, one transaction; replies are held until it is on the disk, which
 *               another thread sees to while the next tick runs
 *     waiters   those whose rows are there now, or whose time is over
 *
 * What is only for show (running rows, batch records, rates, workers) is written into whatever
 * transaction is next and never synced for its own sake: it may be lost, and with a full disk it
 * is.
 *
 * A row's way: requests.c decodes, admit.c judges, store/chunks.c keeps, planner.c plans, group.c
 * stages, (the worker computes,) outcomes.c checks and keeps, replies.c and waiters.c reply. */
#ifndef ASSAY_BROKER_H
#define ASSAY_BROKER_H

#include "broker/api/admit.h"
#include "broker/api/listen.h"
#include "broker/workers/devices.h"
#include "broker/workers/group.h"
#include "broker/workers/model_info.h"
#include "broker/options.h"
#include "broker/api/outbox.h"
#include "broker/sched/planner.h"
#include "broker/store/store.h"
#include "schema/request.h"

struct waiters;
struct progress_table;

#define BROKER_MESSAGES_PER_TICK 256

struct counters {
    int64_t requests, refused, rows_accepted, rows_done, rows_failed, rows_copied, rows_cached;
    int64_t tokens, batches, batches_lost; /* of what was computed */
};

struct broker {
    const struct options *options;
    struct devices devices; /* what the groups run on */
    const char *data;
    int data_fd;     /* of it, where sockets are reached that way (endpoint_in_dir); -1 */
    char *model_dir; /* as it was found at the start: a symbolic link may be turned later */
    struct model_info model;
    struct text_model text; /* its tokenizer and chat template */
    struct request_limits limits;
    int lock_fd; /* of the data directory, until the store has it; -1 */
    struct store *store;
    struct score_cache *cache; /* NULL: none, or none any more */
    struct dedupe *dedupe;     /* NULL: --no-dedupe */
    struct planner *planner;
    struct group *groups[OPTIONS_MAX_REPLICAS];
    void *zmq, *clients; /* context; ROUTER */
    struct listeners listeners;
    struct outbox *outbox;
    struct waiters *waiters;
    struct progress_table *progress;
    struct admit admit;
    struct counters counters;
    int64_t started_ms;
    int draining;
    /* The database failed for good, `why` says how: tells all who wait. NULL: nobody can wait yet, or all were told. */
    void (*at_end)(struct broker *b, const char *why);
    int in_transaction;                        /* one is open; nothing in it was told to anyone */
    int64_t touched[BROKER_MESSAGES_PER_TICK]; /* jobs that this tick's requests wrote to */
    int n_touched;
    int cannot_write;         /* why, as it was last logged: ASSAY_EFULL, ASSAY_ELOCKED; 0 */
    struct held *held;        /* outcomes that could not be written (outcomes.c); NULL: none */
    int connections_are_full; /* likewise */
    unsigned connections_ended;
    long long purge_due_ms; /* when purged jobs are looked at next; 0: a purge was asked for */
    uint64_t workers_sum; /* of what the workers table says, and when it is written all the same */
    long long workers_due_ms;
    int wake; /* something was done that the next tick must look at without waiting */
};

#endif
