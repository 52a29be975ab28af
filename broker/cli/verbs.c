/* verbs.c - the short verbs: info, jobs, status, wait, cancel, pause, resume, retry. They print the
 * reply to a request as aligned text, or unchanged with --json. */
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "broker/cli/connect.h"
#include "broker/cli/json_print.h"
#include "broker/cli/progress.h"
#include "broker/cli/reply.h"
#include "broker/cli/screen.h"
#include "broker/cli/waiting.h"
#include "schema/clock.h"

#define LOOK_MS 200

static int print_json(const json_t *reply)
{
    struct err e = {0};
    return json_print_line(stdout, reply, &e) == 0 ? EX_OK : cli_fail(&e);
}

static void print_time_left(const json_t *reply)
{
    const json_t *eta = json_object_get(reply, "eta_s");
    if (json_is_number(eta)) {
        long s = (long)json_number_value(eta);
        printf("%ld:%02ld:%02ld", s / 3600, s / 60 % 60, s % 60);
    } else {
        printf("-");
    }
}

static void print_status(const json_t *r)
{
    const json_t *total = json_object_get(r, "total");
    printf("job %" PRId64 " '", reply_int(r, "job"));
    print_safely(stdout, reply_text(r, "key"));
    printf("': %s", reply_text(r, "state"));
    const char *reason = reply_text(r, "reason");
    if (reason[0]) {
        printf(" (");
        print_safely(stdout, reason);
        printf(")");
    }
    if (strcmp(reply_text(r, "state"), "paused") == 0)
        printf("; `assay resume JOB%s` lets it go on", reason[0] ? " --accept-mode" : "");
    printf("\n  done %" PRId64 " of ", reply_int(r, "done"));
    if (json_is_integer(total))
        printf("%" PRId64, (int64_t)json_integer_value(total));
    else
        printf("at least %" PRId64, reply_int(r, "accepted"));
    printf(", failed %" PRId64 ", running %" PRId64 ", queued %" PRId64, reply_int(r, "failed"),
        reply_int(r, "running"), reply_int(r, "queued"));
    if (reply_int(r, "copied") + reply_int(r, "cached") > 0)
        printf("\n  of them copied %" PRId64 ", from the cache %" PRId64, reply_int(r, "copied"),
            reply_int(r, "cached"));
    if (reply_text(r, "failure")[0]) {
        printf("\n  the workers do not start: ");
        print_safely(stdout, reply_text(r, "failure"));
    }
    if (reply_text(r, "unwritten")[0]) {
        printf("\n  results cannot be written, that is tried again: ");
        print_safely(stdout, reply_text(r, "unwritten"));
    }
    if (reply_text(r, "made_otherwise")[0]) {
        printf("\n  its scores are not this broker's: ");
        print_safely(stdout, reply_text(r, "made_otherwise"));
    }
    printf("\n  %.1f rows/s, time left ", json_number_value(json_object_get(r, "rate")));
    print_time_left(r);
    printf("\n");
}

/* Sends a request with `job` and, if flag is not NULL, flag: true. The caller owns *reply. */
static int ask(struct client *client, const char *op, const char *job, const char *flag,
    json_t **reply, struct err *e)
{
    struct msg_writer *w =
        client_begin(client, op, (uint32_t)(job != NULL) + (uint32_t)(flag != NULL));
    if (job)
        cli_write_job(w, job);
    if (flag)
        msg_key_bool(w, flag, 1);
    return client_call_patiently(client, 0, reply, e);
}

/* Connects, asks, prints with `print` (or as JSON) and disconnects. */
static int simple(
    const struct cli *c, const char *op, const char *flag, void (*print)(const json_t *))
{
    struct client *client = NULL;
    struct err e = {0};
    json_t *reply = NULL;
    int rc = cli_connect(c, &client);
    if (rc != 0)
        return rc;
    if (ask(client, op, c->operand, flag, &reply, &e) != 0)
        rc = cli_fail(&e);
    else if (c->value[CLI_JSON])
        rc = print_json(reply);
    else
        print(reply);
    json_decref(reply);
    client_free(&client);
    return rc;
}

static void print_state(const json_t *r)
{
    printf("job %" PRId64 ": %s\n", reply_int(r, "job"), reply_text(r, "state"));
}

static void print_retried(const json_t *r)
{
    printf("job %" PRId64 ": %s, %" PRId64 " row%s queued again\n", reply_int(r, "job"),
        reply_text(r, "state"), reply_int(r, "retried"), cli_s(reply_int(r, "retried")));
    if (reply_int(r, "kept") > 0)
        printf("failed for what is in them, and left as they are: %" PRId64 " row%s\n",
            reply_int(r, "kept"), cli_s(reply_int(r, "kept")));
}

#define BESIDE_KEY                                                                                 \
    (5 + 9 + 10 + 10 + 7 + 8 + 6) /* the other columns, and the spaces between them */

/* On a terminal, keys are cut to fit the table; elsewhere they are whole. */
static int key_column(const json_t *jobs, int *width)
{
    const json_t *job;
    int longest = 8, height;
    size_t k;
    json_array_foreach(jobs, k, job)
    {
        int len = (int)strlen(reply_text(job, "key"));
        longest = len > longest ? len : longest;
    }
    *width = longest + BESIDE_KEY;
    if (isatty(STDOUT_FILENO))
        screen_size(STDOUT_FILENO, width, &height);
    int room = *width - BESIDE_KEY;
    return longest < room ? longest : room < 8 ? 8 : room;
}

static void add_job(struct frame *f, int key_width, const json_t *job)
{
    const json_t *total = json_object_get(job, "total");
    frame_cell(f, STYLE_PLAIN, 5, "%" PRId64, reply_int(job, "job"));
    frame_cell(f, STYLE_PLAIN, -key_width, "%s", reply_text(job, "key"));
    frame_cell(f, STYLE_PLAIN, -9, "%s", reply_text(job, "state"));
    frame_cell(f, STYLE_PLAIN, 10, "%" PRId64, reply_int(job, "done"));
    if (json_is_integer(total))
        frame_cell(f, STYLE_PLAIN, 10, "%" PRId64, (int64_t)json_integer_value(total));
    else
        frame_cell(f, STYLE_PLAIN, 10, "?");
    frame_cell(f, STYLE_PLAIN, 7, "%" PRId64, reply_int(job, "failed"));
    frame_cell(f, STYLE_PLAIN, 8, "%.1f", json_number_value(json_object_get(job, "rate")));
    frame_end_line(f);
}

static void print_jobs(const json_t *jobs)
{
    struct frame f;
    int width, key_width = key_column(jobs, &width);
    frame_begin(&f, width, 0, 0);
    frame_text(&f, STYLE_PLAIN, "%5s %-*s %-9s %10s %10s %7s %8s", "JOB", key_width, "KEY", "STATE",
        "DONE", "TOTAL", "FAILED", "ROWS/S");
    frame_end_line(&f);
    for (size_t k = 0; k < json_array_size(jobs); k++)
        add_job(&f, key_width, json_array_get(jobs, k));
    frame_show(&f, 0);
}

static void print_pretty(const json_t *r)
{
    json_t *shown = json_copy((json_t *)r);
    json_object_del(shown, "v");
    json_object_del(shown, "id");
    json_object_del(shown, "ok");
    json_print(stdout, shown, JSON_INDENT(2));
    printf("\n");
    json_decref(shown);
}

int verb_info(const struct cli *c)
{
    return c->value[CLI_RECIPES] ? print_recipes(c) : simple(c, "info", NULL, print_pretty);
}

int verb_cancel(const struct cli *c)
{
    return simple(c, "cancel", NULL, print_state);
}

int verb_pause(const struct cli *c)
{
    return simple(c, "pause", NULL, print_state);
}

int verb_resume(const struct cli *c)
{
    return simple(c, "resume", c->value[CLI_ACCEPT_MODE] ? "accept_mode" : NULL, print_state);
}

int verb_retry(const struct cli *c)
{
    return simple(c, "retry", NULL, print_retried);
}

int verb_jobs(const struct cli *c)
{
    struct client *client = NULL;
    struct err e = {0};
    json_t *jobs = json_array();
    int rc = cli_connect(c, &client);
    if (rc == 0 && cli_list_jobs(client, 0, jobs, &e) != 0) {
        rc = cli_fail(&e);
    } else if (rc == 0 && c->value[CLI_JSON]) {
        json_t *all = json_pack("{s:O}", "jobs", jobs);
        rc = print_json(all);
        json_decref(all);
    } else if (rc == 0) {
        print_jobs(jobs);
    }
    json_decref(jobs);
    client_free(&client);
    return rc;
}

int verb_status(const struct cli *c)
{
    if (!c->operand)
        return verb_jobs(c);
    struct client *client = NULL;
    struct err e = {0};
    int rc = cli_connect(c, &client), over = 0;
    while (rc == 0 && !over) {
        json_t *reply = NULL;
        if (ask(client, "status", c->operand, NULL, &reply, &e) != 0) {
            rc = cli_fail(&e);
            break;
        }
        if (c->value[CLI_JSON])
            rc = print_json(reply);
        else
            print_status(reply);
        over = !c->value[CLI_WATCH] || reply_is_over(reply) || cli_interrupted() ||
               fflush(stdout) != 0;
        json_decref(reply);
        if (!over)
            cli_nap(1000);
    }
    client_free(&client);
    return rc == 0 && cli_interrupted() ? EX_TEMPFAIL : rc;
}

struct wait {
    struct client *client;
    struct progress progress;
    struct waiting waiting;
    json_t *reply; /* the last one */
    long long changed_ms, until_ms;
    int64_t done;
};

/* Asks once for the job's state. Returns 1 if it is over, 0 if not, or negative. */
static int look(struct wait *w, const char *job, struct err *e)
{
    json_decref(w->reply);
    w->reply = NULL;
    int rc = ask(w->client, "status", job, NULL, &w->reply, e);
    if (rc != 0)
        return rc;
    if (reply_int(w->reply, "done") != w->done)
        w->changed_ms = now_mono_ms();
    w->done = reply_int(w->reply, "done");
    const json_t *total = json_object_get(w->reply, "total");
    w->progress.total = json_is_integer(total) ? json_integer_value(total) : -1;
    waiting_tell_what_blocks(&w->waiting, w->reply, now_mono_ms() - w->changed_ms);
    progress_show(&w->progress, w->done, reply_int(w->reply, "failed"), 0);
    return reply_is_over(w->reply);
}

static int print_end(const struct cli *c, const json_t *reply)
{
    int failed =
        reply_int(reply, "failed") > 0 || strcmp(reply_text(reply, "state"), "cancelled") == 0;
    if (c->value[CLI_JSON])
        print_json(reply);
    else
        print_status(reply);
    return failed ? EX_ROWS_FAILED : EX_OK;
}

static int wait_until_over(const struct cli *c, struct wait *w)
{
    struct err e = {0};
    int over;
    while ((over = look(w, c->operand, &e)) == 0 && now_mono_ms() < w->until_ms)
        if (cli_nap(LOOK_MS))
            break;
    progress_end(&w->progress);
    if (over < 0)
        return cli_fail(&e);
    if (over)
        return print_end(c, w->reply);
    if (!cli_interrupted())
        cli_say("job '%s' is not over after %s s: it is %s", c->operand, c->value[CLI_MAX_WAIT],
            reply_text(w->reply, "state"));
    return EX_TEMPFAIL;
}

int verb_wait(const struct cli *c)
{
    struct wait w = {.changed_ms = now_mono_ms()};
    long max_s;
    int rc = cli_number(c, CLI_MAX_WAIT, 0, INT_MAX, INT_MAX, &max_s);
    if (rc == 0)
        rc = cli_connect(c, &w.client);
    if (rc == 0) {
        w.until_ms = now_mono_ms() + 1000ll * max_s;
        progress_init(&w.progress, c->stderr_tty, -1);
        w.waiting.progress = &w.progress;
        client_set_waiting(w.client, &w.waiting);
        rc = wait_until_over(c, &w);
    }
    json_decref(w.reply);
    client_free(&w.client);
    return rc;
}
