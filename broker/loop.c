/* loop.c - one tick after the other: signals, workers, requests, housekeeping, and the time
 * until the next (loop.h). */
#include "broker/loop.h"

#include <errno.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <sysexits.h>
#include <unistd.h>

#include "broker/adapters.h"
#include "broker/api/ahead.h"
#include "broker/api/connections.h"
#include "broker/api/inbox.h"
#include "broker/api/kept.h"
#include "broker/api/progress.h"
#include "broker/api/requests.h"
#include "broker/api/send.h"
#include "broker/api/sessions.h"
#include "broker/api/waiters.h"
#include "broker/dispatch.h"
#include "broker/figures.h"
#include "broker/front.h"
#include "broker/outcomes.h"
#include "broker/reload.h"
#include "broker/retain.h"
#include "broker/transaction.h"
#include "broker/workers_table.h"
#include "schema/clock.h"
#include "schema/log.h"

#define MAX_POLL_ITEMS (5 + BROKER_MODELS * OPTIONS_MAX_REPLICAS * (GROUP_MAX_RANKS + 1))
/* A tick should take less than 20 ms, so that nobody waits for long. What requests write is
 * committed at its end, which takes about as long again; a thread syncs it. Two things are synced
 * here, and take as long as a busy disk likes: results, which no reader of the database may see
 * before (outcomes.c), and the header of a log that begins anew (store/checkpoint.c). */
#define REQUESTS_US 6000 /* of a tick, from its beginning, for requests */
#define WITH_LARGE_US                                                                              \
    3000              /* the same while something large is written too (4 ms, and its commit) */
#define LEAST_US 1000 /* for requests, however long the tick has taken */
#define HOUSEKEEPING_MS 1000
#define DRAIN_MS 30000
#define MOST_REFUSED 4096 /* messages refused at the end, at most */
#define PURGE_SLICE_MS 2  /* time for deleting; writing it to disk takes several times that */
#define PURGE_PAUSE_MS 16

/* ---- requests ---- */

/* Fails all requests of this tick after their transaction failed: no reply has left yet, and all
 * get the same error. */
static void refuse_tick(struct broker *b, struct err *e)
{
    transaction_rollback(b);
    b->n_undone++;
    transaction_cannot_write(b, e);
    transaction_refuse(e);
    outbox_fail(b->outbox, e);
    waiters_settle(b, e);
}

/* Tells waiters, progress events and the planner which jobs were written to. It runs after the
 * transaction, so that they see the jobs as they are, even if it was rolled back. */
static void tell_of_touched(struct broker *b)
{
    struct err e = {0};
    for (int i = 0; i < b->n_touched; i++) {
        waiters_job_changed(b, b->touched[i]);
        progress_job_changed(b, b->touched[i]);
        if (planner_job_changed(b->planner, b->touched[i], &e) < 0)
            transaction_die(b, &e);
    }
    b->n_touched = 0;
}

static void end_requests(struct broker *b, int rc, struct err *e)
{
    if (rc == 0 && (b->n_touched > 0 || b->purge_due_ms == 0))
        rc = transaction_commit(b, e);
    if (rc == 0)
        waiters_settle(b, NULL);
    else
        refuse_tick(b, e);
    send_replies(b);
    tell_of_touched(b);
    store_tend(b->store); /* while the thread syncs this tick's commit */
}

static void take_request(struct broker *b, struct message *m, int *rc, struct err *e)
{
    int handled = request_handle(b, m, e);
    if (handled == REQUEST_LATER)
        ahead_add(b, m);
    else if (handled == REQUEST_KEPT)
        kept_add(b, m->task.prepared.job, m);
    else if (handled == REQUEST_AGAIN)
        inbox_again(b->inbox, m);
    if (handled > 0)
        return;
    *rc = handled;
    inbox_done(b->inbox, &m);
}

/* Handles the message whose rows have been written ahead, and one whose chunks have been placed, if
 * there are such. */
static void take_prepared(struct broker *b, int *rc, struct err *e)
{
    struct message *m = replies_are_full(b) ? NULL : ahead_next(b);
    if (m) {
        take_request(b, m, rc, e);
        ahead_done(b);
    }
    m = replies_are_full(b) || *rc != 0 ? NULL : kept_next(b);
    if (m) {
        take_request(b, m, rc, e);
        kept_done(b);
    }
}

/* Writes a part of what is large. Both kinds take turns. */
static void write_large(struct broker *b)
{
    b->kept.is_first = !b->kept.is_first;
    int wrote = b->kept.is_first ? kept_go_on(b) : ahead_go_on(b);
    if (!wrote)
        (void)(b->kept.is_first ? ahead_go_on(b) : kept_go_on(b));
}

/* Until when this tick may take requests. */
static long long end_of_requests(const struct broker *b)
{
    long long most_us = b->ahead.first || b->kept.first ? WITH_LARGE_US : REQUESTS_US;
    long long end_us = b->ticks.began_us + most_us, least_us = now_mono_us() + LEAST_US;
    return end_us > least_us ? end_us : least_us;
}

/* Handles client messages in one transaction, up to a bound on their number and time. Writes are
 * cheaper the more of them one transaction has. */
static void take_requests(struct broker *b)
{
    struct err e = {0};
    int rc = 0;
    long long end_us = end_of_requests(b);
    take_prepared(b, &rc, &e);
    for (int i = 0; i < BROKER_MESSAGES_PER_TICK && rc == 0; i++) {
        struct message *m;
        if (replies_are_full(b) || (i > 0 && now_mono_us() >= end_us))
            break;
        int got = inbox_next(b->inbox, &m);
        if (got < 0)
            break;
        b->wake = 1; /* there may be more */
        if (got > 0)
            take_request(b, m, &rc, &e);
    }
    connections_go_on();
    end_requests(b, rc, &e);
    write_large(b);
}

/* ---- work ---- */

static void take_work(struct broker *b)
{
    struct err e = {0};
    int rc = outcomes_take(b, &e);
    if (rc == 0)
        rc = dispatch_batches(b, &e);
    if (rc == 0)
        rc = outcomes_take_known(b, &e);
    if (rc < 0)
        transaction_die(b, &e);
    b->wake |= b->dedupe && dedupe_is_behind(b->dedupe);
}

/* ---- housekeeping ---- */

/* Fails when every group is hopeless. As long as one may still serve, or another checkpoint is being
 * loaded, the others go on trying. */
static int check_groups(struct broker *b, struct err *e)
{
    int exit_code, n = b->n_groups, g = served_next_group(b, 0), first = g;
    while (g < n && group_is_hopeless(b->groups[g]))
        g = served_next_group(b, g + 1);
    if (first == n || g < n || b->reload)
        return 0;
    return err_set(e, group_failure_stays(b->groups[first]) ? ASSAY_EFORMAT : ASSAY_ENOTREADY,
        "the workers cannot serve %.100s: %s", served_of_group(b, first)->given,
        group_last_failure(b->groups[first], &exit_code));
}

static void look_at_connections(struct broker *b)
{
    int full = connections_are_full();
    if (full && !b->connections_are_full)
        log_warn("event=connections_full limit=%d action=\"new ones are refused; raise the limit "
                 "of open "
                 "files (ulimit -n, LimitNOFILE=)\"",
            connections_end());
    b->connections_are_full = full;
    connections_end_slow(now_mono_ms());
    unsigned ended = connections_ended();
    if (ended != b->connections_ended)
        log_warn(
            "event=connections_ended n=%u reason=\"expected messages of ZMTP 2 or 3, whole within "
            "5 s while others wait for room, replies that are read, below "
            "--max-message-bytes in all their frames, and at most 1 MiB of subscriptions (8 "
            "MiB of all)\"",
            ended - b->connections_ended);
    b->connections_ended = ended;
}

/* Mends a job that was found damaged when it was read. */
static void look_at_damage(struct broker *b)
{
    struct err e = {0};
    int64_t job;
    int rc = store_mend_suspect(b->store, &job, &e);
    if (rc == ASSAY_EIO || (rc == 1 && planner_job_changed(b->planner, job, &e) < 0))
        transaction_die(b, &e);
    if (rc == 1)
        waiters_job_changed(b, job);
}

static long long housekeep(struct broker *b, long long now_ms, long long due_ms)
{
    struct err e = {0};
    if (now_ms < due_ms)
        return due_ms;
    if (workers_table_write(b, now_ms, &e) != 0 || transaction_commit(b, &e) != 0)
        transaction_forgo(b, &e);
    if (b->dedupe && dedupe_idle(b->dedupe, &e) < 0)
        transaction_die(b, &e);
    look_at_damage(b);
    figures_tick(b);
    store_idle(b->store);
    look_at_connections(b);
    waiters_let_go(b);
    return sessions_tick(b->sessions, now_ms) ? now_ms : now_ms + HOUSEKEEPING_MS;
}

/* Deletes a slice of the data of purged jobs. On a full disk, deleting is urgent: the reserve makes
 * room for it. */
static int purge_slice(struct broker *b, int has_rows)
{
    struct err e = {0};
    int rc = transaction_begin(b, &e);
    if (rc == 0)
        rc = store_purge_step(b->store, PURGE_SLICE_MS, &e);
    if (rc == 0)
        rc = transaction_commit(b, &e);
    if (rc == ASSAY_EFULL && has_rows)
        store_free_room_to_purge(b->store);
    if (rc != 0)
        transaction_forgo(b, &e);
    store_idle(b->store); /* at once: on a full disk the log's space is needed again */
    return rc;
}

/* Deletes a slice when it is due. Returns when it is due next. */
static long long purge(struct broker *b, long long now_ms)
{
    struct err e = {0};
    if (now_ms < b->purge_due_ms)
        return b->purge_due_ms;
    int waits = store_purge_waits(b->store, &e);
    if (waits < 0)
        transaction_die(b, &e);
    int goes_on = waits && purge_slice(b, waits == 2) == 0;
    b->purge_due_ms = now_mono_ms() + (goes_on ? PURGE_PAUSE_MS : HOUSEKEEPING_MS);
    return b->purge_due_ms;
}

/* ---- the loop ---- */

static int poll_items(struct broker *b, int signal_fd, zmq_pollitem_t *items)
{
    int n = 0;
    int full = replies_are_full(b); /* until syncing has caught up */
    items[n++] = (zmq_pollitem_t){.socket = b->clients, .events = full ? 0 : ZMQ_POLLIN};
    items[n++] = (zmq_pollitem_t){.fd = signal_fd, .events = ZMQ_POLLIN};
    items[n++] = (zmq_pollitem_t){.fd = store_sync_fd(b->store), .events = ZMQ_POLLIN};
    items[n++] = (zmq_pollitem_t){.fd = inbox_fd(b->inbox), .events = full ? 0 : ZMQ_POLLIN};
    n += front_poll_item(b->front, items + n);
    for (int g = served_next_group(b, 0); g < b->n_groups; g = served_next_group(b, g + 1))
        n += group_poll_items(b->groups[g], items + n, MAX_POLL_ITEMS - n);
    return n;
}

static void start_draining(struct broker *b)
{
    log_info("event=draining");
    notify_send(&b->notify, "STOPPING=1");
    b->draining = 1;
    front_stop(b->front);
    for (int g = served_next_group(b, 0); g < b->n_groups; g = served_next_group(b, g + 1))
        group_stop(b->groups[g]);
}

/* Reads a signal: the first starts draining, a second returns 1: stop at once. */
static int take_signal(struct broker *b, int signal_fd)
{
    struct signalfd_siginfo info;
    if (read(signal_fd, &info, sizeof info) != (ssize_t)sizeof info)
        return 0;
    if (b->draining)
        return 1;
    start_draining(b);
    return 0;
}

static int all_stopped(const struct broker *b)
{
    for (int g = served_next_group(b, 0); g < b->n_groups; g = served_next_group(b, g + 1))
        if (group_state(b->groups[g]) != GROUP_STOPPED)
            return 0;
    return front_is_over(b->front);
}

/* Opens the signalfd. Ctrl-C in a terminal also reaches a private broker, which ignores it: the
 * process that started the broker decides when it ends. */
static int open_signals(const struct broker *b, struct err *e)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    if (b->options->exit_with_parent > 0)
        signal(SIGINT, SIG_IGN);
    else
        sigaddset(&set, SIGINT);
    sigprocmask(SIG_BLOCK, &set, NULL);
    signal(SIGPIPE, SIG_IGN);
    int fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    return fd >= 0 ? fd : err_errno(e, ASSAY_EIO, "signalfd");
}

static long long earlier(long long a, long long b)
{
    return a < b ? a : b;
}

/* Checks for failures that end the broker: 0 while there are none. */
static int check(struct broker *b, long long now_ms, long long *sockets_due_ms, struct err *e)
{
    int rc = check_groups(b, e);
    if (rc != 0 || now_ms < *sockets_due_ms)
        return rc;
    *sockets_due_ms = now_ms + HOUSEKEEPING_MS;
    return listen_check(&b->listeners, e);
}

/* Has each model a group that is ready, so that its ranks have computed a canary? */
static int all_are_served(const struct broker *b)
{
    for (int k = 0; k < BROKER_MODELS; k++) {
        int found = b->models[k] == NULL;
        for (int g = served_next_group(b, 0); !found && g < b->n_groups;
             g = served_next_group(b, g + 1))
            found =
                served_of_group(b, g) == b->models[k] && group_state(b->groups[g]) == GROUP_READY;
        if (!found)
            return 0;
    }
    return 1;
}

/* Tells a service manager once that all is served, and again and again that the loop runs. */
static long long tell_manager(struct broker *b, long long now_ms)
{
    if (b->notify.fd > 0 && !b->is_serving && all_are_served(b)) {
        b->is_serving = 1;
        notify_send(&b->notify, "READY=1\nSTATUS=all models are served");
    }
    return notify_alive(&b->notify, now_ms);
}

/* Runs one tick. Returns when the next is due at the latest. */
static long long tick(struct broker *b, long long *housekeeping_ms)
{
    long long now_ms = now_mono_ms(), next_ms = *housekeeping_ms;
    b->wake = 0;
    for (int g = served_next_group(b, 0); g < b->n_groups; g = served_next_group(b, g + 1))
        next_ms = earlier(next_ms, group_tick(b->groups[g], now_ms));
    next_ms = earlier(next_ms, tell_manager(b, now_ms));
    take_work(b);
    next_ms = earlier(next_ms, adapters_tick(b, now_ms));
    next_ms = earlier(next_ms, front_tick(b->front, now_ms));
    next_ms = earlier(next_ms, reload_tick(b, now_ms));
    take_requests(b);
    next_ms = earlier(next_ms, waiters_tick(b, now_ms));
    next_ms = earlier(next_ms, progress_tick(b, now_ms));
    next_ms = earlier(next_ms, retain_tick(b, now_ms));
    next_ms = earlier(next_ms, purge(b, now_ms));
    *housekeeping_ms = housekeep(b, now_ms, *housekeeping_ms);
    return b->wake ? now_ms : earlier(next_ms, *housekeeping_ms);
}

/* Refuses the messages that were not handled, up to MOST_REFUSED. */
static void refuse_rest(struct broker *b, const char *why)
{
    struct err e = {0}, ignored;
    err_set(&e, ASSAY_ENOTREADY, "the broker %s%.400s", why ? "ends: " : "is shutting down",
        why ? why : "");
    e.retry_after_ms = 1000;
    if (!b->inbox)
        return;
    inbox_stop(b->inbox);
    for (int got = 0, n = 0; got >= 0 && n < MOST_REFUSED; n++) {
        struct message *m;
        struct request q;
        got = inbox_rest(b->inbox, &m);
        if (got <= 0)
            continue;
        (void)request_decode(
            &q, zmq_msg_data(&m->body), zmq_msg_size(&m->body), &b->limits, &ignored);
        outbox_error(b->outbox, &m->envelope, q.id, &e);
        message_free(&m);
    }
}

/* Tells all clients that the database failed. Nothing is acknowledged that is not known to be on
 * disk. When zmq_ctx_term returns, all clients that read within the linger time have their
 * error. */
static void tell_of_failure(struct broker *b, const char *why)
{
    struct err e = {0};
    b->at_end = NULL;
    err_set(&e, ASSAY_ENOTREADY,
        "the broker ends: %.300s; whether this request was taken is not known, send it again", why);
    e.retry_after_ms = 1000;
    outbox_fail_all(b->outbox, &e);
    waiters_end(b, why);
    refuse_rest(b, why);
    outbox_send(b->outbox, 0, UINT64_MAX);
    listen_end(&b->listeners);
    zmq_close(b->clients);
    for (int g = served_next_group(b, 0); g < b->n_groups; g = served_next_group(b, g + 1))
        group_free(&b->groups[g]);
    progress_free(&b->progress);
    zmq_ctx_term(b->zmq);
}

/* Ends the loop. `why`: it cannot go on; NULL: it was told to stop. All pending replies leave. */
static void end(struct broker *b, const char *why)
{
    struct err e = {0};
    waiters_end(b, why);
    adapters_end(b);
    reload_end(b);
    refuse_rest(b, why);
    if (transaction_commit(b, &e) != 0) /* an open transaction would block the last checkpoint */
        transaction_forgo(b, &e);
    if (store_wait_synced(b->store, &e) != 0)
        transaction_die(b, &e);
    send_replies(b);
}

int loop_run(struct broker *b, struct err *e)
{
    zmq_pollitem_t items[MAX_POLL_ITEMS];
    long long housekeeping_ms = 0, drained_by_ms = 0, sockets_ms = 0;
    int signal_fd = open_signals(b, e), rc = signal_fd < 0 ? signal_fd : 0;
    if (rc == 0) /* its threads have the signals blocked */
        rc = inbox_new(
            &b->inbox, b->clients, &b->admit, &b->catalog, &served_first(b)->text, &b->limits, e);
    if (rc == 0)
        rc = kept_begin(b, e);
    b->at_end = tell_of_failure;
    while (rc == 0) {
        ticks_begin(&b->ticks);
        long long next_ms = tick(b, &housekeeping_ms), wait_ms = next_ms - now_mono_ms();
        ticks_end(&b->ticks);
        if ((rc = check(b, now_mono_ms(), &sockets_ms, e)) != 0 || (b->draining && all_stopped(b)))
            break;
        if (b->draining && drained_by_ms == 0)
            drained_by_ms = now_mono_ms() + DRAIN_MS;
        if (b->draining && now_mono_ms() > drained_by_ms)
            break;
        int n = poll_items(b, signal_fd, items);
        if (zmq_poll(items, n,
                wait_ms < 0                 ? 0
                : wait_ms > HOUSEKEEPING_MS ? HOUSEKEEPING_MS
                                            : wait_ms) < 0 &&
            errno != EINTR)
            rc = err_set(e, ASSAY_EIO, "poll: %s", zmq_strerror(errno));
        else if ((items[1].revents & ZMQ_POLLIN) && take_signal(b, signal_fd))
            break;
    }
    if (signal_fd >= 0)
        close(signal_fd);
    end(b, rc == 0 ? NULL : e->msg);
    inbox_free(&b->inbox);
    kept_release(b);
    return rc;
}
