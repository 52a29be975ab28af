/* verbs.c - the short verbs: one request, and its reply as aligned text, or unchanged with
 * --json. */
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "broker/cli/connect.h"
#include "broker/cli/feeder.h"
#include "broker/cli/json_print.h"
#include "broker/cli/output.h"
#include "broker/cli/progress.h"
#include "broker/cli/screen.h"
#include "broker/cli/waiting.h"
#include "schema/log.h"

#define LOOK_MS 200
#define OPEN_MS 5000 /* of an open job without progress; then that is reported */

static int64_t integer(const json_t *reply, const char *key)
{
    return json_integer_value(json_object_get(reply, key));
}

static const char *text(const json_t *reply, const char *key)
{
    const char *s = json_string_value(json_object_get(reply, key));
    return s ? s : "";
}

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
    printf("job %" PRId64 " '", integer(r, "job"));
    print_safely(stdout, text(r, "key"));
    printf("': %s", text(r, "state"));
    const char *reason = text(r, "reason");
    if (reason[0]) {
        printf(" (");
        print_safely(stdout, reason);
        printf(")");
    }
    if (strcmp(text(r, "state"), "paused") == 0)
        printf("; `assay resume JOB%s` lets it go on", reason[0] ? " --accept-mode" : "");
    printf("\n  done %" PRId64 " of ", integer(r, "done"));
    if (json_is_integer(total))
        printf("%" PRId64, (int64_t)json_integer_value(total));
    else
        printf("at least %" PRId64, integer(r, "accepted"));
    printf(", failed %" PRId64 ", running %" PRId64 ", queued %" PRId64, integer(r, "failed"),
        integer(r, "running"), integer(r, "queued"));
    if (integer(r, "copied") + integer(r, "cached") > 0)
        printf("\n  of them copied %" PRId64 ", from the cache %" PRId64, integer(r, "copied"),
            integer(r, "cached"));
    if (text(r, "failure")[0]) {
        printf("\n  the workers do not start: ");
        print_safely(stdout, text(r, "failure"));
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
    printf("job %" PRId64 ": %s\n", integer(r, "job"), text(r, "state"));
}

static void print_retried(const json_t *r)
{
    printf("job %" PRId64 ": %s, %" PRId64 " rows queued again\n", integer(r, "job"),
        text(r, "state"), integer(r, "retried"));
    if (integer(r, "kept") > 0)
        printf("%" PRId64 " failed rows stay as they are: they failed for what is in them\n",
            integer(r, "kept"));
}

#define BESIDE_KEY                                                                                 \
    (5 + 9 + 10 + 10 + 7 + 8 + 6) /* the other columns, and the spaces between them */

/* On a terminal, keys are cut to fit the table; elsewhere they are whole. */
static int key_column(const json_t *jobs, int *width)
{
    const json_t *job;
    int longest = 3, height;
    size_t k;
    json_array_foreach(jobs, k, job)
    {
        int len = (int)strlen(text(job, "key"));
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
    frame_cell(f, STYLE_PLAIN, 5, "%" PRId64, integer(job, "job"));
    frame_cell(f, STYLE_PLAIN, -key_width, "%s", text(job, "key"));
    frame_cell(f, STYLE_PLAIN, -9, "%s", text(job, "state"));
    frame_cell(f, STYLE_PLAIN, 10, "%" PRId64, integer(job, "done"));
    if (json_is_integer(total))
        frame_cell(f, STYLE_PLAIN, 10, "%" PRId64, (int64_t)json_integer_value(total));
    else
        frame_cell(f, STYLE_PLAIN, 10, "?");
    frame_cell(f, STYLE_PLAIN, 7, "%" PRId64, integer(job, "failed"));
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
    return simple(c, "info", NULL, print_pretty);
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

static int is_over(const json_t *reply)
{
    return strcmp(text(reply, "state"), "done") == 0 ||
           strcmp(text(reply, "state"), "cancelled") == 0;
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
        over = !c->value[CLI_WATCH] || is_over(reply) || cli_interrupted() || fflush(stdout) != 0;
        json_decref(reply);
        if (!over)
            cli_nap(1000);
    }
    client_free(&client);
    return rc == 0 && cli_interrupted() ? EX_TEMPFAIL : rc;
}

/* Reports what blocks the job, if anything does. */
static void tell_what_blocks(struct waiting *w, const json_t *r, long long idle_ms)
{
    const char *reason = text(r, "reason"), *key = text(r, "key");
    if (reason[0])
        waiting_tell(w,
            "waiting: job '%s' is held: %s; `assay resume JOB --accept-mode` goes on all the same",
            key, reason);
    else if (strcmp(text(r, "state"), "paused") == 0)
        waiting_tell(w, "waiting: job '%s' is paused; `assay resume JOB` lets it go on", key);
    else if (text(r, "failure")[0])
        waiting_tell(
            w, "waiting: the workers do not start, they are tried again: %s", text(r, "failure"));
    else if (strcmp(text(r, "state"), "open") == 0 && idle_ms > OPEN_MS)
        waiting_tell(w, "waiting: job '%s' is open: its last rows are not submitted yet", key);
    else
        waiting_over(w);
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
    if (integer(w->reply, "done") != w->done)
        w->changed_ms = now_mono_ms();
    w->done = integer(w->reply, "done");
    const json_t *total = json_object_get(w->reply, "total");
    w->progress.total = json_is_integer(total) ? json_integer_value(total) : -1;
    tell_what_blocks(&w->waiting, w->reply, now_mono_ms() - w->changed_ms);
    progress_show(&w->progress, w->done, integer(w->reply, "failed"), 0);
    return is_over(w->reply);
}

static int print_end(const struct cli *c, const json_t *reply)
{
    int failed = integer(reply, "failed") > 0 || strcmp(text(reply, "state"), "cancelled") == 0;
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
            text(w->reply, "state"));
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

static void tell_bad_line(void *arg, struct line *line, int64_t i)
{
    (void)arg;
    if (i < 0)
        cli_say("%s%s%s", line->err.field, line->err.field[0] ? ": " : "", line->err.msg);
}

/* Submits the whole input. */
static int feed_all(struct feeder *f, struct progress *progress, struct waiting *w, struct err *e)
{
    int rc = 0;
    while (rc == 0 && !f->sealed && !cli_interrupted()) {
        rc = feeder_step(f, e);
        if (rc == FEEDER_BUSY)
            rc = waiting_pause(w, e);
        else if (rc == 0)
            waiting_over(w);
        if (rc == 0 && f->cancelled)
            rc = err_set(e, ASSAY_ESTATE,
                "job '%s' is cancelled: rows that are not finished are never scored; take another "
                "key, or `assay purge` this one first",
                f->key);
        progress_show(progress, f->n_rows, f->n_bad, 0);
    }
    progress_end(progress);
    if (rc == 0 && !f->sealed)
        rc = err_set(e, ASSAY_EIO, "stopped");
    return rc;
}

/* The priority of the message that made the job counts. */
static void check_priority(const struct cli *c, struct feeder *f)
{
    struct err e = {0};
    json_t *reply = NULL;
    if (!c->value[CLI_PRIORITY])
        return;
    msg_key_str(client_begin(f->client, "status", 1), "job", f->key);
    if (client_call_patiently(f->client, 0, &reply, &e) != 0)
        return;
    if (integer(reply, "priority") != f->priority)
        cli_say("--priority %d is not applied: job '%s' was there already, with priority %" PRId64,
            f->priority, f->key, integer(reply, "priority"));
    json_decref(reply);
}

static int send_all(const struct cli *c, struct feeder *f, struct progress *progress)
{
    struct err e = {0};
    struct waiting w = {.progress = progress, .refuse = c->value[CLI_NO_WAIT] != NULL};
    client_set_waiting(f->client, &w);
    int failed = feed_all(f, progress, &w, &e) != 0;
    client_set_waiting(f->client, NULL);
    if (failed) {
        int rc = cli_fail(&e);
        if (f->n_rows > 0 && !f->cancelled)
            cli_say("%" PRId64 " rows are accepted already; the same command again goes on "
                    "from there",
                f->n_rows);
        return w.refuse && waiting_is_worth(&e) ? EX_TEMPFAIL : rc;
    }
    check_priority(c, f);
    if (c->value[CLI_JSON]) {
        json_t *all = json_pack("{s:s, s:I, s:I}", "key", f->key, "accepted", (json_int_t)f->n_rows,
            "bad_lines", (json_int_t)f->n_bad);
        print_json(all);
        json_decref(all);
    } else {
        printf("job '");
        print_safely(stdout, f->key);
        printf("': %" PRId64 " rows accepted, %" PRId64 " bad lines\n", f->n_rows, f->n_bad);
    }
    return f->n_bad > 0 ? EX_ROWS_FAILED : EX_OK;
}

int verb_submit(const struct cli *c)
{
    struct client *client = NULL;
    struct lines *lines = NULL;
    struct feeder feeder;
    struct progress progress;
    long priority;
    if (!c->value[CLI_KEY])
        return cli_usage("submit: expected --key KEY, the job's name, found none");
    int rc = cli_number(c, CLI_PRIORITY, -100, 100, 0, &priority);
    if (rc == 0)
        rc = lines_open(&lines, c);
    if (rc == 0)
        rc = cli_connect(c, &client);
    if (rc == 0) {
        feeder_init(&feeder, client, lines, c->value[CLI_KEY]);
        feeder.priority = (int)priority;
        feeder.keeps_bad = 1;
        feeder.on_line = tell_bad_line;
        progress_init(&progress, c->stderr_tty, lines_count(lines));
        rc = send_all(c, &feeder, &progress);
        feeder_release(&feeder);
    }
    client_free(&client);
    lines_close(&lines);
    return rc;
}

/* Fetches and prints one page of results, and advances *after. */
static int print_page(struct client *client, const char *job, int64_t *after, int wait_ms,
    size_t *n, int *done, int *failed, struct err *e)
{
    json_t *reply = NULL, *row;
    size_t k;
    struct msg_writer *w = client_begin(client, "results", 3);
    cli_write_job(w, job);
    msg_key_int(w, "after", *after);
    msg_key_int(w, "wait_ms", wait_ms);
    int rc = client_call_patiently(client, wait_ms, &reply, e);
    if (rc != 0)
        return rc;
    json_array_foreach(json_object_get(reply, "rows"), k, row)
    {
        json_t *id = json_object_get(row, "id");
        json_t *line = output_line(row, json_is_null(id) ? json_object_get(row, "i") : id);
        *failed |= !json_is_null(json_object_get(row, "error"));
        if (rc == 0)
            rc = json_print_line(stdout, line, e);
        json_decref(line);
    }
    *n = json_array_size(json_object_get(reply, "rows"));
    *after = json_integer_value(json_object_get(reply, "next"));
    *done = json_is_true(json_object_get(reply, "done"));
    json_decref(reply);
    return rc;
}

int verb_results(const struct cli *c)
{
    struct client *client = NULL;
    struct err e = {0};
    long first;
    int done = 0, failed = 0, follow = c->value[CLI_FOLLOW] != NULL;
    size_t n = 1;
    int rc = cli_number(c, CLI_AFTER, 0, LONG_MAX, 0, &first);
    int64_t after = first;
    if (rc == 0)
        rc = cli_connect(c, &client);
    while (rc == 0 && !done && (follow || n > 0) && !cli_interrupted())
        if (print_page(client, c->operand, &after, follow ? 500 : 0, &n, &done, &failed, &e) != 0)
            rc = cli_fail(&e);
    client_free(&client);
    if (rc == 0 && cli_interrupted())
        rc = EX_TEMPFAIL;
    return rc == 0 && failed ? EX_ROWS_FAILED : rc;
}
