/* top.c - `assay top`: broker, workers and jobs, drawn every second from the ops `info` and `jobs`.
 *
 * Speeds are differences of the broker's counters over several samples, because over one second
 * they would depend on when batches end. Finished jobs are asked for only now and then: there may
 * be many, and they rarely change.
 *
 * If stdout is not a terminal, or with --json, the state is printed once. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "broker/cli/connect.h"
#include "broker/cli/json_print.h"
#include "broker/cli/reply.h"
#include "broker/cli/screen.h"
#include "schema/alloc.h"
#include "schema/clock.h"

#define SAMPLES 6
#define KEEP_JOBS 100    /* finished jobs in memory */
#define FULL_EVERY 30    /* looks between two full listings of jobs */
#define LIVE_TIMEOUT "1" /* seconds; then the view says that nobody answers */
#define PLAIN_WIDTH 100
#define BUSY_MS 30000 /* busy shares are of so long */

struct sample {
    int64_t at_ms, rows, tokens;
};

enum order { BY_STATE, BY_RATE, BY_LEFT, BY_FAILED, BY_PRIORITY, ORDERS };
static const char *const order_names[ORDERS] = {"state", "rate", "left", "failed", "priority"};

struct top {
    const struct cli *cli;
    struct client *client;
    struct screen screen;
    json_t *info, *jobs; /* the last replies; NULL: never */
    json_t *earlier;     /* an info of up to BUSY_MS before; NULL: none */
    enum order order;    /* of jobs */
    int64_t jobs_after;  /* jobs up to this number are finished and not shown */
    int looks;
    struct sample samples[SAMPLES]; /* oldest first */
    int n_samples;
    long long silent_since_ms; /* wall clock; 0: the broker answers */
    int quit, gone;            /* gone: the terminal is closed */
    int resorts;               /* the order is another than that drawn */
};

/* ---- asking ---- */

/* Sets where the next listing begins: all jobs before it are finished, and KEEP_JOBS are after
 * it. */
static void choose_after(struct top *t)
{
    size_t n = json_array_size(t->jobs), first = n > KEEP_JOBS ? n - KEEP_JOBS : 0;
    for (size_t k = 0; k < first; k++)
        if (!reply_is_over(json_array_get(t->jobs, k)))
            first = k;
    t->jobs_after = n > 0 ? reply_int(json_array_get(t->jobs, first), "job") - 1 : 0;
}

static void take_sample(struct top *t)
{
    const json_t *counters = json_object_get(t->info, "counters");
    struct sample now = {reply_int(t->info, "now_ms"), reply_int(counters, "rows_done"),
        reply_int(counters, "tokens")};
    if (t->n_samples > 0 && now.rows < t->samples[t->n_samples - 1].rows)
        t->n_samples = 0; /* the counters went back: another broker */
    if (t->n_samples == SAMPLES)
        memmove(t->samples, t->samples + 1, (size_t)--t->n_samples * sizeof *t->samples);
    t->samples[t->n_samples++] = now;
}

/* Keeps an earlier info, as long as it is of the same broker. */
static void keep_earlier(struct top *t)
{
    int64_t since_ms = reply_int(t->info, "now_ms") - reply_int(t->earlier, "now_ms");
    int is_same = reply_int(t->info, "started_ms") == reply_int(t->earlier, "started_ms");
    if (t->earlier && is_same && since_ms < BUSY_MS)
        return;
    json_decref(t->earlier);
    t->earlier = json_incref(t->info);
}

/* Asks the broker once. Returns 0, or negative with the state unchanged. */
static int look(struct top *t, struct err *e)
{
    json_t *info = NULL, *jobs = json_array();
    int full = t->looks++ % FULL_EVERY == 0;
    client_begin(t->client, "info", 0);
    int rc = client_call(t->client, 0, &info, e);
    if (rc == 0)
        rc = cli_list_jobs(t->client, full ? 0 : t->jobs_after, jobs, e);
    if (rc != 0) {
        json_decref(info);
        json_decref(jobs);
        return rc;
    }
    if (t->info)
        keep_earlier(t);
    json_decref(t->info);
    json_decref(t->jobs);
    t->info = info;
    t->jobs = jobs;
    choose_after(t);
    take_sample(t);
    return 0;
}

/* ---- numbers ---- */

#define NUMBER_BYTES 32

/* Formats a number in at most six characters, up to 10^15. */
static const char *compact(char text_out[NUMBER_BYTES], double v)
{
    static const char units[] = " kMGTP";
    int unit = 0;
    while (v >= (unit == 0 ? 99999.5 : 999.95) && units[unit + 1]) {
        v /= 1000;
        unit++;
    }
    if (unit == 0)
        snprintf(text_out, NUMBER_BYTES, v < 100 && v != (int)v ? "%.1f" : "%.0f", v);
    else
        snprintf(text_out, NUMBER_BYTES, "%.1f%c", v, units[unit]);
    return text_out;
}

static const char *bytes_text(char text_out[NUMBER_BYTES], double v)
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    int unit = 0;
    for (; v >= 1024 && unit < 4; unit++)
        v /= 1024;
    snprintf(text_out, NUMBER_BYTES, unit == 0 ? "%.0f %s" : "%.1f %s", v, units[unit]);
    return text_out;
}

static const char *duration(char text_out[NUMBER_BYTES], int64_t s)
{
    if (s >= 86400)
        snprintf(text_out, NUMBER_BYTES, "%" PRId64 "d%02" PRId64 "h", s / 86400, s / 3600 % 24);
    else
        snprintf(text_out, NUMBER_BYTES, "%" PRId64 ":%02" PRId64 ":%02" PRId64, s / 3600,
            s / 60 % 60, s % 60);
    return text_out;
}

/* ---- drawing ---- */

static enum style state_style(const char *state)
{
    static const struct {
        const char *state;
        enum style style;
    } styles[] = {{"ready", STYLE_GREEN}, {"running", STYLE_GREEN}, {"starting", STYLE_YELLOW},
        {"draining", STYLE_YELLOW}, {"paused", STYLE_YELLOW}, {"dead", STYLE_RED},
        {"cancelled", STYLE_RED}, {"done", STYLE_DIM}};
    for (size_t i = 0; i < sizeof styles / sizeof styles[0]; i++)
        if (strcmp(styles[i].state, state) == 0)
            return styles[i].style;
    return STYLE_PLAIN;
}

/* Rows and tokens a second: over the samples, or since the broker's start if there is one
 * sample. */
static void speeds(const struct top *t, double *rows, double *tokens)
{
    struct sample first = {.at_ms = reply_int(t->info, "started_ms")};
    const struct sample *last = &t->samples[t->n_samples - 1];
    if (t->n_samples > 1)
        first = t->samples[0];
    double seconds = (double)(last->at_ms - first.at_ms) / 1000;
    *rows = seconds > 0 ? (double)(last->rows - first.rows) / seconds : 0;
    *tokens = seconds > 0 ? (double)(last->tokens - first.tokens) / seconds : 0;
}

static void draw_state(struct top *t, struct frame *f)
{
    char up[NUMBER_BYTES], when[32];
    const char *state = reply_text(t->info, "state");
    int64_t up_s = (reply_int(t->info, "now_ms") - reply_int(t->info, "started_ms")) / 1000;
    if (t->silent_since_ms == 0) {
        frame_text(f, state_style(state), "%s", state);
        frame_text(f, STYLE_PLAIN, "  up %s", duration(up, up_s));
        return;
    }
    time_t since = (time_t)(t->silent_since_ms / 1000);
    struct tm tm;
    strftime(when, sizeof when, "%H:%M:%S", localtime_r(&since, &tm));
    frame_text(f, STYLE_RED, "broker unavailable since %s", when);
    frame_text(f, STYLE_PLAIN, " (%s)", duration(up, (now_wall_ms() - t->silent_since_ms) / 1000));
}

static void draw_broker(struct top *t, struct frame *f)
{
    char a[NUMBER_BYTES], b[NUMBER_BYTES], c[NUMBER_BYTES], d[NUMBER_BYTES];
    double rows, tokens;
    const json_t *model = json_object_get(t->info, "model"),
                 *counters = json_object_get(t->info, "counters");
    frame_text(f, STYLE_BOLD, "%s", t->info ? reply_text(model, "name") : "assay top");
    for (size_t k = 1; k < json_array_size(json_object_get(t->info, "models")); k++)
        frame_text(f, STYLE_BOLD, ", %s",
            reply_text(json_array_get(json_object_get(t->info, "models"), k), "name"));
    frame_text(f, STYLE_PLAIN, "  ");
    draw_state(t, f);
    frame_end_line(f);
    if (!t->info)
        return;
    if (reply_text(t->info, "failure")[0]) {
        frame_text(f, STYLE_RED, "workers do not start: %s", reply_text(t->info, "failure"));
        frame_end_line(f);
    }
    if (reply_text(t->info, "unwritten")[0]) {
        frame_text(f, STYLE_RED, "results cannot be written: %s", reply_text(t->info, "unwritten"));
        frame_end_line(f);
    }
    speeds(t, &rows, &tokens);
    frame_text(
        f, STYLE_PLAIN, "%s, %s", reply_text(model, "architecture"), reply_text(t->info, "mode"));
    frame_end_line(f);
    frame_text(f, STYLE_BOLD, "%s rows/s, %s tokens/s", compact(a, rows), compact(b, tokens));
    int64_t wait_s = reply_int(t->info, "longest_wait_ms") / 1000;
    frame_text(f, STYLE_PLAIN, "  %s rows wait",
        compact(a, (double)reply_int(t->info, "unfinished_rows")));
    if (wait_s > 0)
        frame_text(f, STYLE_PLAIN, ", one job for %s", duration(b, wait_s));
    frame_text(f, STYLE_PLAIN, "  queued %s of %s",
        bytes_text(c, (double)reply_int(t->info, "queued_bytes")),
        bytes_text(d, (double)reply_int(json_object_get(t->info, "limits"), "max_queued_bytes")));
    int64_t copied = reply_int(counters, "rows_copied") + reply_int(counters, "rows_cached");
    if (copied > 0)
        frame_text(f, STYLE_PLAIN, "  rows copied %s", compact(a, (double)copied));
    if (reply_int(counters, "batches_lost") > 0)
        frame_text(f, STYLE_RED, "  batches lost %" PRId64, reply_int(counters, "batches_lost"));
    frame_end_line(f);
}

/* How much of its time the rank computed, in percent: since the earlier info, if it has ended a batch
 * since, or since it was ready; negative: not known. */
static double busy_of(const struct top *t, const json_t *worker)
{
    const json_t *list = json_object_get(t->earlier, "workers"), *was;
    int64_t busy = reply_int(worker, "busy_us"), up = reply_int(worker, "up_us");
    size_t k;
    json_array_foreach(list, k, was)
    {
        if (reply_int(was, "group") == reply_int(worker, "group") &&
            reply_int(was, "rank") == reply_int(worker, "rank") &&
            reply_int(was, "incarnation") == reply_int(worker, "incarnation")) {
            busy -= reply_int(was, "busy_us");
            up -= reply_int(was, "up_us");
            return up > 0 ? 100.0 * (double)busy / (double)up : 0;
        }
    }
    return up > 0 ? 100.0 * (double)busy / (double)up : -1;
}

static void draw_workers(const struct top *t, struct frame *f)
{
    const json_t *workers = json_object_get(t->info, "workers");
    size_t n = json_array_size(workers);
    int room = frame_lines_left(f) / 3;
    frame_end_line(f);
    frame_text(f, STYLE_BOLD, "GROUP RANK STATE     BUSY     PID RESTARTS DEVICE");
    frame_end_line(f);
    for (size_t k = 0; k < n; k++) {
        const json_t *w = json_array_get(workers, k);
        if ((int)k >= room - 1 && n > k + 1) {
            frame_text(f, STYLE_DIM, "and %zu more", n - k);
            frame_end_line(f);
            break;
        }
        frame_cell(f, STYLE_PLAIN, 5, "%" PRId64, reply_int(w, "group"));
        frame_cell(f, STYLE_PLAIN, 4, "%" PRId64, reply_int(w, "rank"));
        frame_cell(f, state_style(reply_text(w, "state")), -8, "%s", reply_text(w, "state"));
        double busy = busy_of(t, w);
        if (busy >= 0)
            frame_cell(f, STYLE_PLAIN, 4, "%.0f%%", busy > 100 ? 100 : busy);
        else
            frame_cell(f, STYLE_PLAIN, 4, "-");
        frame_cell(f, STYLE_PLAIN, 7, "%" PRId64, reply_int(w, "pid"));
        frame_cell(f, STYLE_PLAIN, 8, "%" PRId64, reply_int(w, "restarts"));
        frame_text(f, STYLE_PLAIN, "%s", reply_text(w, "device"));
        frame_end_line(f);
    }
}

/* Widths of the columns that share the rest of the line. */
struct job_columns {
    int key, bar;
    int is_narrow; /* failed, rate, priority and the bar have no room */
};

#define FIXED_COLUMNS                                                                              \
    (9 + 13 + 6 + 7 + 8 + 4 + 7)              /* state, done/total, failed, rate, left, priority; \
                                                  spaces */
#define NARROW_COLUMNS (9 + 13 + 8 + 3)       /* state, done/total, left; spaces */
#define LEAST_COLUMNS (FIXED_COLUMNS + 8 + 5) /* below it, it is narrow */

static struct job_columns job_columns(int width)
{
    int left = width - FIXED_COLUMNS;
    struct job_columns c = {.key = left * 3 / 5, .is_narrow = width < LEAST_COLUMNS};
    if (c.is_narrow) {
        c.key = width - NARROW_COLUMNS < 7 ? 7 : width - NARROW_COLUMNS;
        return c;
    }
    c.key = c.key < 8 ? 8 : c.key > 40 ? 40 : c.key;
    c.bar = left - c.key;
    c.bar = c.bar < 5 ? 5 : c.bar > 40 ? 40 : c.bar;
    return c;
}

static void draw_bar(struct frame *f, int cells, int64_t done, int64_t total, enum style style)
{
    char bar[64] = "";
    int full = total > 0 ? (int)(done * cells / total) : 0;
    for (int i = 0; i < cells; i++)
        bar[i] = i < full ? '#' : '-';
    frame_cell(f, style, -cells, "%s", total >= 0 ? bar : "");
}

static void draw_job(struct frame *f, const struct job_columns *c, const json_t *job)
{
    char a[NUMBER_BYTES], b[NUMBER_BYTES];
    const json_t *total = json_object_get(job, "total"), *eta = json_object_get(job, "eta_s");
    int64_t n = json_is_integer(total) ? json_integer_value(total) : -1;
    enum style style = state_style(reply_text(job, "state"));
    frame_cell(f, STYLE_PLAIN, -c->key, "%s", reply_text(job, "key"));
    frame_cell(f, style, -9, "%s", reply_text(job, "state"));
    if (!c->is_narrow)
        draw_bar(f, c->bar, reply_int(job, "done"), n, style);
    frame_cell(f, STYLE_PLAIN, 13, "%s/%s", compact(a, (double)reply_int(job, "done")),
        n >= 0 ? compact(b, (double)n) : "?");
    if (!c->is_narrow) {
        frame_cell(f, reply_int(job, "failed") > 0 ? STYLE_RED : STYLE_PLAIN, 6, "%s",
            compact(a, (double)reply_int(job, "failed")));
        frame_cell(
            f, STYLE_PLAIN, 7, "%s", compact(a, json_number_value(json_object_get(job, "rate"))));
    }
    frame_cell(
        f, STYLE_PLAIN, 8, "%s", json_is_integer(eta) ? duration(b, json_integer_value(eta)) : "-");
    if (!c->is_narrow)
        frame_cell(f, STYLE_PLAIN, 4, "%" PRId64, reply_int(job, "priority"));
    frame_end_line(f);
}

/* The order of jobs: running, waiting, paused, then finished. */
static int place_of(const json_t *job)
{
    static const char *const order[] = {"running", "open", "queued", "paused"};
    int place = 0;
    while (place < 4 && strcmp(order[place], reply_text(job, "state")) != 0)
        place++;
    return place;
}

/* What jobs are ordered by, the largest first; those that have none of it last. */
static double weight_of(const json_t *job, enum order order)
{
    const json_t *eta = json_object_get(job, "eta_s");
    switch (order) {
    case BY_RATE:
        return json_number_value(json_object_get(job, "rate"));
    case BY_LEFT:
        return json_is_integer(eta) ? (double)json_integer_value(eta) : -1;
    case BY_FAILED:
        return (double)reply_int(job, "failed");
    case BY_PRIORITY:
        return (double)reply_int(job, "priority");
    default:
        return 0;
    }
}

static int compare_jobs(const void *a, const void *b, void *by)
{
    const json_t *x = *(json_t *const *)a, *y = *(json_t *const *)b;
    enum order order = *(const enum order *)by;
    double heavier = weight_of(x, order) - weight_of(y, order);
    if (heavier < 0 || heavier > 0)
        return heavier < 0 ? 1 : -1;
    if (place_of(x) != place_of(y))
        return place_of(x) - place_of(y);
    int newer = reply_int(x, "job") > reply_int(y, "job");
    return reply_is_over(x) ? 1 - 2 * newer : 2 * newer - 1;
}

static void draw_jobs(const struct top *t, struct frame *f)
{
    size_t n = json_array_size(t->jobs);
    const json_t **jobs = xcalloc(n + 1, sizeof *jobs);
    struct job_columns c = job_columns(f->width);
    for (size_t k = 0; k < n; k++)
        jobs[k] = json_array_get(t->jobs, k);
    enum order order = t->order;
    qsort_r(jobs, n, sizeof *jobs, compare_jobs, &order);
    frame_end_line(f);
    frame_cell(f, STYLE_BOLD, -c.key, "JOB");
    frame_cell(f, STYLE_BOLD, -9, "STATE");
    if (!c.is_narrow)
        frame_cell(f, STYLE_BOLD, -c.bar, "%s", "");
    frame_cell(f, STYLE_BOLD, 13, "DONE/TOTAL");
    if (!c.is_narrow) {
        frame_cell(f, STYLE_BOLD, 6, "FAILED");
        frame_cell(f, STYLE_BOLD, 7, "ROWS/S");
    }
    frame_cell(f, STYLE_BOLD, 8, "LEFT");
    if (!c.is_narrow)
        frame_cell(f, STYLE_BOLD, 4, "PRIO");
    frame_end_line(f);
    for (size_t k = 0; k < n && frame_lines_left(f) > 1; k++)
        draw_job(f, &c, jobs[k]);
    if (n == 0) {
        frame_text(f, STYLE_DIM, "none yet");
        frame_end_line(f);
    }
    free(jobs);
}

static void draw(struct top *t, struct frame *f)
{
    draw_broker(t, f);
    if (t->info) {
        draw_workers(t, f);
        draw_jobs(t, f);
    }
}

/* ---- live ---- */

static void redraw(struct top *t)
{
    struct frame f;
    int width, height;
    screen_size(STDOUT_FILENO, &width, &height);
    t->resorts = 0;
    frame_begin(&f, width, height, t->cli->colour);
    draw(t, &f);
    while (frame_lines_left(&f) > 1)
        frame_end_line(&f);
    frame_text(&f, STYLE_DIM, "q quits  s sorts by %s", order_names[(t->order + 1) % ORDERS]);
    frame_end_line(&f);
    frame_show(&f, 1);
}

static void take_key(struct top *t, int wait_ms)
{
    int key = screen_key(&t->screen, wait_ms);
    t->gone |= key == SCREEN_GONE;
    if (key == 'q' || key == 'Q' || t->gone || cli_interrupted())
        t->quit = 1;
    if (key == 's' || key == 'S') {
        t->order = (t->order + 1) % ORDERS;
        t->resorts = 1;
    }
}

/* A key also ends a call that waits. */
static int watch(void *arg, struct err *e)
{
    struct top *t = arg;
    take_key(t, 0);
    return t->quit ? err_set(e, ASSAY_EIO, "stopped") : 0;
}

/* Waits until the next look, and reacts to keys and to a new size of the terminal. */
static void rest(struct top *t, long long until_ms)
{
    int width, height, new_width, new_height;
    screen_size(STDOUT_FILENO, &width, &height);
    take_key(t, 0); /* also when drawing took all the time, on a slow or stopped terminal */
    while (!t->quit && now_mono_ms() < until_ms) {
        long long left = until_ms - now_mono_ms();
        take_key(t, left < 100 ? (int)left : 100);
        screen_size(STDOUT_FILENO, &new_width, &new_height);
        if (new_width != width || new_height != height || t->resorts)
            redraw(t);
        width = new_width;
        height = new_height;
    }
}

static int connect_live(struct top *t)
{
    struct cli with_timeout = *t->cli;
    with_timeout.value[CLI_TIMEOUT] = LIVE_TIMEOUT;
    client_free(&t->client);
    int rc = cli_connect(&with_timeout, &t->client);
    if (rc == 0)
        client_set_watch(t->client, watch, t);
    return rc;
}

static int run_live(struct top *t, long interval_s)
{
    int rc = connect_live(t);
    if (rc != 0)
        return rc;
    screen_begin(&t->screen);
    while (!t->quit && rc == 0) {
        long long next_ms = now_mono_ms() + interval_s * 1000;
        struct err e = {0};
        if (look(t, &e) == 0)
            t->silent_since_ms = 0;
        else if (!t->quit) {
            if (t->silent_since_ms == 0)
                t->silent_since_ms = now_wall_ms();
            rc = connect_live(t); /* else it would get the replies to all old requests at once */
        }
        redraw(t);
        rest(t, next_ms);
    }
    screen_end(&t->screen);
    if (t->gone) {
        cli_say("the terminal is gone");
        return EX_IOERR;
    }
    return rc == 0 && cli_interrupted() ? EX_TEMPFAIL : rc;
}

/* ---- once ---- */

static int run_once(struct top *t)
{
    struct err e = {0};
    struct frame f;
    int rc = cli_connect(t->cli, &t->client);
    if (rc != 0)
        return rc;
    if (look(t, &e) != 0)
        return cli_fail(&e);
    if (t->cli->value[CLI_JSON]) {
        json_t *both = json_pack("{s:O, s:O}", "info", t->info, "jobs", t->jobs);
        rc = json_print_line(stdout, both, &e) == 0 ? EX_OK : cli_fail(&e);
        json_decref(both);
        return rc;
    }
    frame_begin(&f, PLAIN_WIDTH, 0, 0);
    draw(t, &f);
    frame_show(&f, 0);
    return EX_OK;
}

int verb_top(const struct cli *c)
{
    struct top t = {.cli = c};
    long interval_s;
    int rc = cli_number(c, CLI_INTERVAL, 1, 3600, 1, &interval_s);
    if (rc == 0)
        rc = c->value[CLI_JSON] || !isatty(STDOUT_FILENO) ? run_once(&t) : run_live(&t, interval_s);
    client_free(&t.client);
    json_decref(t.info);
    json_decref(t.earlier);
    json_decref(t.jobs);
    return rc;
}
