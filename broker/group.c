/* group.c - see group.h.
 *
 * Whatever goes wrong with one rank ends the incarnation: fail() kills and reaps every rank, hands
 * the batches back as lost, revokes the slots, and sets the time of the next start. Nothing is
 * repaired in place.
 *
 * A hang is seen by the progress counters that ranks bump after each block of work: all unchanged
 * for hang_ms while a batch is in flight. The clock starts anew when this function was not called
 * for a while, so that a broker that was itself stopped does not blame the ranks. */
#include "broker/group.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>
#include <sysexits.h>
#include <unistd.h>

#include "broker/spawn.h"
#include "schema/log.h"
#include "schema/msg.h"

#define BACKOFF_FIRST_MS 500
#define BACKOFF_MAX_MS 30000
#define FOREVER (1ll << 60)
#define MAX_ARGUMENTS 48

/* A batch that was handed over, and what the ranks have said of it. */
struct flight {
    struct batch *batch; /* NULL: this entry is free */
    struct stage_token token;
    uint32_t done; /* bit per rank */
    uint64_t digest;
};

/* A batch on its way back to the owner. */
struct homecoming {
    struct batch *batch;
    enum batch_outcome outcome;
    struct homecoming *next;
};

struct group {
    struct group_options options;
    enum group_state state;
    struct stage *stage;
    void *socket; /* ROUTER, of this incarnation */
    char socket_path[256];
    int comm_fd, pipe_fd;
    struct child children[GROUP_MAX_RANKS];
    struct group_rank_info ranks[GROUP_MAX_RANKS];
    uint64_t incarnation;
    int64_t restarts;
    struct flight flights[STAGE_MAX_SLOTS]; /* in order of hand-over */
    uint32_t n_flights;
    struct homecoming *home, **home_end;
    struct msg_writer writer;
    long long start_at_ms, started_ms, backoff_ms;
    long long stop_by_ms;               /* `stop` was sent, ranks are killed then; 0: not sent */
    long long progressed_ms, ticked_ms; /* when progress was last seen; when tick was last called */
    uint64_t progress;
    char failure[256];
    int failure_exit;
    int bad_starts; /* in a row that ended because of what the ranks were asked for */
};

int group_new(struct group **out, const struct group_options *options, struct err *e)
{
    *out = NULL;
    if (options->tp < 1 || options->tp > GROUP_MAX_RANKS)
        return err_set(
            e, ASSAY_EBADREQ, "tp: expected 1 to %d, found %u", GROUP_MAX_RANKS, options->tp);
    struct group *g = xcalloc(1, sizeof *g);
    g->options = *options;
    g->state = GROUP_DEAD;
    g->comm_fd = g->pipe_fd = -1;
    g->home_end = &g->home;
    msg_writer_init(&g->writer);
    for (int r = 0; r < GROUP_MAX_RANKS; r++)
        g->children[r].pidfd = -1;
    int rc = stage_new(&g->stage, &options->stage, e);
    *out = g;
    if (rc != 0)
        group_free(out);
    return rc;
}

/* ---- ends ---- */

static void close_fd(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

/* Kill and reap every rank. The first that ended by itself gives *exit_code and *signal. */
static void end_ranks(struct group *g, int *exit_code, int *signal)
{
    int known = 0, code, number;
    long long until_ms = now_mono_ms() + CHILD_END_MS;
    for (uint32_t r = 0; r < g->options.tp; r++)
        if (!known && child_reap(&g->children[r], 0, &code, &number)) {
            known = 1;
            *exit_code = code;
            *signal = number;
        }
    for (uint32_t r = 0; r < g->options.tp; r++)
        child_kill(&g->children[r]);
    for (uint32_t r = 0; r < g->options.tp; r++) {
        child_end(&g->children[r], until_ms, &code, &number);
        g->ranks[r] = (struct group_rank_info){0};
    }
    if (g->socket) {
        zmq_close(g->socket);
        unlink(g->socket_path); /* ZeroMQ leaves it */
    }
    g->socket = NULL;
    close_fd(&g->comm_fd);
    close_fd(&g->pipe_fd);
}

static void send_home(struct group *g, struct batch *b, enum batch_outcome outcome)
{
    struct homecoming *h = xcalloc(1, sizeof *h);
    h->batch = b;
    h->outcome = outcome;
    *g->home_end = h;
    g->home_end = &h->next;
}

static void lose_batches(struct group *g, int exit_code, int signal)
{
    for (uint32_t i = 0; i < g->n_flights; i++) {
        struct batch *b = g->flights[i].batch;
        b->lost_exit = exit_code;
        b->lost_signal = signal;
        send_home(g, b, i == 0 ? BATCH_LOST_RUNNING : BATCH_LOST_WAITING);
    }
    g->n_flights = 0;
    stage_revoke_all(g->stage);
}

static void fail(struct group *g, long long now_ms, const char *reason)
{
    int exit_code = -1, signal = 0;
    int draining = g->state == GROUP_DRAINING;
    end_ranks(g, &exit_code, &signal);
    g->failure_exit = exit_code;
    g->bad_starts = exit_code == EX_CONFIG ? g->bad_starts + 1 : 0;
    if (signal)
        snprintf(g->failure, sizeof g->failure, "%.180s (signal %d)", reason, signal);
    else if (exit_code >= 0)
        snprintf(g->failure, sizeof g->failure, "%.180s (exit code %d)", reason, exit_code);
    else
        snprintf(g->failure, sizeof g->failure, "%.180s", reason);
    log_warn("event=group_died group=%d incarnation=%llu batches=%u running_rows=%u reason=\"%s\" "
             "restart_in_ms=%lld",
        g->options.number, (unsigned long long)g->incarnation, g->n_flights,
        g->n_flights ? g->flights[0].batch->n_rows : 0, g->failure, g->backoff_ms);
    lose_batches(g, exit_code, signal);
    g->state = draining ? GROUP_STOPPED : GROUP_DEAD;
    g->start_at_ms = now_ms + g->backoff_ms;
    g->backoff_ms = g->backoff_ms == 0 ? BACKOFF_FIRST_MS : 2 * g->backoff_ms;
    if (g->backoff_ms > BACKOFF_MAX_MS)
        g->backoff_ms = BACKOFF_MAX_MS;
    g->restarts++;
}

/* A rank that is not what was described fails as one that refuses its options. */
static void fail_with(struct group *g, long long now_ms, int rc, const char *reason)
{
    int before = g->bad_starts;
    fail(g, now_ms, reason);
    if (rc != ASSAY_EUNSUPPORTED)
        return;
    g->failure_exit = EX_CONFIG;
    g->bad_starts = before + 1;
}

void group_free(struct group **out)
{
    struct group *g = *out;
    int exit_code, signal;
    if (!g)
        return;
    end_ranks(g, &exit_code, &signal);
    if (g->stage) /* else group_new failed */
        lose_batches(g, -1, 0);
    for (struct homecoming *h = g->home, *next; h; h = next) {
        next = h->next;
        batch_free(&h->batch);
        free(h);
    }
    stage_free(&g->stage);
    msg_writer_release(&g->writer);
    free(g);
    *out = NULL;
}

/* ---- start ---- */

static int bind_socket(struct group *g, char *endpoint, size_t size, struct err *e)
{
    int zero = 0, mandatory = 1;
    struct sockaddr_un address;
    int n = snprintf(g->socket_path, sizeof g->socket_path, "%s/group-%d-%llu.sock",
        g->options.run_dir, g->options.number, (unsigned long long)g->incarnation);
    if (n >= (int)sizeof address.sun_path)
        return err_set(e, ASSAY_EIO,
            "socket path: expected below %zu bytes, found %d; use a shorter data directory than %s",
            sizeof address.sun_path, n, g->options.run_dir);
    snprintf(endpoint, size, "ipc://%s", g->socket_path);
    g->socket = zmq_socket(g->options.zmq_context, ZMQ_ROUTER);
    if (!g->socket || zmq_setsockopt(g->socket, ZMQ_LINGER, &zero, sizeof zero) != 0 ||
        zmq_setsockopt(g->socket, ZMQ_ROUTER_MANDATORY, &mandatory, sizeof mandatory) != 0 ||
        zmq_bind(g->socket, endpoint) != 0)
        return err_set(e, ASSAY_EIO, "cannot bind '%s': %s", endpoint, zmq_strerror(errno));
    return 0;
}

static int start_rank(
    struct group *g, uint32_t rank, const char *endpoint, int parent_fd, struct err *e)
{
    const struct group_options *o = &g->options;
    struct {
        const char *name;
        unsigned long long value;
    } numbers[] = {{"--rank", rank}, {"--tp", o->tp}, {"--incarnation", g->incarnation},
        {"--input-fd", (unsigned)stage_input_fd(g->stage)},
        {"--output-fd", (unsigned)stage_output_fd(g->stage)}, {"--comm-fd", (unsigned)g->comm_fd},
        {"--parent-fd", (unsigned)parent_fd},
        {"--threads", o->threads / o->tp > 0 ? o->threads / o->tp : 1},
        {"--max-batch-tokens", o->stage.max_tokens}, {"--max-len", o->max_len},
        {"--max-rows", o->stage.max_rows}, {"--deadline-ms", 10ull * o->hang_ms},
        {"--start-ms", o->start_ms}, {"--gpu", o->gpus ? (unsigned)o->gpus[rank] : 0}};
    enum { N = sizeof numbers / sizeof numbers[0] };
    char text[N][24];
    const char *argv[MAX_ARGUMENTS] = {o->worker_path, "--model", o->model_dir, "--control",
        endpoint, "--isa", o->isa, "--cache-dir", o->run_dir, "--quant", o->quant, "--dtype",
        o->dtype};
    int n = 13,
        keep[] = {stage_input_fd(g->stage), stage_output_fd(g->stage), g->comm_fd, parent_fd};
    for (int i = 0; i < N; i++) {
        snprintf(text[i], sizeof text[i], "%llu", numbers[i].value);
        argv[n++] = numbers[i].name;
        argv[n++] = text[i];
    }
    return child_start(&g->children[rank], (char *const *)argv, keep, 4, -1, -1, e);
}

static int start_ranks(struct group *g, struct err *e)
{
    char endpoint[512];
    int ends[2];
    int rc = bind_socket(g, endpoint, sizeof endpoint, e);
    if (rc == 0 && (g->comm_fd = stage_segment_new(stage_comm_bytes(g->options.tp), e)) < 0)
        rc = g->comm_fd;
    if (rc == 0 && pipe2(ends, O_CLOEXEC) != 0)
        rc = err_errno(e, ASSAY_EIO, "pipe");
    if (rc != 0)
        return rc;
    g->pipe_fd = ends[1];
    for (uint32_t r = 0; rc == 0 && r < g->options.tp; r++)
        rc = start_rank(g, r, endpoint, ends[0], e);
    close(ends[0]);
    return rc;
}

static void start(struct group *g, long long now_ms)
{
    struct err e = {0};
    g->incarnation++;
    g->state = GROUP_STARTING;
    g->started_ms = g->progressed_ms = now_ms;
    if (start_ranks(g, &e) != 0)
        fail(g, now_ms, e.msg);
}

/* ---- messages ---- */

static void send_to_rank(struct group *g, uint32_t rank, const struct control *c)
{
    char name[8];
    control_encode(c, &g->writer);
    int n = snprintf(name, sizeof name, "r%u", rank);
    if (zmq_send(g->socket, name, (size_t)n, ZMQ_SNDMORE | ZMQ_DONTWAIT) < 0 ||
        zmq_send(g->socket, g->writer.buffer.data, g->writer.buffer.size, ZMQ_DONTWAIT) < 0)
        log_debug("event=control_not_sent rank=%u error=%s", rank,
            zmq_strerror(errno)); /* its death will be seen */
}

static void send_to_all(struct group *g, const struct control *c)
{
    for (uint32_t r = 0; r < g->options.tp; r++)
        send_to_rank(g, r, c);
}

static int on_ready(struct group *g, const struct control *c, long long now_ms, struct err *e)
{
    struct group_rank_info *info = &g->ranks[c->rank];
    if (g->options.mode && strcmp(g->options.mode, c->mode) != 0)
        return err_set(e, ASSAY_EUNSUPPORTED, "rank %d computes otherwise than expected (%s): %s",
            c->rank, g->options.mode, c->mode);
    info->ready = 1;
    info->pid = c->pid;
    snprintf(info->device, sizeof info->device, "%s", c->device);
    for (uint32_t r = 0; r < g->options.tp; r++)
        if (!g->ranks[r].ready)
            return 0;
    if (g->state != GROUP_STARTING)
        return 0;
    g->state = GROUP_READY;
    g->bad_starts = 0;
    g->progressed_ms = now_ms;
    log_info("event=group_ready group=%d incarnation=%llu tp=%u device=\"%s\" start_ms=%lld",
        g->options.number, (unsigned long long)g->incarnation, g->options.tp, info->device,
        now_ms - g->started_ms);
    return 0;
}

static struct flight *find_flight(struct group *g, const struct stage_token *token)
{
    for (uint32_t i = 0; i < g->n_flights; i++)
        if (stage_token_equal(&g->flights[i].token, token))
            return &g->flights[i];
    return NULL;
}

/* All ranks are done with it: copy the results, free the slot. */
static int finish(struct group *g, struct flight *f, uint32_t ms, struct err *e)
{
    const float *values;
    uint32_t n;
    struct batch *b = f->batch;
    int rc = stage_collect(g->stage, &f->token, &values, &n, e);
    if (rc != 0)
        return rc;
    b->values = malloc((n + 1) * sizeof *b->values);
    if (!b->values)
        return err_set(e, ASSAY_ENOMEM, "no memory for %u values", n);
    memcpy(b->values, values, n * sizeof *b->values);
    b->ms = ms;
    stage_release(g->stage, &f->token);
    send_home(g, b, BATCH_DONE);
    memmove(f, f + 1, (size_t)(g->flights + g->n_flights - (f + 1)) * sizeof *f);
    g->n_flights--;
    g->backoff_ms = 0;
    return 0;
}

static int on_done(struct group *g, const struct control *c, struct err *e)
{
    struct flight *f = find_flight(g, &c->token);
    uint32_t all = (uint32_t)((1ull << g->options.tp) - 1);
    if (!f) {
        log_warn("event=stale_done rank=%d slot=%u", c->rank, c->token.slot);
        return 0;
    }
    if (f->done && f->digest != c->digest)
        return err_set(
            e, ASSAY_EFORMAT, "rank %d disagrees with the others about a batch's scores", c->rank);
    g->ranks[c->rank].busy_us = c->busy_us;
    g->ranks[c->rank].up_us = c->up_us;
    f->digest = c->digest;
    f->done |= 1u << c->rank;
    return f->done == all ? finish(g, f, c->ms, e) : 0;
}

/* 0, or negative with *e: the group must end. */
static int on_message(struct group *g, const uint8_t *bytes, size_t len, uint32_t rank,
    long long now_ms, struct err *e)
{
    struct control c;
    int rc = control_decode(&c, bytes, len, e);
    if (rc == 0 && (c.rank != (int32_t)rank || c.incarnation != g->incarnation))
        rc = err_set(e, ASSAY_EBADMSG, "it is of rank %d, incarnation %llu", c.rank,
            (unsigned long long)c.incarnation);
    if (rc != 0) {
        log_warn("event=bad_control rank=%u error=\"%s\"", rank, e->msg);
        return 0;
    }
    switch (c.type) {
    case CONTROL_READY:
        return on_ready(g, &c, now_ms, e);
    case CONTROL_DONE:
        return on_done(g, &c, e);
    case CONTROL_FAILED:
        return err_set(e, ASSAY_EINTERNAL, "rank %u: %s", rank, c.message);
    default:
        log_warn("event=bad_control rank=%u type=%d", rank, (int)c.type);
        return 0;
    }
}

/* One message of the socket: frames [name, body]. 1 handled, 0 none, negative: the group must end.
 */
static int receive(struct group *g, long long now_ms, struct err *e)
{
    char name[16];
    zmq_msg_t body;
    int more = 0, rc = 1;
    size_t size = sizeof more;
    int n = zmq_recv(g->socket, name, sizeof name - 1, ZMQ_DONTWAIT);
    if (n < 0)
        return 0;
    name[n < (int)sizeof name ? n : (int)sizeof name - 1] = '\0';
    zmq_getsockopt(g->socket, ZMQ_RCVMORE, &more, &size);
    while (more) {
        char *end;
        zmq_msg_init(&body);
        zmq_msg_recv(&body, g->socket, ZMQ_DONTWAIT);
        more = zmq_msg_more(&body);
        unsigned long rank = strtoul(name + 1, &end, 10);
        if (!more && rc == 1 && name[0] == 'r' && end != name + 1 && *end == '\0' &&
            rank < g->options.tp) {
            int failed =
                on_message(g, zmq_msg_data(&body), zmq_msg_size(&body), (uint32_t)rank, now_ms, e);
            rc = failed ? failed : 1;
        }
        zmq_msg_close(&body);
    }
    return rc;
}

/* ---- tick ---- */

static int find_dead(struct group *g, char *reason, size_t size)
{
    for (uint32_t r = 0; r < g->options.tp; r++) {
        zmq_pollitem_t item = {.fd = g->children[r].pidfd, .events = ZMQ_POLLIN};
        if (item.fd >= 0 && zmq_poll(&item, 1, 0) > 0) {
            snprintf(reason, size, "rank %u ended", r);
            return 1;
        }
    }
    return 0;
}

static uint64_t total_progress(const struct group *g)
{
    uint64_t sum = 0;
    for (uint32_t r = 0; r < g->options.tp; r++)
        sum += stage_progress(g->stage, r);
    return sum;
}

/* The time at which silence becomes a hang. */
static long long hang_deadline(struct group *g, long long now_ms)
{
    uint64_t progress = total_progress(g);
    if (progress != g->progress || now_ms - g->ticked_ms > g->options.hang_ms / 2)
        g->progressed_ms = now_ms;
    g->progress = progress;
    g->ticked_ms = now_ms;
    return g->n_flights > 0 ? g->progressed_ms + g->options.hang_ms : FOREVER;
}

static int all_ended(const struct group *g)
{
    for (uint32_t r = 0; r < g->options.tp; r++) {
        zmq_pollitem_t item = {.fd = g->children[r].pidfd, .events = ZMQ_POLLIN};
        if (item.fd >= 0 && zmq_poll(&item, 1, 0) == 0)
            return 0;
    }
    return 1;
}

/* Nothing is in flight: the ranks are told to end, and killed if they do not. */
static long long tick_stopping(struct group *g, long long now_ms)
{
    int exit_code, signal;
    if (g->stop_by_ms == 0) {
        send_to_all(g, &(struct control){.type = CONTROL_STOP, .incarnation = g->incarnation});
        g->stop_by_ms = now_ms + g->options.hang_ms;
    }
    if (!all_ended(g) && now_ms < g->stop_by_ms)
        return g->stop_by_ms;
    end_ranks(g, &exit_code, &signal);
    g->state = GROUP_STOPPED;
    return FOREVER;
}

static long long tick_alive(struct group *g, long long now_ms)
{
    struct err e = {0};
    char reason[64];
    int rc;
    while ((rc = receive(g, now_ms, &e)) == 1)
        ;
    long long deadline = hang_deadline(g, now_ms), half = now_ms + g->options.hang_ms / 4;
    if (rc < 0)
        fail_with(g, now_ms, rc, e.msg);
    else if ((g->state != GROUP_DRAINING || g->n_flights > 0) &&
             find_dead(g, reason, sizeof reason))
        fail(g, now_ms, reason);
    else if (now_ms >= deadline)
        fail(g, now_ms, "no progress: hung");
    else if (g->state == GROUP_STARTING && now_ms - g->started_ms > g->options.start_ms)
        fail(g, now_ms, "not ready in time");
    else if (g->state == GROUP_DRAINING && g->n_flights == 0)
        return tick_stopping(g, now_ms);
    if (g->state == GROUP_DEAD)
        return g->start_at_ms;
    if (g->state == GROUP_STOPPED)
        return FOREVER;
    return deadline == FOREVER ? (g->state == GROUP_STARTING ? now_ms + 1000 : FOREVER)
                               : (half < deadline ? half : deadline);
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
    int n = 0;
    if (g->socket && n < max)
        items[n++] = (zmq_pollitem_t){.socket = g->socket, .events = ZMQ_POLLIN};
    for (uint32_t r = 0; r < g->options.tp; r++)
        if (g->children[r].pidfd >= 0 && n < max)
            items[n++] = (zmq_pollitem_t){.fd = g->children[r].pidfd, .events = ZMQ_POLLIN};
    return n;
}

/* ---- batches ---- */

static void fill_rows(
    const struct batch *b, struct stage_row *rows, const int32_t **ids, const int32_t **positions)
{
    for (uint32_t i = 0; i < b->n_rows; i++) {
        const struct row *r = b->rows[i];
        rows[i] = (struct stage_row){.n_tokens = r->n_tokens,
            .pool_type = (uint32_t)r->pool_type,
            .activation = (uint32_t)r->activation,
            .step_token = r->step_token,
            .n_positions = r->n_positions,
            .n_values = r->n_values,
            .n_shared = r->n_shared};
        ids[i] = r->ids;
        positions[i] = r->positions;
    }
}

int group_run(struct group *g, struct batch **b, struct err *e)
{
    if (group_free_slots(g) == 0)
        return 0;
    uint32_t n = (*b)->n_rows;
    struct stage_row *rows = xcalloc(n, sizeof *rows);
    const int32_t **ids = xcalloc(2 * (size_t)n, sizeof *ids), **positions = ids + n;
    struct flight *f = &g->flights[g->n_flights];
    fill_rows(*b, rows, ids, positions);
    *f = (struct flight){.batch = *b};
    struct stage_fill fill = {n, rows, ids, positions};
    int rc = stage_publish(g->stage, g->options.epoch, g->incarnation, &fill, &f->token, e);
    free(rows);
    free(ids);
    if (rc != 1)
        return rc;
    if (g->n_flights++ == 0)
        g->progressed_ms = g->ticked_ms = now_mono_ms();
    *b = NULL;
    send_to_all(g,
        &(struct control){.type = CONTROL_RUN, .incarnation = g->incarnation, .token = f->token});
    return 1;
}

int group_take(struct group *g, struct batch **b, enum batch_outcome *outcome)
{
    struct homecoming *h = g->home;
    if (!h)
        return 0;
    *b = h->batch;
    *outcome = h->outcome;
    g->home = h->next;
    if (!g->home)
        g->home_end = &g->home;
    free(h);
    return 1;
}

void group_stop(struct group *g)
{
    if (g->state == GROUP_READY)
        g->state = GROUP_DRAINING;
    else if (g->state != GROUP_STOPPED) {
        int exit_code, signal;
        end_ranks(g, &exit_code, &signal);
        lose_batches(g, -1, 0);
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
    return g->n_flights;
}

uint32_t group_free_slots(const struct group *g)
{
    return g->state == GROUP_READY ? stage_free_slots(g->stage) : 0;
}

const struct group_rank_info *group_ranks(const struct group *g, uint32_t *n)
{
    *n = g->options.tp;
    return g->ranks;
}

int64_t group_restarts(const struct group *g)
{
    return g->restarts;
}

int group_bad_starts(const struct group *g)
{
    return g->bad_starts;
}

const char *group_last_failure(const struct group *g, int *exit_code)
{
    *exit_code = g->failure_exit;
    return g->failure;
}
