/* main.c - assayd: builds the broker, runs it, tears it down. The order is: options, data
 * directory, its lock, devices, model, store, sockets, groups. All files are written and sockets
 * bound after the lock is taken, so a second broker never takes the first one's files or
 * endpoints. */
#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <signal.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sysexits.h>
#include <unistd.h>

#include "broker/api/connections.h"
#include "broker/api/listen.h"
#include "broker/api/preparers.h"
#include "broker/api/progress.h"
#include "broker/api/sessions.h"
#include "broker/api/waiters.h"
#include "broker/broker.h"
#include "broker/data_dir.h"
#include "broker/front.h"
#include "broker/loop.h"
#include "broker/outcomes.h"
#include "broker/reload.h"
#include "broker/sched/dedupe_index.h"
#include "schema/alloc.h"
#include "schema/clock.h"
#include "schema/endpoint.h"
#include "schema/log.h"
#include "schema/resources.h"
#include "schema/start.h"
#include "schema/stdout.h"
#include "schema/version.h"

#define RESERVE_BYTES (8u << 20)
#define HIGH_WATER_MARK 1000
#define HEARTBEAT_MS 10000
#define ENVELOPE_ROOM (1 << 17) /* of a message, beside its body */
#define LARGE_BLOCK (4 << 20)
#define KEPT_MEMORY (64 << 20)
#define API_FILES 16                        /* descriptors before any client: libzmq's, and one */
#define API_THREADS (2 + PREPARERS_THREADS) /* libzmq starts two */
/* What the loop opens, and for each group, further pipeline stage, and rank that runs. */
enum { LOOP_FILES = 2, GROUP_FILES = 4, STAGE_FILES = 2, RANK_FILES = 2 };

/* Finds or makes the data directory, checks it, and locks it. */
static int open_data(
    struct broker *b, char *path, size_t size, struct data_dir_start *start, struct err *e)
{
    int rc = data_dir_find(path, size, b->options->data, e);
    if (rc == 0)
        rc = data_dir_open(path, start, e);
    if (rc != 0)
        return rc;
    b->data = path;
    b->lock_fd = store_lock(path, e);
    return b->lock_fd < 0 ? b->lock_fd : 0;
}

/* Opens the k-th model of the options. */
static int open_one(struct broker *b, int k, struct err *e)
{
    const struct options *o = b->options;
    struct served_model *m = b->models[k] = xcalloc(1, sizeof *m);
    m->number = m->id = m->rank = (uint32_t)k;
    m->given = o->models[k].dir;
    m->given_name = o->models[k].name;
    return served_open(b, m, -1, e);
}

static int open_models(struct broker *b, struct err *e)
{
    const struct options *o = b->options;
    int rc = 0;
    for (int k = 0; rc == 0 && k < o->n_models; k++)
        rc = open_one(b, k, e);
    if (rc != 0)
        return rc;
    b->next_id = (uint32_t)o->n_models;
    reload_publish(b);
    b->admit.model = &b->models[0]->info;
    b->limits = (struct request_limits){(uint64_t)o->max_message_bytes,
        (uint32_t)o->max_rows_per_message, b->models[0]->info.max_len};
    return 0;
}

static int open_store(struct broker *b, struct err *e)
{
    const struct model_info *m = &b->models[0]->info;
    struct store_options options = {.reserve_bytes = RESERVE_BYTES,
        .min_free_bytes = (uint64_t)b->options->min_free_bytes,
        .mode = m->mode,
        .digest = m->digest,
        .name = m->name,
        .lock_fd = b->lock_fd,
        .limits = {m->max_len, m->vocab_size, m->n_labels, &m->adapters}};
    b->lock_fd = -1; /* the store owns it now */
    int rc = store_open(&b->store, b->data, &options, e);
    for (int k = 1; rc == 0 && k < b->options->n_models; k++) {
        struct store_model more = served_for_store(b->models[k]);
        rc = store_serve(b->store, k, &more, e);
    }
    return rc;
}

static int bind_endpoint(struct broker *b, const char *endpoint, struct err *e)
{
    int rc = listen_bind(&b->listeners, b->clients, endpoint, e);
    if (rc == 0)
        log_info("event=listening endpoint=%s data=%s model=%s", endpoint, b->data,
            b->models[0]->info.name);
    return rc;
}

/* Binds the broker's own sockets, in the data directory. */
static int bind_in_data(struct broker *b, struct err *e)
{
    char endpoint[ENDPOINT_BYTES], name[ENDPOINT_SOCKET_BYTES];
    int rc = endpoint_in_dir(endpoint, b->data, "events.sock", &b->data_fd, e);
    if (rc != 0)
        return rc;
    connections_expect_subscribers(endpoint + strlen("ipc://"));
    if (!(b->progress = progress_new(b->zmq, endpoint, e)))
        return e->code;
    rc = listen_watch(&b->listeners, progress_socket(b->progress), endpoint, e);
    if (rc != 0 || b->options->n_listen > 0)
        return rc;
    endpoint_socket(name, b->options->exit_with_parent);
    rc = endpoint_in_dir(endpoint, b->data, name, &b->data_fd, e);
    return rc == 0 ? bind_endpoint(b, endpoint, e) : rc;
}

static void set_option(void *socket, int option, int value)
{
    zmq_setsockopt(socket, option, &value, sizeof value);
}

static int open_sockets(struct broker *b, struct err *e)
{
    int64_t max_bytes =
        b->options->max_message_bytes + 4096; /* a little more gets an error, far more is cut off */
    int rc = resources_check("connections", API_FILES, API_THREADS, e);
    if (rc != 0)
        return rc;
    b->zmq = zmq_ctx_new();
    b->clients = b->zmq ? zmq_socket(b->zmq, ZMQ_ROUTER) : NULL;
    if (!b->clients)
        return err_set(e, ASSAY_EIO, "zeromq: %s", zmq_strerror(errno));
    set_option(b->clients, ZMQ_LINGER, 1000);
    set_option(b->clients, ZMQ_ROUTER_MANDATORY, 1);
    set_option(b->clients, ZMQ_SNDHWM, HIGH_WATER_MARK);
    set_option(b->clients, ZMQ_RCVHWM, HIGH_WATER_MARK);
    set_option(b->clients, ZMQ_HEARTBEAT_IVL, HEARTBEAT_MS);
    set_option(b->clients, ZMQ_HEARTBEAT_TIMEOUT, 6 * HEARTBEAT_MS);
    zmq_setsockopt(b->clients, ZMQ_MAXMSGSIZE, &max_bytes, sizeof max_bytes);
    connections_limit_messages((uint64_t)max_bytes + ENVELOPE_ROOM);
    b->outbox = outbox_new(b->clients);
    rc = bind_in_data(b, e);
    for (int i = 0; rc == 0 && i < b->options->n_listen; i++)
        rc = bind_endpoint(b, b->options->listen[i], e);
    return rc;
}

/* A row holds ids and positions: its bits do not depend on text, nor on the pad rule. */
static int describe_mode(const void *arg, int64_t mode, struct dedupe_model *out)
{
    const struct broker *b = arg;
    int place = store_place_of(b->store, mode);
    if (place < 0)
        return -1;
    const struct model_info *m = &b->models[place]->info;
    uint32_t k = store_adapter_of(b->store, mode);
    *out =
        (struct dedupe_model){m->digest, m->rank_mode, k > 0 ? m->adapters.at[k - 1].digest : NULL};
    return 0;
}

/* Opens dedupe, which finds equal rows, unless --no-dedupe is given. */
static void open_dedupe(struct broker *b)
{
    const struct options *o = b->options;
    if (o->no_dedupe) {
        dedupe_index_sweep(b->data);
        return;
    }
    if (o->score_cache > 0)
        b->cache = score_cache_open(b->data, (uint64_t)o->score_cache, (uint64_t)o->min_free_bytes);
    struct dedupe_options options = {.describe = describe_mode,
        .arg = b,
        .store = b->store,
        .cache = &b->cache,
        .data_dir = b->data,
        .min_free_bytes = (uint64_t)o->min_free_bytes,
        .wait_ms = DEDUPE_WAIT_MS};
    b->dedupe = dedupe_new(&options);
}

static int open_groups(struct broker *b, struct err *e)
{
    struct planner_limits limits = served_limits(b, b->models[0]);
    int rc = planner_new(&b->planner, b->store, &limits, e);
    open_dedupe(b);
    if (rc == 0)
        planner_use_dedupe(b->planner, b->dedupe);
    if (rc == 0 && b->homes)
        planner_use_homes(b->planner, b->homes, (uint32_t)b->options->replicas);
    for (int k = 0; rc == 0 && k < b->options->n_models; k++) {
        limits = served_limits(b, b->models[k]);
        planner_set_limits(b->planner, (uint32_t)k, &limits);
        rc = served_open_groups(b, b->models[k], e);
    }
    return rc;
}

/* Descriptors beyond the last ones are refused to clients (api/connections.h), so the first of them
 * must get one below, once the loop and all ranks have theirs. */
static int check_room_for_a_client(const struct broker *b, struct err *e)
{
    const struct options *o = b->options;
    int lowest = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 0);
    if (lowest >= 0)
        close(lowest);
    int group = GROUP_FILES + STAGE_FILES * (o->pp - 1) + RANK_FILES * o->tp * o->pp;
    int first = lowest + LOOP_FILES + (b->front != NULL) + o->n_models * o->replicas * group;
    if (lowest >= 0 && first < connections_end())
        return 0;
    return err_set(e, ASSAY_EIO,
        "connections: expected room for a client beside %d open files of the broker, found %d for "
        "all; raise `ulimit -n`",
        first, connections_end());
}

static void close_broker(struct broker *b)
{
    front_free(&b->front);
    listen_end(&b->listeners);
    for (int g = 0; g < b->n_groups; g++)
        group_free(&b->groups[g]);
    outcomes_drop(b);
    planner_free(&b->planner);
    dedupe_free(&b->dedupe);
    score_cache_close(&b->cache);
    waiters_free(&b->waiters);
    sessions_free(&b->sessions);
    homes_free(&b->homes);
    progress_free(&b->progress);
    outbox_free(&b->outbox);
    if (b->clients)
        zmq_close(b->clients);
    if (b->zmq)
        zmq_ctx_term(b->zmq);
    store_close(&b->store);
    if (b->lock_fd >= 0)
        close(b->lock_fd);
    if (b->data_fd >= 0)
        close(b->data_fd);
    admit_release(&b->admit);
    for (int k = 0; k < BROKER_MODELS; k++) {
        served_release(b->models[k]);
        free(b->models[k]);
    }
    reload_release(b);
}

static int exit_code_of(const struct err *e)
{
    switch (e->code) {
    case ASSAY_EFORMAT:
    case ASSAY_EUNSUPPORTED:
        return EX_CONFIG;
    case ASSAY_EUNAUTHORIZED:
        return EX_NOPERM;
    case ASSAY_ENOTREADY:
        return EX_UNAVAILABLE;
    case ASSAY_EBUSY:
    case ASSAY_ELOCKED:
        return EX_TEMPFAIL;
    case ASSAY_EIO:
    case ASSAY_EFULL:
        return EX_IOERR;
    default:
        return EX_SOFTWARE;
    }
}

static void raise_descriptor_limit(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
}

/* Keeps freed memory. Requests of a hundred kilobytes come and go, and glibc would return their
 * pages to the system and fetch new ones each time, which costs more than copying the requests. */
static void keep_memory(void)
{
#ifdef __GLIBC__
    mallopt(M_MMAP_THRESHOLD, LARGE_BLOCK);
    mallopt(M_TRIM_THRESHOLD, KEPT_MEMORY);
#endif
}

/* Asks for SIGTERM when the parent ends; 0 when it has ended already. That is certain only if its
 * process id is given: a parent of number 1 may have adopted an orphan, or be a container's first
 * process. */
static int follow_parent(pid_t parent)
{
    return prctl(PR_SET_PDEATHSIG, SIGTERM) == 0 && (parent < 0 || getppid() == parent);
}

int main(int argc, char **argv)
{
    struct options options;
    struct broker b = {.options = &options,
        .lock_fd = -1,
        .data_fd = -1,
        .adapters_lock = PTHREAD_MUTEX_INITIALIZER,
        .started_ms = now_wall_ms()};
    struct err e = {0};
    char data[4096] = "";
    struct data_dir_start start = {0};
    start_process();
    signal(SIGXFSZ, SIG_IGN); /* a write beyond `ulimit -f` fails instead; workers inherit it */
    int rc = options_parse(&options, argc, argv);
    if (rc != 0) {
        options_release(&options);
        return rc;
    }
    if (options.help || options.version) {
        if (options.help)
            options_print_help();
        else
            printf("assayd %s\n", ASSAY_VERSION);
        options_release(&options);
        return stdout_end("assayd");
    }
    if (options.log_json)
        log_use_json();
    log_init("assayd", -1, (enum log_level)options.log_level);
    umask(077); /* database and sockets are the owner's alone, in any directory */
    if (options.exit_with_parent && !follow_parent(options.exit_with_parent))
        return EX_UNAVAILABLE;
    notify_open(
        &b.notify, getenv("NOTIFY_SOCKET"), getenv("WATCHDOG_USEC"), getenv("WATCHDOG_PID"));
    unsetenv("NOTIFY_SOCKET"); /* it is not for workers */
    raise_descriptor_limit();
    keep_memory();
    b.waiters = waiters_new();
    b.homes = options.replicas > 1 && options.kv_cache > 0 ? homes_new() : NULL;
    b.sessions = sessions_new((uint64_t)options.session_bytes, &b.limits, b.homes);
    rc = resources_check_stack(&e);
    if (rc == 0 && sodium_init() < 0)
        rc = err_set(&e, ASSAY_EIO, "libsodium cannot start");
    if (rc == 0)
        rc = open_data(&b, data, sizeof data, &start, &e);
    if (rc == 0)
        rc = devices_choose(&b.devices, &options, &e);
    if (rc == 0)
        rc = open_models(&b, &e);
    if (rc == 0)
        rc = open_store(&b, &e);
    if (rc == 0)
        rc = open_sockets(&b, &e);
    if (rc == 0)
        rc = open_groups(&b, &e);
    if (rc == 0 && options.http)
        rc = front_new(&b.front, &options, data, &e);
    if (rc == 0)
        rc = check_room_for_a_client(&b, &e);
    int started = rc == 0;
    if (started && options.exit_with_parent <= 0) /* `assay score` names its process */
        data_dir_keep(data);
    if (started)
        rc = loop_run(&b, &e);
    if (rc != 0)
        log_error("event=failed error=\"%s\"", e.msg);
    close_broker(&b);
    if (!started)
        data_dir_undo(data, &start);
    notify_close(&b.notify);
    options_release(&options);
    return rc == 0 ? EX_OK : exit_code_of(&e);
}
