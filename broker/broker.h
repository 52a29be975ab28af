/* broker.h - the broker's one context, and the parts that its event loop (broker.c) is made of.
 *
 * One thread. A turn of the loop:
 *     outcomes  results of the batches that came back, one transaction, synced
 *     dispatch  the next batches to groups with free slots
 *     copies    results of rows that are known, a bounded number, as outcomes are
 *     requests  whatever clients sent, one transaction; replies are held until it is on the disk, which
 *               another thread sees to while the next turn runs
 *     waiters   those whose rows are there now, or whose time is over
 *
 * What is only for show (running rows, batch records, rates, workers) is written into whatever
 * transaction is next and never synced for its own sake: it may be lost, and with a full disk it
 * is.
 *
 * A row's way: requests.c decodes, admit.c judges, store_chunks.c keeps, planner.c plans, group.c
 * stages, (the worker computes,) results.c checks and keeps, reads.c and waiters.c reply. */
#ifndef ASSAY_BROKER_H
#define ASSAY_BROKER_H

#include "broker/api/admit.h"
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

#define BROKER_MESSAGES_PER_TURN 256

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
    struct outbox *outbox;
    struct waiters *waiters;
    struct progress_table *progress;
    struct admit admit;
    struct counters counters;
    int64_t started_ms;
    int draining;
    int in_transaction;                        /* one is open; nothing in it was told to anyone */
    int64_t touched[BROKER_MESSAGES_PER_TURN]; /* jobs that this turn's requests wrote to */
    int n_touched;
    int cannot_write;         /* why, as it was last logged: ASSAY_EFULL, ASSAY_ELOCKED; 0 */
    struct held *held;        /* outcomes that could not be written (results.c); NULL: none */
    int connections_are_full; /* likewise */
    unsigned connections_ended;
    long long purge_due_ms; /* when purged jobs are looked at next; 0: a purge was asked for */
    uint64_t workers_sum; /* of what the workers table says, and when it is written all the same */
    long long workers_due_ms;
    int wake; /* something was done that the next turn must look at without waiting */
};

/* broker.c */
int broker_run(struct broker *b, struct err *e);   /* until stopped by a signal; 0, or negative */
int broker_begin(struct broker *b, struct err *e); /* opens a transaction if none is open */
/* A transaction that is on the disk when its commit returns, and nobody sees it before; what was open is
 * committed. */
int broker_begin_synced(struct broker *b, struct err *e);
/* Commits what is open, if anything. When that fails nothing of it was kept (store_may_pass), or nobody
 * knows (the broker must exit). */
int broker_commit(struct broker *b, struct err *e);
/* So many replies wait for the disk that no more are to be made. */
int broker_replies_are_full(const struct broker *b);
/* Replies and events whose commits are on the disk go out; those made since the last call must wait for all that is
 * written now. */
void broker_send_replies(struct broker *b);
void broker_rollback(struct broker *b);
/* Writing something that is only for show failed: goes on without it where the disk is full or the
 * database locked, dies of anything else. */
void broker_forgo(struct broker *b, const struct err *e);
/* Nothing is written for now: says so, once; dies of anything that does not pass. */
void broker_cannot_write(struct broker *b, const struct err *e);

/* requests.c - one message: its reply goes to the outbox, the job that it wrote to into `touched`.
 * Returns 0, or ASSAY_EFULL, ASSAY_ELOCKED or ASSAY_EIO when the database failed: then nothing of this turn's
 * requests may be kept. */
int broker_request(
    struct broker *b, const struct envelope *env, const uint8_t *bytes, size_t len, struct err *e);

/* reads.c - replies made from the store alone */
void reply_hello(struct broker *b, const struct envelope *env, const struct request *q);
/* Why no row is computed: what the last start of a group failed of, of those that are not ready; with
 * `none_serves` only when no group is. NULL: nothing failed. */
const char *broker_failure(const struct broker *b, int none_serves);
void reply_info(struct broker *b, const struct envelope *env, const struct request *q);
int reply_status(struct broker *b, const struct envelope *env, const struct request *q, int64_t job,
    struct err *e);
int reply_jobs(
    struct broker *b, const struct envelope *env, const struct request *q, struct err *e);
/* One page. 1 when it was written; 0 when there is no row, more may come and `wait` is set: then
 * nothing was written. */
int reply_results(struct broker *b, const struct envelope *env, struct slice id, int64_t job,
    uint64_t after, uint32_t limit, int wait, struct err *e);
/* The page that has no row, of a job that goes on. */
void reply_no_results(
    struct broker *b, const struct envelope *env, struct slice id, uint64_t after);
/* All rows of a job in order; too_large when they do not fit into one message. */
int reply_score(
    struct broker *b, const struct envelope *env, struct slice id, int64_t job, struct err *e);
const char *job_state_name(enum job_state state);

/* results.c - outcomes of batches into the store, synced: values checked for NaN and infinity, lost
 * batches planned again. */
int broker_take_outcomes(struct broker *b, struct err *e);
/* Results of rows that are the same as others, of which results are known. */
int broker_copy_results(struct broker *b, struct err *e);
/* Outcomes that are held when the broker stops: their rows are queued, as the database has them. */
void broker_drop_outcomes(struct broker *b);
/* Fill the groups' free slots. */
int broker_dispatch(struct broker *b, struct err *e);

/* waiters.c - requests whose reply must wait for rows: results with wait_ms, score */
enum waiter_kind { WAIT_RESULTS, WAIT_SCORE };
/* 0, or ASSAY_EQUEUEFULL. When all places are taken, a waiter of the connection that has the most is answered to make
 * room, unless that is this one. */
int waiters_make_room(struct broker *b, const struct envelope *env, struct err *e);
void waiters_add(struct broker *b, enum waiter_kind kind, const struct envelope *env,
    const struct request *q, int64_t job, long long deadline_ms);
/* The turn that the newest waiters came in is over. why: it was undone, they all hear that; NULL:
 * it is on the disk. */
void waiters_settle(struct broker *b, const struct err *why);
void waiters_job_changed(
    struct broker *b, int64_t job); /* look at its waiters at the end of the turn */
/* Answers who can be answered; returns the earliest deadline (monotonic ms). No row's result may be
 * uncommitted. */
long long waiters_tick(struct broker *b, long long now_ms);
/* Those whose connection has gone: nobody would hear the reply. */
void waiters_let_go(struct broker *b);
int waiters_count(const struct broker *b);
/* The broker stops: not_ready for all that are left. why: it cannot go on; NULL: it was told to. */
void waiters_end(struct broker *b, const char *why);
struct waiters *waiters_new(void);
void waiters_free(struct waiters **w);

/* events.c - how jobs get on: rates for the views, events for the PUB socket */
struct progress_table *progress_new(void *zmq, const char *endpoint, struct err *e);
void progress_free(struct progress_table **p);
void progress_job_changed(struct broker *b, int64_t job);
/* Publishes what changed, a few times a second at most; returns when it wants to be called again.
 */
long long progress_tick(struct broker *b, long long now_ms);
/* As outbox_send, for events: part of broker_send_replies. */
int progress_send(struct broker *b, uint64_t written, uint64_t synced);

#endif
