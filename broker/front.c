/* front.c - see front.h. */
#include "broker/front.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sysexits.h>
#include <unistd.h>

#include "broker/workers/spawn.h"
#include "schema/alloc.h"
#include "schema/clock.h"
#include "schema/log.h"

#define FIRST_DELAY_MS 1000
#define MOST_DELAY_MS 30000
#define STEADY_MS 60000 /* a process that ran so long was a good one */
#define OWN_WORDS 9     /* of its command: the program, and four options of ours */

struct front {
    char program[4096], url[300], failure[256];
    char **argv;
    struct child child;
    long long due_ms, began_ms, delay_ms;
    int restarts, stops;
};

/* ---- its command ---- */

/* Does the word name this option, perhaps shortened? */
static int is_option(const char *word, const char *option)
{
    size_t n = strcspn(word, "=");
    return n > 2 && strncmp(word, "--", 2) == 0 && strncmp(word + 2, option, n - 2) == 0;
}

static int has_option(const struct options *o, const char *option)
{
    for (int i = 0; i < o->n_http_words; i++)
        if (is_option(o->http_words[i], option) ||
            (option[0] == '-' && strcmp(o->http_words[i], option) == 0))
            return 1;
    return 0;
}

/* What the broker says itself is not said again behind `--`, and nothing that ends a process at once:
 * it would be started for ever. */
static int check_words(const struct options *o, struct err *e)
{
    static const char *const own[] = {"listen", "data", "connect"};
    static const char *const ends[] = {"help", "-h", "version"};
    for (size_t i = 0; i < sizeof ends / sizeof ends[0]; i++)
        if (has_option(o, ends[i]))
            return err_set(e, ASSAY_EFORMAT,
                "behind `--`: expected options with which assay-http serves, found %s%s",
                ends[i][0] == '-' ? "" : "--", ends[i]);
    for (size_t i = 0; i < sizeof own / sizeof own[0]; i++)
        if (has_option(o, own[i]))
            return err_set(e, ASSAY_EFORMAT,
                "behind `--`: expected options of assay-http without --%s, which --http gives it",
                own[i]);
    return 0;
}

/* The words must be there as long as the process is. */
static void write_command(struct front *f, const struct options *o, const char *data)
{
    int n = 0;
    f->argv = xcalloc((size_t)o->n_http_words + OWN_WORDS + 1, sizeof *f->argv);
    f->argv[n++] = f->program;
    f->argv[n++] = (char *)(o->n_listen > 0 ? "--connect" : "--data");
    f->argv[n++] = (char *)(o->n_listen > 0 ? o->listen[0] : data);
    f->argv[n++] = (char *)"--listen";
    f->argv[n++] = (char *)o->http;
    f->argv[n++] = (char *)"--log-level"; /* what follows may say otherwise */
    f->argv[n++] = (char *)log_level_name();
    if (o->log_json) {
        f->argv[n++] = (char *)"--log-format";
        f->argv[n++] = (char *)"json";
    }
    for (int i = 0; i < o->n_http_words; i++)
        f->argv[n++] = (char *)o->http_words[i];
}

int front_new(struct front **out, const struct options *o, const char *data, struct err *e)
{
    struct front *f = xcalloc(1, sizeof *f);
    f->child.pidfd = -1;
    f->delay_ms = FIRST_DELAY_MS;
    int rc = check_words(o, e);
    if (rc == 0)
        rc = program_beside(f->program, sizeof f->program, "assay-http", e);
    if (rc == 0 && access(f->program, X_OK) != 0)
        rc = err_errno(e, ASSAY_EFORMAT, "--http: cannot run %s", f->program);
    snprintf(
        f->url, sizeof f->url, "http%s://%.256s", has_option(o, "tls-cert") ? "s" : "", o->http);
    snprintf(f->failure, sizeof f->failure, "it has not begun");
    if (rc == 0)
        write_command(f, o, data);
    *out = f;
    if (rc != 0)
        front_free(out);
    return rc;
}

/* ---- its life ---- */

static void put_off(struct front *f, long long now_ms)
{
    if (f->began_ms > 0 && now_ms - f->began_ms >= STEADY_MS)
        f->delay_ms = FIRST_DELAY_MS;
    f->due_ms = now_ms + f->delay_ms;
    f->delay_ms = f->delay_ms * 2 < MOST_DELAY_MS ? f->delay_ms * 2 : MOST_DELAY_MS;
}

static void start(struct front *f, long long now_ms)
{
    struct child_options options = {.argv = f->argv, .stdout_fd = -1, .stderr_fd = -1};
    struct err e = {0};
    f->restarts += f->began_ms > 0;
    f->began_ms = now_ms;
    if (child_start(&f->child, &options, &e) == 0) {
        f->failure[0] = '\0';
        log_info("event=http_started pid=%d url=%s", (int)f->child.pid, f->url);
        return;
    }
    f->child.pidfd = -1;
    snprintf(f->failure, sizeof f->failure, "%.255s", e.msg);
    put_off(f, now_ms);
    log_error("event=http_not_started reason=\"%s\"", e.msg);
}

static void note_end(struct front *f, long long now_ms, int exit_code, int number)
{
    if (number)
        snprintf(f->failure, sizeof f->failure, "it ended with signal %d", number);
    else
        snprintf(f->failure, sizeof f->failure, "it ended with exit code %d%s", exit_code,
            exit_code == EX_USAGE || exit_code == EX_CONFIG ? ": its options cannot be used" : "");
    put_off(f, now_ms);
    if (!f->stops)
        log_warn("event=http_ended pid=%d reason=\"%s\" again_ms=%lld", (int)f->child.pid,
            f->failure, f->due_ms - now_ms);
}

long long front_tick(struct front *f, long long now_ms)
{
    int exit_code = 0, number = 0;
    if (!f)
        return FOREVER;
    if (f->child.pidfd >= 0 && child_reap(&f->child, 0, &exit_code, &number))
        note_end(f, now_ms, exit_code, number);
    if (f->child.pidfd < 0 && !f->stops && now_ms >= f->due_ms)
        start(f, now_ms);
    return f->child.pidfd >= 0 || f->stops ? FOREVER : f->due_ms;
}

int front_poll_item(const struct front *f, zmq_pollitem_t *item)
{
    if (!f || f->child.pidfd < 0)
        return 0;
    *item = (zmq_pollitem_t){.fd = f->child.pidfd, .events = ZMQ_POLLIN};
    return 1;
}

void front_stop(struct front *f)
{
    if (!f)
        return;
    f->stops = 1;
    if (f->child.pidfd >= 0)
        syscall(SYS_pidfd_send_signal, f->child.pidfd, SIGTERM, NULL, 0u);
}

int front_is_over(const struct front *f)
{
    return !f || (f->stops && f->child.pidfd < 0);
}

void front_free(struct front **out)
{
    struct front *f = *out;
    int exit_code, number;
    *out = NULL;
    if (!f)
        return;
    if (f->child.pidfd >= 0)
        child_end(&f->child, now_mono_ms() + CHILD_END_MS, &exit_code, &number);
    free(f->argv);
    free(f);
}

void front_describe(const struct front *f, struct front_info *info)
{
    *info = (struct front_info){.url = f->url,
        .pid = f->child.pidfd >= 0 ? (int)f->child.pid : 0,
        .restarts = f->restarts,
        .failure = f->failure};
}
