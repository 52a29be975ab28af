/* group.c - starts, watches and ends the ranks of a group, and follows its batches (group.h).
 *
 * Any error of one rank ends the incarnation: fail() kills and reaps every rank, gives the batches
 * back as lost, revokes the slots, and sets the time of the next start. Nothing is repaired in
 * place.
 *
 * A rank that a signal has stopped is noticed in any state of the group, because the kernel reports
 * it: idle ranks need not send signs of life, and a slow rank is never blamed.
 *
 * Ranks increase progress counters after each block of work. If none changes for hang_ms while a
 * batch is in flight, the group hangs. The clock restarts if group_tick was not called for a while,
 * so that a broker that was itself stopped does not blame the ranks. */
#include "broker/workers/group.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

#include "broker/workers/failures.h"
#include "broker/workers/in_flight.h"
#include "broker/workers/ranks.h"
#include "schema/alloc.h"
#include "schema/clock.h"
#include "schema/log.h"

#define LOOK_MS 1000 /* between two checks for stopped ranks */

struct group {
    struct group_options options;
    enum group_state state;
    struct stage *stage;
    struct ranks ranks; /* of this incarnation */
    struct group_rank_info infos[GROUP_MAX_RANKS];
    uint64_t incarnation;
    struct adapters loaded; /* by this incarnation */
    int reloads;            /* it lacks some, and is to start anew */
    struct in_flight in_flight;
    struct batch *ended; /* on their way back to the owner */
    long long start_at_ms, started_ms;
    long long stop_by_ms;               /* when ranks are killed after `stop`; 0: not sent */
    long long progressed_ms, ticked_ms; /* when progress was last seen; when tick was last called */
    uint64_t progress;
    long long looked_ms; /* last check for stopped ranks */
    struct failures failures;
};

int group_new(struct group **out, const struct group_options *options, struct err *e)
{
    *out = NULL;
    if (options->tp < 1 || options->pp < 1 || options->pp > GROUP_MAX_RANKS ||
        options->tp > GROUP_MAX_RANKS / options->pp)
        return err_set(e, ASSAY_EBADREQ, "tp times pp: expected 1 to %d, found %u times %u",
            GROUP_MAX_RANKS, options->tp, options->pp);
    struct group *g = xcalloc(1, sizeof *g);
    g->options = *options;
    g->state = GROUP_DEAD;
    g->in_flight = (struct in_flight){.tp = options->tp, .pp = options->pp};
    ranks_init(&g->ranks, &g->options);
    int rc = stage_new(&g->stage, &options->stage, e);
    *out = g;
    if (rc != 0)
        group_free(out);
    return rc;
}

/* ---- ends ---- */

/* Ends all ranks and forgets what they reported. */
static void end_ranks(struct group *g, int *exit_code, int *signal)
{
    ranks_end(&g->ranks, exit_code, signal);
    memset(g->infos, 0, sizeof g->infos);
}

static void send_home(struct group *g, struct batch *b, enum batch_outcome outcome)
{
    b->outcome = outcome;
    batch_append(&g->ended, b);
}

/* Gives back all batches as lost. If a rank ended because the checkpoint was changed, no batch is
 * to blame; else the one that `running` is the place of. */
static void lose_batches(struct group *g, int exit_code, int signal, uint32_t running)
{
    int blame = g->failures.said_exit != EX_CONFIG;
    for (uint32_t i = 0; i < g->in_flight.n; i++) {
        struct batch *b = g->in_flight.at[i].batch;
        b->lost_exit = exit_code;
        b->lost_signal = signal;
        send_home(g, b, i == running && blame ? BATCH_LOST_RUNNING : BATCH_LOST_WAITING);
    }
    g->in_flight.n = 0;
    stage_revoke_all(g->stage);
}

/* rank: whose fault it is; -1: unknown */
static void fail(struct group *g, long long now_ms, int rank, const char *reason)
{
    int exit_code = -1, signal = 0, state = (int)g->state;
    uint32_t running = in_flight_running(&g->in_flight, rank);
    end_ranks(g, &exit_code, &signal);
    if (exit_code < 0 && g->failures.said_exit)
        exit_code = g->failures.said_exit;
    failures_note(&g->failures, reason, exit_code, signal);
    failures_count(&g->failures, state == GROUP_STARTING);
    log_warn("event=group_died group=%d incarnation=%llu batches=%u running_rows=%u reason=\"%s\" "
             "restart_in_ms=%lld",
        g->options.number, (unsigned long long)g->incarnation, g->in_flight.n,
        running < g->in_flight.n ? g->in_flight.at[running].batch->n_rows : 0, g->failures.why,
        g->failures.back_off_ms);
    lose_batches(g, exit_code, signal, running);
    g->state = state == GROUP_DRAINING ? GROUP_STOPPED : GROUP_DEAD;
    g->start_at_ms = now_ms + failures_back_off(&g->failures);
}

/* Fails the group. A rank of another mode or checkpoint counts as one that refuses its options. */
static void fail_with(struct group *g, long long now_ms, int rc, uint32_t rank, const char *reason)
{
    if (rc == ASSAY_EUNSUPPORTED)
        g->failures.said_exit = EX_CONFIG;
    fail(g, now_ms, (int)rank, reason);
}

void group_free(struct group **out)
{
    struct group *g = *out;
    int exit_code, signal;
    if (!g)
        return;
    end_ranks(g, &exit_code, &signal);
    if (g->stage) /* NULL when group_new failed */
        lose_batches(g, -1, 0, 0);
    batch_free_all(&g->ended);
    stage_free(&g->stage);
    ranks_release(&g->ranks);
    free(g);
    *out = NULL;
}

/* ---- start ---- */

static void start(struct group *g, long long now_ms)
{
    struct err e = {0};
    g->incarnation++;
    g->state = GROUP_STARTING;
    g->failures.said_exit = 0;
    g->started_ms = g->progressed_ms = now_ms;
    g->loaded = g->options.adapters ? g->options.adapters->list : (struct adapters){0};
    g->reloads = 0;
    g->stop_by_ms = 0;
    if (ranks_start(&g->ranks, g->incarnation, g->stage, &e) != 0)
        fail(g, now_ms, -1, e.msg);
}

/* ---- messages ---- */

static int on_ready(struct group *g, const struct control *c, long long now_ms, struct err *e)
{
    struct group_rank_info *info = &g->infos[c->rank];
    if (g->options.mode && strcmp(g->options.mode, c->mode) != 0)
        return err_set(e, ASSAY_EUNSUPPORTED, "rank %d computes otherwise than expected (%s): %s",
            c->rank, g->options.mode, c->mode);
    if (g->options.digest && strcmp(g->options.digest, c->checkpoint) != 0)
        return err_set(e, ASSAY_EUNSUPPORTED, "rank %d: expected the checkpoint %s, found '%s'",
            c->rank, g->options.digest, c->checkpoint);
    info->ready = 1;
    info->pid = c->pid;
    snprintf(info->device, sizeof info->device, "%s", c->device);
    for (uint32_t r = 0; r < group_size(&g->options); r++)
        if (!g->infos[r].ready)
            return 0;
    if (g->state != GROUP_STARTING)
        return 0;
    g->state = GROUP_READY;
    g->failures.failed_starts = g->failures.bad_starts = 0;
    g->progressed_ms = now_ms;
    log_info("event=group_ready group=%d incarnation=%llu tp=%u pp=%u device=\"%s\" "
             "start_ms=%lld",
        g->options.number, (unsigned long long)g->incarnation, g->options.tp, g->options.pp,
        info->device, now_ms - g->started_ms);
    return 0;
}

/* Tells pipeline stages to run the batches that they can run now. */
static void send_on(struct group *g)
{
    for (uint32_t i = 0; i < g->in_flight.n; i++) {
        struct in_flight_batch *f = &g->in_flight.at[i];
        struct control run = {
            .type = CONTROL_RUN, .incarnation = g->incarnation, .token = f->token};
        while (in_flight_may_go_on(&g->in_flight, f))
            ranks_send_stage(&g->ranks, f->sent++, &run);
    }
}

/* Takes the results when all ranks are done, and frees the slot. */
static int finish(struct group *g, struct in_flight_batch *f, struct err *e)
{
    struct batch *b = f->batch;
    int rc = stage_collect(g->stage, &f->token, &b->values, &b->n_values, e);
    if (rc != 0)
        return rc;
    b->ms = f->ms;
    stage_release(g->stage, &f->token);
    send_home(g, b, BATCH_DONE);
    in_flight_remove(&g->in_flight, f);
    g->failures.back_off_ms = 0;
    return 0;
}

/* Takes a rank's figures. */
static void take_info(struct group *g, const struct control *c)
{
    struct group_rank_info *info = &g->infos[c->rank];
    info->busy_us = c->busy_us;
    info->up_us = c->up_us;
    info->tokens = c->tokens;
    info->reused = c->reused;
    info->kv_bytes = c->kv_bytes;
}

static int on_done(struct group *g, const struct control *c, struct err *e)
{
    struct in_flight_batch *f = in_flight_find(&g->in_flight, &c->token);
    if (!f) {
        log_warn("event=stale_done of_rank=%d slot=%u", c->rank, c->token.slot);
        return 0;
    }
    int rc = in_flight_done(&g->in_flight, f, c, e);
    if (rc < 0)
        return rc;
    take_info(g, c);
    if (rc == 1)
        rc = finish(g, f, e);
    if (rc == 0)
        send_on(g);
    return rc;
}

/* Handles one message: 0, or negative with *e: the group must end. */
static int on_message(struct group *g, const uint8_t *bytes, size_t len, uint32_t rank,
    long long now_ms, struct err *e)
{
    struct control c;
    int rc = control_decode(&c, bytes, len, e);
    if (rc == 0 && (c.rank != (int32_t)rank || c.incarnation != g->incarnation))
        rc = err_set(e, ASSAY_EBADMSG, "it is of rank %d, incarnation %llu", c.rank,
            (unsigned long long)c.incarnation);
    if (rc != 0) {
        log_warn("event=bad_control of_rank=%u error=\"%s\"", rank, e->msg);
        return 0;
    }
    switch (c.type) {
    case CONTROL_READY:
        return on_ready(g, &c, now_ms, e);
    case CONTROL_DONE:
        return on_done(g, &c, e);
    case CONTROL_FAILED:
        g->failures.said_exit = c.code > 0 && c.code < 256 ? (int)c.code : 0;
        return err_set(e, ASSAY_EINTERNAL, "rank %u: %s", rank, c.message);
    default:
        log_warn("event=bad_control of_rank=%u type=%d", rank, (int)c.type);
        return 0;
    }
}

/* Receives one message, of *rank: 1: handled; 0: none; negative: the group must end. */
static int receive(struct group *g, long long now_ms, uint32_t *rank, struct err *e)
{
    zmq_msg_t body;
    if (!ranks_receive(&g->ranks, rank, &body))
        return 0;
    int rc = on_message(g, zmq_msg_data(&body), zmq_msg_size(&body), *rank, now_ms, e);
    zmq_msg_close(&body);
    return rc < 0 ? rc : 1;
}

/* ---- tick ---- */

static uint64_t total_progress(const struct group *g)
{
    uint64_t sum = 0;
    for (uint32_t r = 0; r < group_size(&g->options); r++)
        sum += stage_progress(g->stage, r);
    return sum;
}

/* Returns the time at which a lack of progress counts as a hang. */
static long long hang_deadline(struct group *g, long long now_ms)
{
    uint64_t progress = total_progress(g);
    if (progress != g->progress || now_ms - g->ticked_ms > g->options.hang_ms / 2)
        g->progressed_ms = now_ms;
    g->progress = progress;
    g->ticked_ms = now_ms;
    return g->in_flight.n > 0 ? g->progressed_ms + g->options.hang_ms : FOREVER;
}

/* The ranks have nothing more to do. */
static int is_stopping(const struct group *g)
{
    return (g->state == GROUP_DRAINING || g->reloads) && g->in_flight.n == 0;
}

/* Stops the ranks, and kills those that have not ended in time. */
static long long tick_stopping(struct group *g, long long now_ms)
{
    int exit_code, signal;
    if (g->stop_by_ms == 0) {
        ranks_send_all(
            &g->ranks, &(struct control){.type = CONTROL_STOP, .incarnation = g->incarnation});
        g->stop_by_ms = now_ms + g->options.hang_ms;
    }
    if (!ranks_all_ended(&g->ranks) && now_ms < g->stop_by_ms)
        return g->stop_by_ms;
    end_ranks(g, &exit_code, &signal);
    g->stop_by_ms = 0;
    g->state = g->state == GROUP_DRAINING ? GROUP_STOPPED : GROUP_DEAD;
    g->start_at_ms = now_ms;
    return g->state == GROUP_STOPPED ? FOREVER : now_ms;
}

static long long look_interval(const struct group *g)
{
    return g->options.hang_ms / 2 < LOOK_MS ? g->options.hang_ms / 2 : LOOK_MS;
}

/* Returns a rank that has been stopped for hang_ms; -1: none. After a pause of this process the
 * clock restarts: the rank may have been stopped with it, and will go on with it. */
static int find_stopped(struct group *g, long long now_ms)
{
    long long since_ms = now_ms - g->looked_ms, interval = look_interval(g);
    if (since_ms < interval)
        return -1;
    g->looked_ms = now_ms;
    return ranks_find_stopped(&g->ranks, now_ms, g->options.hang_ms, since_ms > 2 * interval + 500);
}

static long long earliest(long long a, long long b)
{
    return a < b ? a : b;
}

static long long tick_alive(struct group *g, long long now_ms)
{
    struct err e = {0};
    char reason[64];
    int rc, dead, stopped;
    uint32_t rank = 0;
    while ((rc = receive(g, now_ms, &rank, &e)) == 1)
        ;
    long long deadline = hang_deadline(g, now_ms), half = now_ms + g->options.hang_ms / 4;
    if (rc < 0)
        fail_with(g, now_ms, rc, rank, e.msg);
    else if (!is_stopping(g) && (dead = ranks_find_dead(&g->ranks)) >= 0) {
        snprintf(reason, sizeof reason, "rank %d ended", dead);
        fail(g, now_ms, dead, reason);
    } else if (now_ms >= deadline)
        fail(g, now_ms, -1, "no progress: hung");
    else if ((stopped = find_stopped(g, now_ms)) >= 0) {
        snprintf(reason, sizeof reason, "rank %d is stopped by a signal", stopped);
        fail(g, now_ms, stopped, reason);
    } else if (g->state == GROUP_STARTING && now_ms - g->started_ms > g->options.start_ms)
        fail(g, now_ms, -1, "not ready in time");
    else if (is_stopping(g))
        return tick_stopping(g, now_ms);
    if (g->state == GROUP_DEAD)
        return g->start_at_ms;
    if (g->state == GROUP_STOPPED)
        return FOREVER;
    long long look = g->looked_ms + look_interval(g);
    return earliest(look, deadline == FOREVER ? FOREVER : earliest(half, deadline));
}

long long group_tick(struct group *g, long long now_ms)
{
    if (g->state == GROUP_DEAD && now_ms >= g->start_at_ms)
        start(g, now_ms);
    if (g->state == GROUP_STOPPED)
        return FOREVER;
    if (g->state == GROUP_DEAD)
        return g->start_at_ms;
    return tick_alive(g, now_ms);
}

int group_poll_items(const struct group *g, zmq_pollitem_t *items, int max)
{
    return ranks_poll_items(&g->ranks, items, max);
}

/* ---- batches ---- */

/* The number that this incarnation has given the adapter; 0: none. */
static uint32_t adapter_number(const struct group *g, const char *digest)
{
    for (uint32_t k = 0; digest && k < g->loaded.n; k++)
        if (strcmp(g->loaded.at[k].digest, digest) == 0)
            return k + 1;
    return digest ? ADAPTERS_UNKNOWN : 0;
}

static int lacks_adapter(const struct group *g, const struct batch *b)
{
    uint32_t i = 0;
    while (i < b->n_rows && adapter_number(g, b->rows[i]->adapter) != ADAPTERS_UNKNOWN)
        i++;
    return i < b->n_rows;
}

static void fill_rows(const struct group *g, const struct batch *b, struct stage_row *rows,
    const int32_t **ids, const int32_t **positions)
{
    for (uint32_t i = 0; i < b->n_rows; i++) {
        const struct sequence *r = b->rows[i];
        rows[i] = (struct stage_row){.n_tokens = r->n_tokens,
            .pool = r->pool,
            .n_positions = r->n_positions,
            .n_values = r->n_values,
            .n_shared = r->n_shared,
            .adapter = adapter_number(g, r->adapter)};
        ids[i] = r->ids;
        positions[i] = r->positions;
    }
}

int group_run(struct group *g, struct batch **b, struct err *e)
{
    if (group_free_slots(g) == 0 || lacks_adapter(g, *b))
        return 0;
    uint32_t n = (*b)->n_rows;
    struct stage_row *rows = xcalloc(n, sizeof *rows);
    const int32_t **ids = xcalloc(2 * (size_t)n, sizeof *ids), **positions = ids + n;
    struct in_flight_batch *f = &g->in_flight.at[g->in_flight.n];
    fill_rows(g, *b, rows, ids, positions);
    *f = (struct in_flight_batch){.batch = *b};
    struct stage_fill fill = {n, rows, ids, positions};
    int rc = stage_publish(g->stage, g->options.epoch, g->incarnation, &fill, &f->token, e);
    free(rows);
    free(ids);
    if (rc != 1)
        return rc;
    if (g->in_flight.n++ == 0)
        g->progressed_ms = g->ticked_ms = now_mono_ms();
    *b = NULL;
    send_on(g);
    return 1;
}

struct batch *group_take(struct group *g)
{
    return batch_pop(&g->ended);
}

void group_stop(struct group *g)
{
    if (g->state == GROUP_READY)
        g->state = GROUP_DRAINING;
    else if (g->state != GROUP_STOPPED) {
        int exit_code, signal;
        end_ranks(g, &exit_code, &signal);
        lose_batches(g, -1, 0, 0);
        g->state = GROUP_STOPPED;
    }
}

/* ---- facts ---- */

const char *group_state_name(enum group_state state)
{
    static const char *const names[] = {"starting", "ready", "dead", "draining", "dead"};
    return names[state];
}

enum group_state group_state(const struct group *g)
{
    return g->state;
}

uint64_t group_incarnation(const struct group *g)
{
    return g->incarnation;
}

uint32_t group_in_flight(const struct group *g)
{
    return g->in_flight.n;
}

int group_is_empty(const struct group *g)
{
    return g->in_flight.n == 0 && !g->ended;
}

int group_takes_batches(const struct group *g)
{
    return g->state == GROUP_READY && !g->reloads;
}

uint32_t group_free_slots(const struct group *g)
{
    return group_takes_batches(g) ? stage_free_slots(g->stage) : 0;
}

/* ---- adapters ---- */

static int lacks_any(const struct group *g)
{
    const struct adapters *wanted = &g->options.adapters->list;
    uint32_t k = 0;
    while (k < wanted->n && adapter_number(g, wanted->at[k].digest) != ADAPTERS_UNKNOWN)
        k++;
    return k < wanted->n;
}

void group_set_dir(struct group *g, const char *model_dir)
{
    g->options.model_dir = model_dir;
}

void group_adapters_changed(struct group *g)
{
    int exit_code, signal;
    if ((g->state != GROUP_READY && g->state != GROUP_STARTING) || !lacks_any(g))
        return;
    if (g->state == GROUP_READY) {
        g->reloads = 1;
        return;
    }
    end_ranks(g, &exit_code, &signal);
    g->state = GROUP_DEAD;
    g->start_at_ms = now_mono_ms();
}

int group_has_adapters(const struct group *g)
{
    return g->state == GROUP_READY && !g->reloads && !lacks_any(g);
}

const struct group_rank_info *group_ranks(const struct group *g, uint32_t *n)
{
    *n = group_size(&g->options);
    return g->infos;
}

int64_t group_restarts(const struct group *g)
{
    return g->failures.restarts;
}

int group_failed_starts(const struct group *g)
{
    return g->failures.failed_starts;
}

int group_is_hopeless(const struct group *g)
{
    return failures_are_hopeless(&g->failures);
}

int group_failure_stays(const struct group *g)
{
    return g->failures.bad_starts > 0;
}

const char *group_last_failure(const struct group *g, int *exit_code)
{
    *exit_code = g->failures.exit_code;
    return g->failures.why;
}
