/* main.c - assay-http: HTTP in front of a broker (ask.h has the map of its files). The main thread
 * waits for signals and looks after connections; the link's thread has the broker, and
 * libmicrohttpd's threads have the clients. */
#include <signal.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>
#include <time.h>
#include <unistd.h>

#include "broker/data_dir.h"
#include "broker/http/desk.h"
#include "broker/http/inherited.h"
#include "broker/http/listen.h"
#include "broker/http/options.h"
#include "broker/http/server.h"
#include "broker/http/stored.h"
#include "schema/alloc.h"
#include "schema/clock.h"
#include "schema/endpoint.h"
#include "schema/log.h"
#include "schema/notify.h"
#include "schema/start.h"
#include "schema/stdout.h"
#include "schema/version.h"

#define TICK_MS 100
#define FIRST_TICK_MS 10
#define BROKER_MS 5000
#define DRAIN_MS 5000
#define LAST_MS 2000
#define ALL_BODIES 16 /* times the largest: most bytes of all requests under way */

static int exit_code(const struct err *e)
{
    return e->code == ASSAY_EBADREQ                                     ? EX_USAGE
           : e->code == ASSAY_EFORMAT || e->code == ASSAY_EUNAUTHORIZED ? EX_CONFIG
                                                                        : EX_UNAVAILABLE;
}

static int fail(const struct err *e)
{
    log_error("event=cannot_start reason=\"%s\"", e->msg);
    return exit_code(e);
}

/* Writes the broker's endpoint. *fd: endpoint_in_dir's. */
static int find_broker(const struct http_options *o, char endpoint[512], int *fd, struct err *e)
{
    char path[4096], short_one[ENDPOINT_BYTES], name[ENDPOINT_SOCKET_BYTES];
    struct endpoint parsed = {0};
    if (o->connect) {
        snprintf(endpoint, 512, "%s", o->connect);
        return strlen(o->connect) < 512
                   ? endpoint_parse(&parsed, o->connect, ENDPOINT_CONNECT, e)
                   : err_set(
                         e, ASSAY_EBADREQ, "--connect: expected an endpoint, found a longer text");
    }
    int rc = data_dir_find(path, sizeof path, o->data, e);
    endpoint_socket(name, 0);
    if (rc == 0)
        rc = endpoint_in_dir(short_one, path, name, fd, e);
    if (rc == 0)
        snprintf(endpoint, 512, "%s", short_one);
    return rc;
}

static sigset_t block_signals(void)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGHUP);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN); /* a write beyond `ulimit -f` fails instead */
    return set;
}

/* Returns the signal's number, 0 if none came within ms. */
static int wait_signal(const sigset_t *set, long ms)
{
    struct timespec t = {ms / 1000, ms % 1000 * 1000000};
    int number = sigtimedwait(set, NULL, &t);
    return number > 0 ? number : 0;
}

static uint32_t count_open(struct server *s)
{
    struct link_counts counts;
    link_count(s->link, &counts);
    return counts.n_waiting + counts.n_running;
}

static int knows_broker(struct server *s)
{
    struct card *card = link_card(s->link);
    int knows = card != NULL;
    card_release(&card);
    return knows;
}

/* Clients that wait in a socket of systemd's may as well wait for the broker. Returns 0, or the signal
 * that came. */
static int await_broker(struct server *s, const sigset_t *set)
{
    long long until_ms = now_mono_ms() + BROKER_MS;
    int number = 0;
    while (number == 0 && !knows_broker(s) && now_mono_ms() < until_ms)
        number = wait_signal(set, FIRST_TICK_MS);
    return number;
}

/* Told to be ready once the broker has answered, so that what is ordered after it finds scores; or
 * after BROKER_MS, since it may also be started before the broker. */
static void serve(struct server *s, struct listener *l, struct notify *manager, const sigset_t *set)
{
    int number, is_ready = 0;
    long long until_ms = now_mono_ms() + BROKER_MS;
    while ((number = wait_signal(set, is_ready ? TICK_MS : FIRST_TICK_MS)) == 0) {
        if (!is_ready && (is_ready = knows_broker(s) || now_mono_ms() >= until_ms))
            notify_send(manager, "READY=1");
        peers_tick(s->peers, s->link);
        notify_alive(manager, now_mono_ms());
    }
    until_ms = now_mono_ms() + DRAIN_MS;
    notify_send(manager, "STOPPING=1");
    log_info("event=stopping signal=%d requests=%u", number, count_open(s));
    listener_quiesce(l);
    while (count_open(s) > 0 && now_mono_ms() < until_ms && wait_signal(set, TICK_MS) == 0)
        peers_tick(s->peers, s->link);
}

/* The replies that the link's end made are sent before the connections are closed. */
static void send_last(struct server *s)
{
    long long until_ms = now_mono_ms() + LAST_MS;
    struct timespec moment = {0, 5000000};
    while (atomic_load(&s->n_open) > 0 && now_mono_ms() < until_ms)
        nanosleep(&moment, NULL);
}

static int open_stored(struct server *s, const char *endpoint, struct err *e)
{
    struct batches_options options = {.link = s->link,
        .endpoint = endpoint,
        .max_line_bytes = (size_t)s->options->max_body_bytes};
    s->stored = xcalloc(1, sizeof *s->stored);
    return stored_open(s->stored, &options, s->options->files, s->options->max_file_bytes, e);
}

static int run(struct server *s, struct notify *manager, const sigset_t *set, struct err *e)
{
    char endpoint[512];
    struct listener *l = NULL;
    int dir_fd = -1, rc = find_broker(s->options, endpoint, &dir_fd, e);
    struct link_options link = {endpoint, s->options->names, s->options->n_names};
    if (rc == 0 && s->options->api_keys)
        rc = keys_read(&s->keys, s->options->api_keys, e);
    if (rc == 0)
        rc = link_new(&s->link, &link, e);
    if (rc == 0)
        rc = desk_new(&s->desk, endpoint, e);
    if (rc == 0 && s->options->files)
        rc = open_stored(s, endpoint, e);
    int is_over = rc == 0 && s->inherited_fd > 0 && await_broker(s, set) != 0;
    if (rc == 0 && !is_over)
        rc = listener_new(&l, s, e);
    if (rc == 0 && !is_over)
        serve(s, l, manager, set);
    if (s->link)
        link_stop(s->link);
    if (s->desk)
        desk_stop(s->desk);
    if (s->stored)
        stored_stop(s->stored);
    send_last(s);
    listener_free(&l);
    if (s->stored)
        stored_close(s->stored);
    free(s->stored);
    s->stored = NULL;
    desk_free(&s->desk);
    link_free(&s->link);
    keys_free(&s->keys);
    if (dir_fd >= 0)
        close(dir_fd);
    return rc;
}

int main(int argc, char **argv)
{
    struct http_options options;
    struct err e = {0};
    start_process();
    int rc = http_options_parse(&options, argc, argv);
    if (rc != 0)
        return rc;
    if (options.help || options.version) {
        if (options.help)
            http_options_print_help();
        else
            printf("assay-http %s\n", ASSAY_VERSION);
        return stdout_end("assay-http");
    }
    if (options.log_json)
        log_use_json();
    log_init("assay-http", -1, (enum log_level)options.log_level);
    if (sodium_init() < 0)
        die(EX_SOFTWARE, "libsodium cannot start");
    struct server server = {.options = &options, .started_ms = now_wall_ms()};
    server.bytes.most = ALL_BODIES * (size_t)options.max_body_bytes;
    sigset_t set = block_signals();
    server.metrics = metrics_new();
    server.peers = peers_new();
    struct notify manager;
    notify_open(&manager, getenv("NOTIFY_SOCKET"), getenv("WATCHDOG_USEC"), getenv("WATCHDOG_PID"));
    server.inherited_fd = inherited_socket(getenv("LISTEN_FDS"), getenv("LISTEN_PID"), &e);
    rc = server.inherited_fd >= 0 && run(&server, &manager, &set, &e) == 0 ? 0 : fail(&e);
    notify_close(&manager);
    metrics_free(&server.metrics);
    peers_free(&server.peers);
    return rc;
}
