/* score.c - `assay score`: lines in, a job, lines out, in one command that can be killed and run
 * again.
 *
 * The job lives in a broker: a private one with --model (its data directory is OUTPUT.assay), or
 * the one named by --connect or --data. Its key follows from the paths, so the same command finds
 * the same job: chunks that are there already are acknowledged again, finished rows come back from
 * the database, the rest is scored. The output is written anew each time, each line once.
 *
 * Reading and scoring overlap: at most WINDOW lines are read ahead of what is written. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "broker/cli/connect.h"
#include "broker/cli/feeder.h"
#include "broker/cli/output.h"
#include "broker/cli/private_broker.h"
#include "broker/cli/progress.h"

#define WINDOW 50000
#define PAGE_ROWS 1000
#define WAIT_MS 500

struct score {
    const struct cli *cli;
    struct private_broker *broker;
    struct client *client;
    struct lines *lines;
    struct feeder feeder;
    struct output output;
    struct progress progress;
    struct waiting waiting;
    int busy; /* the broker takes no rows for now */
    char key[256], data[4096];
    int64_t after;
    int64_t got; /* results so far */
};

static void expect_line(void *arg, struct line *line, int64_t i)
{
    output_expect(arg, line, i);
}

static int watch(void *arg, struct err *e)
{
    struct score *s = arg;
    if (cli_interrupted())
        return err_set(e, ASSAY_EIO, "stopped; the same command again goes on from here");
    return s->broker ? private_broker_watch(s->broker, e) : 0;
}

/* Where the private broker keeps its data: beside the output, or beside the input when that goes to
 * stdout. */
static int choose_data(struct score *s)
{
    const struct cli *c = s->cli;
    const char *output = c->value[CLI_OUTPUT];
    if (c->value[CLI_DATA])
        return cli_path(s->data, sizeof s->data, "%s", c->value[CLI_DATA]);
    if (output && strcmp(output, "-") != 0)
        return cli_path(s->data, sizeof s->data, "%s.assay", output);
    if (c->operand && strcmp(c->operand, "-") != 0)
        return cli_path(s->data, sizeof s->data, "%s.assay", c->operand);
    return cli_usage("score: with stdin and stdout, --data DIR must say where the private broker "
                     "keeps its data");
}

static int start_broker(struct score *s)
{
    struct err e = {0};
    struct cli with_data = *s->cli;
    int rc = choose_data(s);
    if (rc != 0)
        return rc;
    if (private_broker_start(&s->broker, s->cli, s->data, &e) != 0)
        return cli_fail(&e);
    with_data.value[CLI_DATA] = s->data;
    with_data.value[CLI_TIMEOUT] = s->cli->value[CLI_TIMEOUT] ? s->cli->value[CLI_TIMEOUT] : "3600";
    return cli_connect(&with_data, &s->client);
}

static int score_open(struct score *s)
{
    struct err e = {0};
    const struct cli *c = s->cli;
    if (c->value[CLI_MODEL] && c->value[CLI_CONNECT])
        return cli_usage("score: expected --model or --connect, found both");
    int rc = lines_open(&s->lines, c);
    if (rc == 0)
        rc = cli_default_key(c, s->key, sizeof s->key);
    if (rc != 0)
        return rc;
    if (output_open(&s->output, c, &e) != 0)
        return e.code == ASSAY_EBADREQ ? cli_usage("%s", e.msg) : cli_fail(&e);
    rc = c->value[CLI_MODEL] ? start_broker(s) : cli_connect(c, &s->client);
    if (rc != 0)
        return rc;
    client_set_watch(s->client, watch, s);
    client_set_waiting(s->client, &s->waiting);
    feeder_init(&s->feeder, s->client, s->lines, s->key);
    s->feeder.on_line = expect_line;
    s->feeder.on_line_arg = &s->output;
    progress_init(&s->progress, c->stderr_tty, lines_count(s->lines));
    s->waiting =
        (struct waiting){.progress = &s->progress, .refuse = c->value[CLI_NO_WAIT] != NULL};
    return 0;
}

static void score_close(struct score *s)
{
    feeder_release(&s->feeder);
    client_free(&s->client);
    private_broker_stop(&s->broker);
    output_release(&s->output);
    lines_close(&s->lines);
}

/* A paused job gives no results: go on if that was asked for, else say why. */
static int unpause(struct score *s, struct err *e)
{
    int accept = s->cli->value[CLI_ACCEPT_MODE] != NULL;
    json_t *reply = NULL;
    struct msg_writer *w = client_begin(s->client, accept ? "resume" : "status", accept ? 2 : 1);
    cli_write_job(w, s->key);
    if (accept)
        msg_key_bool(w, "accept_mode", 1);
    int rc = client_call(s->client, 0, &reply, e);
    if (rc != 0)
        return rc;
    const char *reason = json_string_value(json_object_get(reply, "reason"));
    if (!accept)
        rc = err_set(e, ASSAY_ESTATE, "job '%s' is paused: %s", s->key,
            reason ? reason : "`assay resume` lets it go on");
    if (!accept && reason)
        rc = err_set(e, ASSAY_ESTATE,
            "job '%s' is held: %s; --accept-mode goes on all the same, another output begins anew",
            s->key, reason);
    json_decref(reply);
    s->feeder.paused = 0;
    return rc;
}

static int feed(struct score *s, struct err *e)
{
    int rc = feeder_step(&s->feeder, e);
    s->busy = rc == FEEDER_BUSY;
    if (s->busy && s->waiting.refuse)
        return e->code;
    if (s->busy)
        waiting_tell(&s->waiting, "waiting: %s", e->msg);
    else
        waiting_over(&s->waiting);
    if (rc == 0 && s->feeder.paused)
        rc = unpause(s, e);
    return s->busy ? 0 : rc;
}

static int take_row(struct score *s, json_t *row, struct err *e)
{
    int64_t i = json_integer_value(json_object_get(row, "i"));
    int rc = 0;
    while (rc == 0 && i >= s->feeder.n_rows && !s->feeder.sealed) {
        rc = feed(s, e); /* finished in an earlier run: its line must be read first */
        if (rc == 0 && s->busy)
            rc = waiting_pause(&s->waiting, e);
    }
    s->got++;
    return rc == 0 ? output_result(&s->output, i, row, e) : rc;
}

/* No row came: are there workers that could make one? */
static int tell_of_workers(struct score *s, struct err *e)
{
    json_t *reply = NULL;
    cli_write_job(client_begin(s->client, "status", 1), s->key);
    int rc = client_call_patiently(s->client, 0, &reply, e);
    const char *why = json_string_value(json_object_get(reply, "failure"));
    if (why)
        waiting_tell(
            &s->waiting, "waiting: the workers do not start, they are tried again: %s", why);
    else
        waiting_over(&s->waiting);
    json_decref(reply);
    return rc;
}

/* One page of results; *ended when the broker says that no more will come. */
static int fetch(struct score *s, int wait_ms, int *ended, struct err *e)
{
    json_t *reply = NULL, *row;
    size_t k;
    struct msg_writer *w = client_begin(s->client, "results", 4);
    cli_write_job(w, s->key);
    msg_key_int(w, "after", s->after);
    msg_key_int(w, "limit", PAGE_ROWS);
    msg_key_int(w, "wait_ms", wait_ms);
    int rc = client_call_patiently(s->client, wait_ms, &reply, e);
    if (rc != 0)
        return rc;
    json_array_foreach(json_object_get(reply, "rows"), k, row) if (rc == 0) rc =
        take_row(s, row, e);
    s->after = json_integer_value(json_object_get(reply, "next"));
    *ended = json_is_true(json_object_get(reply, "done"));
    int came = json_array_size(json_object_get(reply, "rows")) > 0;
    json_decref(reply);
    if (rc == 0 && !came && !*ended && wait_ms > 0 && !s->busy)
        rc = tell_of_workers(s, e);
    if (rc == 0)
        rc = output_flush(&s->output, e);
    progress_show(&s->progress, s->got + s->feeder.n_bad, s->output.n_failed, 0);
    return rc;
}

static int transfer(struct score *s, struct err *e)
{
    int ended = 0, rc = 0;
    while (rc == 0 && !(ended && s->feeder.sealed)) {
        int room = output_waiting(&s->output) < WINDOW;
        rc = watch(s, e); /* the client asks only while an answer is out */
        if (rc == 0 && !s->feeder.sealed && room)
            rc = feed(s, e);
        if (rc == 0)
            rc = fetch(s, s->feeder.sealed || !room || s->busy ? WAIT_MS : 0, &ended, e);
    }
    if (rc == 0)
        rc = output_flush(&s->output, e);
    if (rc == 0 && output_waiting(&s->output) > 0)
        rc = err_set(e, ASSAY_ESTATE, "job '%s' was cancelled with %zu rows unfinished", s->key,
            output_waiting(&s->output));
    return rc;
}

/* ", 12 copied, 3 from the cache", as far as there are any. */
static void name_copies(struct score *s, char *text, size_t size)
{
    struct err e = {0};
    json_t *reply = NULL;
    text[0] = '\0';
    cli_write_job(client_begin(s->client, "status", 1), s->key);
    if (client_call(s->client, 0, &reply, &e) != 0)
        return;
    long long copied = json_integer_value(json_object_get(reply, "copied"));
    long long cached = json_integer_value(json_object_get(reply, "cached"));
    int n = copied > 0 ? snprintf(text, size, ", %lld copied", copied) : 0;
    if (cached > 0)
        snprintf(text + n, size - (size_t)n, ", %lld from the cache", cached);
    json_decref(reply);
}

static int report(struct score *s)
{
    const struct output *o = &s->output;
    char copies[80];
    if (s->cli->stderr_tty || o->n_failed > 0) {
        name_copies(s, copies, sizeof copies);
        fprintf(stderr, "assay: %lld rows, %lld failed%s%s%s\n", (long long)o->n_written,
            (long long)o->n_failed, copies, s->broker ? "; job kept in " : "",
            s->broker ? s->data : "");
    }
    return o->n_failed > 0 ? EX_ROWS_FAILED : EX_OK;
}

int verb_score(const struct cli *c)
{
    struct score s = {.cli = c};
    struct err e = {0};
    int rc;
    cli_catch_signals();
    if ((rc = score_open(&s)) == 0) {
        int failed = transfer(&s, &e) != 0;
        progress_end(&s.progress);
        if (!failed)
            failed = output_finish(&s.output, &e) != 0;
        rc = failed ? cli_fail(&e) : report(&s);
        if (failed && s.waiting.refuse && waiting_is_worth(&e))
            rc = EX_TEMPFAIL;
    }
    score_close(&s);
    return rc;
}
