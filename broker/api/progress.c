/* progress.c - reports the progress of jobs: events on a PUB socket, rates in the jobs view.
 *
 * There is an entry for each job that changed since the start and is not over. A changed entry is
 * published at the next tick; ticks are TICK_MS apart. The rate is an average over about ten
 * seconds of how fast `done` grows.
 *
 * An event reports what was read from the store, so it waits for the disk as a reply does. */
#include "broker/api/progress.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "broker/api/replies.h"
#include "broker/api/send.h"
#include "broker/table.h"
#include "broker/transaction.h"
#include "schema/alloc.h"
#include "schema/clock.h"

#define TICK_MS 200
#define MAX_SUBSCRIPTION_BYTES 4096 /* a key has 200 at most */
#define RATE_MS 1000

struct entry {
    int64_t job;
    uint64_t seq;
    int changed;
    int64_t done;       /* `done` when the rate was last taken */
    long long rated_ms; /* wall time, like a job's times: a rate is for show */
    double rate;
};

struct progress_table {
    void *socket;         /* PUB */
    struct table entries; /* by job */
    long long next_ms;
    int any_changed;
    struct outbox *outbox; /* events that wait for the disk */
};

struct progress_table *progress_new(void *zmq, const char *endpoint, struct err *e)
{
    struct progress_table *p = xcalloc(1, sizeof *p);
    int zero = 0;
    int64_t max_bytes = MAX_SUBSCRIPTION_BYTES;
    p->socket = zmq_socket(zmq, ZMQ_PUB);
    p->outbox = outbox_new(p->socket);
    if (p->socket && zmq_setsockopt(p->socket, ZMQ_LINGER, &zero, sizeof zero) == 0 &&
        zmq_setsockopt(p->socket, ZMQ_MAXMSGSIZE, &max_bytes, sizeof max_bytes) == 0 &&
        zmq_bind(p->socket, endpoint) == 0)
        return p;
    err_set(e, ASSAY_EIO, "cannot bind '%s': %s", endpoint, zmq_strerror(errno));
    progress_free(&p);
    return NULL;
}

void *progress_socket(const struct progress_table *p)
{
    return p->socket;
}

void progress_free(struct progress_table **out)
{
    struct progress_table *p = *out;
    if (!p)
        return;
    if (p->socket)
        zmq_close(p->socket);
    outbox_free(&p->outbox);
    for (size_t i = 0; i < p->entries.room; i++)
        free(p->entries.at[i].value);
    table_release(&p->entries);
    free(p);
    *out = NULL;
}

void progress_job_changed(struct broker *b, int64_t job)
{
    struct progress_table *p = b->progress;
    struct entry *entry = table_find(&p->entries, job);
    if (!entry) {
        entry = xcalloc(1, sizeof *entry);
        *entry = (struct entry){.job = job, .done = -1};
        table_set(&p->entries, job, entry);
    }
    entry->changed = 1;
    p->any_changed = 1;
}

static void publish(struct progress_table *p, struct entry *entry, const struct store_job *j)
{
    struct envelope env = {0};
    envelope_add(&env, j->key, strlen(j->key));
    struct msg_writer *w = outbox_message(p->outbox, &env);
    msg_map(w, 7);
    msg_key_int(w, "seq", (int64_t)++entry->seq);
    msg_key_int(w, "job", j->job);
    msg_key_str(w, "state", job_state_name(j->state));
    msg_key_int(w, "done", j->done);
    msg_str(w, "total");
    if (j->total >= 0)
        msg_int(w, j->total);
    else
        msg_nil(w);
    msg_key_int(w, "failed", j->failed);
    msg_key_int(w, "at_ms", now_wall_ms());
}

int progress_send(struct broker *b, uint64_t written, uint64_t synced)
{
    return b->progress ? outbox_send(b->progress->outbox, written, synced) : 0;
}

static int is_over(const struct store_job *j)
{
    return j->state == JOB_DONE || j->state == JOB_CANCELLED;
}

/* Returns a new rate to write, or -1 when it is not time. */
static double take_rate(struct entry *entry, const struct store_job *j, int64_t started_ms)
{
    long long now_ms = j->finished_ms > 0 ? j->finished_ms : now_wall_ms();
    if (entry->done < 0) { /* jobs made since the start are rated from their creation */
        int is_new = j->created_ms >= started_ms;
        entry->done = is_new ? 0 : j->done;
        entry->rated_ms = is_new ? j->created_ms : now_ms;
    }
    long long passed_ms = now_ms - entry->rated_ms;
    if (passed_ms <= 0 || (passed_ms < RATE_MS && !is_over(j)))
        return -1;
    double now_rate = (double)(j->done - entry->done) * 1000 / (double)passed_ms;
    double weight = entry->rate > 0 ? (double)passed_ms / (10000 + (double)passed_ms) : 1;
    entry->rate += weight * (now_rate - entry->rate);
    entry->done = j->done;
    entry->rated_ms = now_ms;
    return entry->rate > 0 ? entry->rate : 0;
}

/* Publishes an entry. Returns 1 when the job will not change any more. */
static int tell(struct broker *b, struct entry *entry)
{
    struct err e = {0};
    struct store_job j;
    int rc = store_get_job(b->store, entry->job, &j, &e);
    entry->changed = 0;
    if (rc < 0)
        transaction_forgo(b, &e);
    if (rc != 1)
        return rc == 0;
    publish(b->progress, entry, &j);
    double rate = take_rate(entry, &j, b->started_ms);
    if (rate >= 0 &&
        (transaction_begin(b, &e) != 0 || store_set_rate(b->store, entry->job, rate, &e) != 0))
        transaction_forgo(b, &e);
    return is_over(&j);
}

long long progress_tick(struct broker *b, long long now_ms)
{
    struct progress_table *p = b->progress;
    if (!p->any_changed)
        return FOREVER;
    if (now_ms < p->next_ms)
        return p->next_ms;
    p->any_changed = 0;
    p->next_ms = now_ms + TICK_MS;
    for (size_t i = 0; i < p->entries.room;) {
        struct entry *entry = p->entries.at[i].value;
        if (!entry || !entry->changed || !tell(b, entry)) {
            i++;
            continue;
        }
        table_remove(&p->entries, entry->job); /* another entry may be at i now */
        free(entry);
    }
    send_replies(b);
    return p->next_ms;
}
