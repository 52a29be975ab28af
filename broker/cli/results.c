/* results.c - `assay results`: prints a job's results, page by page, in order of completion. */
#include <limits.h>
#include <stdio.h>

#include "broker/cli/connect.h"
#include "broker/cli/json_print.h"
#include "broker/cli/output.h"
#include "broker/cli/reply.h"

struct results {
    struct client *client;
    int64_t job; /* its number: after a purge the key may be another job's */
    int64_t after;
    int wait_ms;
    size_t n_rows;    /* of the last page */
    int done, failed; /* no more will come; a row failed */
};

/* Finds the job by the operand, its key or its number. */
static int find_job(struct results *r, const char *operand, struct err *e)
{
    json_t *reply = NULL;
    cli_write_job(client_begin(r->client, "status", 1), operand);
    int rc = client_call_patiently(r->client, 0, &reply, e);
    r->job = reply_int(reply, "job");
    json_decref(reply);
    return rc;
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

int verb_results(const struct cli *c)
{
    struct err e = {0};
    long first;
    int follow = c->value[CLI_FOLLOW] != NULL;
    int rc = cli_number(c, CLI_AFTER, 0, LONG_MAX, 0, &first);
    struct results r = {.after = first, .wait_ms = follow ? 500 : 0, .n_rows = 1};
    if (rc == 0)
        rc = cli_connect(c, &r.client);
    if (rc == 0 && find_job(&r, c->operand, &e) != 0)
        rc = cli_fail(&e);
    while (rc == 0 && !r.done && (follow || r.n_rows > 0) && !cli_interrupted())
        if (print_page(&r, &e) != 0)
            rc = cli_fail(&e);
    client_free(&r.client);
    if (rc == 0 && cli_interrupted())
        rc = EX_TEMPFAIL;
    return rc == 0 && r.failed ? EX_ROWS_FAILED : rc;
}
