/* replies.c - replies that only read: hello, info, status, jobs. PROTOCOL.md has the fields. */
#include "broker/api/replies.h"

#include <string.h>
#include <unistd.h>

#include "broker/api/blocked.h"
#include "broker/outcomes.h"
#include "broker/api/connections.h"
#include "broker/api/sessions.h"
#include "broker/api/waiters.h"
#include "broker/figures.h"
#include "broker/front.h"
#include "broker/reload.h"
#include "schema/clock.h"
#include "schema/version.h"

const char *job_state_name(enum job_state state)
{
    static const char *const names[] = {"open", "queued", "running", "paused", "done", "cancelled"};
    return names[state];
}

/* ---- hello, info ---- */

void reply_write_labels(struct msg_writer *w, const struct model_info *m)
{
    if (!m->labels) {
        msg_nil(w);
        return;
    }
    msg_array(w, m->n_labels);
    for (uint32_t i = 0; i < m->n_labels; i++)
        msg_str(w, m->labels[i]);
}

/* A token's id, or nil where there is none. */
static void write_token(struct msg_writer *w, const char *key, int32_t id)
{
    msg_str(w, key);
    if (id >= 0)
        msg_int(w, id);
    else
        msg_nil(w);
}

static void write_tokenizer(const struct tokenizer *t, struct msg_writer *w)
{
    msg_str(w, "tokenizer");
    if (!t) {
        msg_nil(w);
        return;
    }
    msg_map(w, 3);
    write_token(w, "bos_token", tokenizer_special(t)->bos);
    write_token(w, "eos_token", tokenizer_special(t)->eos);
    write_token(w, "pad_token", tokenizer_special(t)->pad);
}

static void write_adapters(const struct adapters *a, struct msg_writer *w)
{
    msg_str(w, "adapters");
    msg_array(w, a->n);
    for (uint32_t i = 0; i < a->n; i++) {
        msg_map(w, 2);
        msg_key_str(w, "name", a->at[i].name);
        msg_key_str(w, "digest", a->at[i].digest);
    }
}

static void write_model(const struct served_model *of, struct msg_writer *w)
{
    const struct model_info *m = &of->info;
    msg_map(w, 12);
    msg_key_str(w, "name", m->name);
    write_adapters(&m->adapters, w);
    msg_str(w, "recipe");
    if (m->recipe)
        msg_str(w, m->recipe->name);
    else
        msg_nil(w);
    msg_key_str(w, "architecture", m->architecture);
    msg_key_str(w, "digest", m->digest);
    msg_key_str(w, "dtype", m->dtype);
    msg_key_int(w, "max_len", m->max_len);
    msg_key_int(w, "vocab_size", m->vocab_size);
    msg_key_int(w, "n_labels", m->n_labels);
    msg_str(w, "labels");
    reply_write_labels(w, m);
    msg_str(w, "pooling");
    msg_map(w, 5);
    msg_key_str(w, "type", pool_type_name(m->pool.type));
    msg_key_str(w, "activation", activation_name(m->pool.activation));
    write_token(
        w, "step_token", compose_step_token(m->recipe, m->architecture, m->pool.step_token));
    msg_key_bool(w, "hf_pad_rule", m->pad_rule);
    write_token(w, "pad_token", m->pad_token);
    write_tokenizer(of->text.tokenizer, w);
}

/* All of them: the first is `model` too, as it is that of rows that name none. */
static void write_models(const struct broker *b, struct msg_writer *w)
{
    const struct served_model *m;
    uint32_t n = 0;
    while (served_of_rank(b, n))
        n++;
    msg_str(w, "model");
    write_model(served_first(b), w);
    msg_str(w, "models");
    msg_array(w, n);
    for (uint32_t k = 0; (m = served_of_rank(b, k)); k++) {
        msg_map(w, 3);
        msg_key_str(w, "name", m->info.name);
        msg_key_str(w, "mode", m->info.mode);
        msg_str(w, "model");
        write_model(m, w);
    }
}

/* Six fields: version, protocol, mode, model, models, limits. */
static void write_about(const struct broker *b, struct msg_writer *w)
{
    msg_key_str(w, "version", ASSAY_VERSION);
    msg_key_int(w, "protocol", REQUEST_VERSION);
    msg_key_str(w, "mode", served_first(b)->info.mode);
    write_models(b, w);
    msg_str(w, "limits");
    msg_map(w, 6);
    msg_key_int(w, "max_message_bytes", (int64_t)b->limits.max_message_bytes);
    msg_key_int(w, "max_rows_per_message", b->limits.max_rows_per_message);
    msg_key_int(w, "max_tokens_per_row", served_first(b)->info.max_len);
    msg_key_int(w, "max_queued_bytes", b->options->max_queued_bytes);
    msg_key_int(w, "max_session_bytes", b->options->session_bytes);
    msg_key_int(w, "session_idle_ms", SESSION_IDLE_MS);
}

void reply_hello(struct broker *b, const struct envelope *env, const struct request *q)
{
    write_about(b, outbox_ok(b->outbox, env, q->id, 6));
}

static void write_workers(const struct broker *b, struct msg_writer *w)
{
    msg_str(w, "workers");
    uint32_t n_groups = 0;
    for (int g = served_next_group(b, 0); g < b->n_groups; g = served_next_group(b, g + 1))
        n_groups++;
    msg_array(w, n_groups * (uint32_t)(b->options->tp * b->options->pp));
    for (int g = served_next_group(b, 0); g < b->n_groups; g = served_next_group(b, g + 1)) {
        uint32_t n;
        const struct group_rank_info *ranks = group_ranks(b->groups[g], &n);
        for (uint32_t r = 0; r < n; r++) {
            msg_map(w, 14);
            msg_key_int(w, "group", g);
            msg_key_str(w, "model", served_of_group(b, g)->info.name);
            msg_key_int(w, "rank", r);
            msg_key_int(w, "incarnation", (int64_t)group_incarnation(b->groups[g]));
            msg_key_int(w, "pid", ranks[r].pid);
            msg_key_int(w, "restarts", group_restarts(b->groups[g]));
            msg_key_int(w, "busy_us", (int64_t)ranks[r].busy_us);
            msg_key_int(w, "up_us", (int64_t)ranks[r].up_us);
            msg_key_int(w, "tokens", (int64_t)ranks[r].tokens);
            msg_key_int(w, "reused", (int64_t)ranks[r].reused);
            msg_key_int(w, "kv_bytes", (int64_t)ranks[r].kv_bytes);
            msg_key_int(w, "memory_bytes", figures_memory(ranks[r].pid));
            msg_key_str(w, "device", ranks[r].device);
            msg_key_str(w, "state", group_state_name(group_state(b->groups[g])));
        }
    }
}

static void write_front(const struct front *front, struct msg_writer *w)
{
    struct front_info info;
    front_describe(front, &info);
    msg_str(w, "http");
    msg_map(w, 3 + (info.failure[0] != 0));
    msg_key_str(w, "url", info.url);
    msg_key_int(w, "pid", info.pid);
    msg_key_int(w, "restarts", info.restarts);
    if (info.failure[0])
        msg_key_str(w, "failure", info.failure);
}

static const char *broker_state(const struct broker *b)
{
    if (b->draining)
        return "draining";
    for (int g = served_next_group(b, 0); g < b->n_groups; g = served_next_group(b, g + 1))
        if (group_state(b->groups[g]) == GROUP_READY)
            return "ready";
    return "starting";
}

/* Returns why a group is not ready, whose last start failed. NULL: nothing failed. */
static const char *failure_of(const struct broker *b)
{
    int exit_code;
    for (int g = served_next_group(b, 0); g < b->n_groups; g = served_next_group(b, g + 1))
        if (group_failed_starts(b->groups[g]) > 0)
            return group_last_failure(b->groups[g], &exit_code);
    return NULL;
}

void reply_info(struct broker *b, const struct envelope *env, const struct request *q)
{
    const struct counters *c = &b->counters;
    const char *failure = failure_of(b), *unwritten = outcomes_unwritten(b);
    struct msg_writer *w = outbox_ok(b->outbox, env, q->id,
        23 + FIGURES_FIELDS + (failure != NULL) + (unwritten != NULL) + (b->front != NULL));
    write_about(b, w);
    msg_key_str(w, "state", broker_state(b));
    if (failure)
        msg_key_str(w, "failure", failure);
    if (unwritten)
        msg_key_str(w, "unwritten", unwritten);
    if (b->front)
        write_front(b->front, w);
    msg_key_int(w, "pid", getpid());
    msg_key_int(w, "epoch", (int64_t)store_epoch(b->store));
    msg_key_int(w, "started_ms", b->started_ms);
    msg_key_int(w, "now_ms", now_wall_ms());
    msg_key_int(w, "queued_bytes", (int64_t)store_queued_bytes(b->store));
    msg_key_int(w, "wal_bytes", (int64_t)store_wal_bytes(b->store));
    msg_key_int(w, "received_bytes", (int64_t)connections_received());
    msg_key_int(w, "waiting", waiters_count(b));
    msg_key_int(w, "sessions", sessions_count(b->sessions));
    msg_key_int(w, "session_bytes", (int64_t)sessions_bytes(b->sessions));
    msg_key_int(w, "longest_tick_ms", b->ticks.longest_us / 1000);
    msg_key_int(w, "recent_tick_ms", ticks_recent_ms(&b->ticks));
    figures_write(b, w);
    msg_str(w, "counters");
    msg_map(w, 11);
    msg_key_int(w, "requests", c->requests);
    msg_key_int(w, "refused", c->refused);
    msg_key_int(w, "rows_accepted", c->rows_accepted);
    msg_key_int(w, "rows_done", c->rows_done);
    msg_key_int(w, "rows_failed", c->rows_failed);
    msg_key_int(w, "rows_copied", c->rows_copied);
    msg_key_int(w, "rows_cached", c->rows_cached);
    msg_key_int(w, "tokens", c->tokens);
    msg_key_int(w, "tokens_shared", c->tokens_shared);
    msg_key_int(w, "batches", c->batches);
    msg_key_int(w, "batches_lost", c->batches_lost);
    write_workers(b, w);
    reload_write(b, w);
}

/* ---- status, jobs ---- */

static void write_optional(struct msg_writer *w, const char *key, int known, int64_t v)
{
    msg_str(w, key);
    if (known)
        msg_int(w, v);
    else
        msg_nil(w);
}

#define JOB_FIELDS 18
#define JOBS_US 5000  /* for a page of jobs, which then is shorter */
#define LOOK_EVERY 16 /* jobs: at the clock */

static void write_job(
    struct msg_writer *w, const struct store_job *j, const struct store_mode *mode)
{
    int64_t left = j->accepted - j->done, running = j->cancelled ? 0 : j->running;
    if (running > left)
        running = left;
    msg_key_int(w, "job", j->job);
    msg_key_str(w, "key", j->key);
    msg_key_str(w, "state", job_state_name(j->state));
    msg_key_str(w, "model", j->model);
    msg_key_str(w, "checkpoint", mode->digest);
    if (j->held)
        msg_key_str(w, "reason", j->reason);
    if (j->made_otherwise)
        msg_key_str(w, "made_otherwise", j->reason);
    write_optional(w, "total", j->total >= 0, j->total);
    msg_key_int(w, "accepted", j->accepted);
    msg_key_int(w, "done", j->done);
    msg_key_int(w, "queued", j->cancelled ? 0 : left - running);
    msg_key_int(w, "running", running);
    msg_key_int(w, "failed", j->failed);
    msg_key_int(w, "copied", j->copied);
    msg_key_int(w, "cached", j->cached);
    msg_key_int(w, "cancelled", j->cancelled ? left : 0);
    msg_key_float(w, "rate", (float)j->rate);
    int goes_on = !j->paused && !j->held && !j->cancelled && j->finished_ms == 0;
    write_optional(
        w, "eta_s", j->rate > 0 && goes_on, j->rate > 0 ? (int64_t)((double)left / j->rate) : 0);
    msg_key_int(w, "priority", j->priority);
    msg_key_int(w, "created_ms", j->created_ms);
    write_optional(w, "finished_ms", j->finished_ms > 0, j->finished_ms);
}

static uint32_t job_fields(const struct store_job *j)
{
    return JOB_FIELDS + 1 + (uint32_t)(j->held != 0) + (uint32_t)(j->made_otherwise != 0);
}

static int is_waiting(const struct store_job *j)
{
    return j->state == JOB_OPEN || j->state == JOB_QUEUED || j->state == JOB_RUNNING;
}

struct replaced {
    const struct broker *broker;
    const char *name; /* of a model; NULL: none */
};

static void look_if_replaced(void *arg, int64_t mode)
{
    struct replaced *look = arg;
    int place = store_place_of(look->broker->store, mode);
    if (place >= 0 && look->broker->models[place]->state >= SERVED_OLD)
        look->name = look->broker->models[place]->info.name;
}

int reply_status(struct broker *b, const struct envelope *env, const struct request *q, int64_t job,
    struct err *e)
{
    struct store_job j;
    struct store_mode mode;
    int rc = store_get_job(b->store, job, &j, e);
    if (rc != 1 || (rc = store_read_mode(b->store, j.mode, &mode, e)) != 0)
        return rc;
    char failure[BLOCKED_BYTES] = "";
    if (is_waiting(&j) && (rc = blocked_why(b, job, failure, e)) != 0)
        return rc;
    const char *unwritten = is_waiting(&j) ? outcomes_unwritten(b) : NULL;
    struct replaced replaced = {.broker = b};
    if (served_count_earlier(b) > 0 &&
        (rc = store_job_modes(b->store, job, look_if_replaced, &replaced, e)) < 0)
        return rc;
    uint32_t n =
        job_fields(&j) + 1 + (failure[0] != 0) + (unwritten != NULL) + (replaced.name != NULL);
    struct msg_writer *w = outbox_ok(b->outbox, env, q->id, n);
    write_job(w, &j, &mode);
    msg_key_str(w, "mode", mode.text);
    if (failure[0])
        msg_key_str(w, "failure", failure);
    if (unwritten)
        msg_key_str(w, "unwritten", unwritten);
    if (replaced.name)
        msg_key_str(w, "replaced", replaced.name);
    return 0;
}

struct job_list {
    struct store *store;
    int64_t mode; /* the last job's; 0: none yet */
    struct store_mode is;
    struct msg_writer jobs;
    struct slice state;
    uint32_t n, limit;
    int64_t next;
    size_t max_bytes;
    long long until_us;
};

static int add_job(void *arg, const struct store_job *j)
{
    struct job_list *l = arg;
    struct err ignored;
    const char *state = job_state_name(j->state);
    l->next = j->job;
    if (l->state.at &&
        (strlen(state) != l->state.len || memcmp(state, l->state.at, l->state.len) != 0))
        return 0;
    if (j->mode != l->mode)
        (void)store_read_mode(l->store, j->mode, &l->is, &ignored);
    l->mode = j->mode;
    msg_map(&l->jobs, job_fields(j));
    write_job(&l->jobs, j, &l->is);
    return ++l->n == l->limit || l->jobs.buffer.size > l->max_bytes ||
           (l->n % LOOK_EVERY == 0 && now_mono_us() >= l->until_us);
}

/* The set of jobs to search for this state. */
static enum store_jobs set_of(struct slice state)
{
    for (int i = JOB_OPEN; state.at && i <= JOB_CANCELLED; i++) {
        const char *name = job_state_name((enum job_state)i);
        if (strlen(name) == state.len && memcmp(name, state.at, state.len) == 0)
            return store_jobs_of((enum job_state)i);
    }
    return JOBS_ALL;
}

/* The jobs below `before`, the newest first. Looks at some for each that it finds, and so may find
 * none in a page that goes on. */
static int each_below(struct store *s, int64_t before, struct job_list *l, struct err *e)
{
    struct store_job j;
    int rc;
    l->next = before;
    while ((rc = store_job_below(s, l->next, &j, e)) == 1 && add_job(l, &j) == 0)
        if (now_mono_us() >= l->until_us)
            break;
    if (rc == 0)
        l->next = 0;
    return rc < 0 ? rc : 0;
}

static int check_page(const struct request *q, struct err *e)
{
    if (q->before < 0 || q->after == 0)
        return 0;
    return err_field(e, ASSAY_EBADREQ, "before", "expected before or after, found both");
}

int reply_jobs(struct broker *b, const struct envelope *env, const struct request *q, struct err *e)
{
    int64_t after = q->after > INT32_MAX ? INT32_MAX : (int64_t)q->after;
    struct job_list l = {.store = b->store,
        .state = q->state,
        .limit = q->limit ? q->limit : REPLY_DEFAULT_LIMIT,
        .next = after,
        .max_bytes = b->limits.max_message_bytes / 2,
        .until_us = now_mono_us() + JOBS_US};
    msg_writer_init(&l.jobs);
    struct store_job_page page = {set_of(q->state), after, UINT32_MAX};
    int rc = check_page(q, e);
    if (rc == 0)
        rc = q->before > 0 ? each_below(b->store, q->before, &l, e)
                           : store_each_job(b->store, &page, add_job, &l, e);
    if (rc == 0) {
        struct msg_writer *w = outbox_ok(b->outbox, env, q->id, 2);
        msg_str(w, "jobs");
        msg_array(w, l.n);
        msg_raw(w, (struct slice){(const uint8_t *)l.jobs.buffer.data, l.jobs.buffer.size});
        msg_key_int(w, "next", l.next);
    }
    msg_writer_release(&l.jobs);
    return rc;
}
