/* results.c - `assay results`: prints a job's results, page by page, in order of completion, and
 * says so where they are not all there. */
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "broker/cli/connect.h"
#include "broker/cli/json_print.h"
#include "broker/cli/output.h"
#include "broker/cli/reply.h"
#include "schema/clock.h"

#define WAIT_MS 500

struct results {
    struct client *client;
    struct waiting waiting;
    int64_t job; /* its number: after a purge the key may be another job's */
    int64_t after;
    int wait_ms;
    long long came_ms; /* when the last row came */
    size_t n_rows;     /* of the last page */
    int done, failed;  /* no more will come; a row failed */
    json_t *status;    /* the last one */
};

/* Asks for the job's state. */
static int ask_status(struct results *r, const char *job, struct err *e)
{
    json_decref(r->status);
    r->status = NULL;
    cli_write_job(client_begin(r->client, "status", 1), job);
    return client_call_patiently(r->client, 0, &r->status, e);
}

static int ask_again(struct results *r, struct err *e)
{
    char number[32];
    snprintf(number, sizeof number, "%" PRId64, r->job);
    return ask_status(r, number, e);
}

/* Fetches and prints the next page. */
static int print_page(struct results *r, struct err *e)
{
    json_t *reply = NULL, *row;
    size_t k;
    struct msg_writer *w = client_begin(r->client, "results", 3);
    msg_key_int(w, "job", r->job);
    msg_key_int(w, "after", r->after);
    msg_key_int(w, "wait_ms", r->wait_ms);
    int rc = client_call_patiently(r->client, r->wait_ms, &reply, e);
    if (rc != 0)
        return rc;
    json_array_foreach(json_object_get(reply, "rows"), k, row)
    {
        json_t *id = json_object_get(row, "id");
        json_t *line = output_line(row, json_is_null(id) ? json_object_get(row, "i") : id);
        r->failed |= !json_is_null(json_object_get(row, "error"));
        if (rc == 0)
            rc = json_print_line(stdout, line, e);
        json_decref(line);
    }
    r->n_rows = json_array_size(json_object_get(reply, "rows"));
    r->after = reply_int(reply, "next");
    r->done = json_is_true(json_object_get(reply, "done"));
    json_decref(reply);
    if (rc == 0 && fflush(stdout) != 0) /* a pipe's reader gets what there is */
        rc = err_errno(e, ASSAY_EIO, "cannot write the output");
    return rc;
}

/* Prints what is there; to follow also waits for what comes, and says what it waits for. */
static int print_pages(struct results *r, int follow, struct err *e)
{
    int rc = 0, ended = 0;
    r->came_ms = now_mono_ms();
    while (!ended && !cli_interrupted()) {
        if ((rc = print_page(r, e)) != 0 || r->done)
            break;
        if (r->n_rows > 0) {
            r->came_ms = now_mono_ms();
            continue;
        }
        if ((rc = ask_again(r, e)) != 0)
            break;
        if (follow)
            waiting_tell_what_blocks(&r->waiting, r->status, now_mono_ms() - r->came_ms);
        ended = !follow && !reply_is_over(r->status);
        r->wait_ms = WAIT_MS; /* it has just finished: the rest is on its way */
    }
    return rc;
}

/* Says what is missing. Returns the exit code. */
static int tell_end(struct results *r)
{
    struct err e = {0};
    if (r->done && ask_again(r, &e) != 0)
        return cli_fail(&e);
    const char *key = reply_text(r->status, "key"), *state = reply_text(r->status, "state");
    const json_t *total = json_object_get(r->status, "total");
    int is_known = json_is_integer(total);
    if (r->done && strcmp(state, "cancelled") == 0) {
        cli_say("job '%s' was cancelled with %" PRId64 " row%s unfinished", key,
            reply_int(r->status, "cancelled"), cli_s(reply_int(r->status, "cancelled")));
        return EX_ROWS_FAILED;
    }
    if (r->done)
        return r->failed ? EX_ROWS_FAILED : EX_OK;
    cli_say(
        "job '%s' is not finished (%s): %" PRId64 " of %s%" PRId64
        " rows are; `assay wait JOB` waits for the others, and --follow prints them as they come",
        key, state, reply_int(r->status, "done"), is_known ? "" : "at least ",
        is_known ? (int64_t)json_integer_value(total) : reply_int(r->status, "accepted"));
    return EX_TEMPFAIL;
}

int verb_results(const struct cli *c)
{
    struct err e = {0};
    long first;
    int follow = c->value[CLI_FOLLOW] != NULL;
    int rc = cli_number(c, CLI_AFTER, 0, LONG_MAX, 0, &first);
    struct results r = {.after = first, .wait_ms = follow ? WAIT_MS : 0};
    if (rc == 0)
        rc = cli_connect(c, &r.client);
    if (rc == 0) {
        client_set_waiting(r.client, &r.waiting);
        int failed = ask_status(&r, c->operand, &e) != 0;
        r.job = reply_int(r.status, "job");
        failed = failed || print_pages(&r, follow, &e) != 0;
        rc = failed ? cli_fail(&e) : cli_interrupted() ? EX_TEMPFAIL : tell_end(&r);
    }
    json_decref(r.status);
    client_free(&r.client);
    return rc;
}
