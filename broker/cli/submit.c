/* submit.c - `assay submit`: hands a file to a running broker as a job. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "broker/cli/connect.h"
#include "broker/cli/feeder.h"
#include "broker/cli/json_print.h"
#include "broker/cli/progress.h"
#include "broker/cli/reply.h"
#include "broker/cli/screen.h"

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
        if (progress->on && progress->total < 0)
            progress->total = lines_count(f->lines);
        progress_show(progress, f->n_rows, f->n_bad, 0);
    }
    progress_end(progress);
    if (rc == 0 && !f->sealed)
        rc = err_set(e, ASSAY_EIO, "stopped");
    return rc;
}

/* The priority of the message that made the job counts. */
static void tell_priority(const struct feeder *f, const json_t *status)
{
    if (reply_int(status, "priority") != f->priority)
        cli_say("--priority %d is not applied: job '%s' was there already, with priority %" PRId64,
            f->priority, f->key, reply_int(status, "priority"));
}

/* Tells why the job's rows are not scored, or that their scores are not this checkpoint's. */
static void tell_what_blocks(const struct feeder *f, const json_t *status)
{
    const char *reason = reply_text(status, "reason");
    const char *otherwise = reply_text(status, "made_otherwise");
    if (reason[0])
        cli_say("job '%s' is held, and its rows are not scored: %s; `assay resume %s "
                "--accept-mode` goes on all the same, another key begins anew",
            f->key, reason, f->key);
    else if (strcmp(reply_text(status, "state"), "paused") == 0)
        cli_say("job '%s' is paused; `assay resume %s` lets it go on", f->key, f->key);
    if (otherwise[0])
        cli_say("job '%s' was there already: it is finished, and was %s; another key begins anew",
            f->key, otherwise);
}

static void tell_status(const struct cli *c, const struct feeder *f)
{
    struct err e = {0};
    json_t *status = NULL;
    if (!c->value[CLI_PRIORITY] && !f->paused && !f->done)
        return;
    msg_key_str(client_begin(f->client, "status", 1), "job", f->key);
    if (client_call_patiently(f->client, 0, &status, &e) != 0)
        return;
    if (c->value[CLI_PRIORITY])
        tell_priority(f, status);
    tell_what_blocks(f, status);
    json_decref(status);
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
        if (f->n_rows > 0 && !f->cancelled && !f->lost)
            cli_say("%" PRId64 " row%s accepted already; the same command again goes on "
                    "from there",
                f->n_rows, f->n_rows == 1 ? " is" : "s are");
        return w.refuse && waiting_is_worth(&e) ? EX_TEMPFAIL : rc;
    }
    if (lines_is_changed(f->lines))
        cli_say("'%s' was written to while it was read: the job may have its old lines; cancel it, "
                "and submit the file again under another key",
            c->operand);
    tell_status(c, f);
    if (c->value[CLI_JSON]) {
        json_t *all = json_pack("{s:s, s:I, s:I}", "key", f->key, "accepted", (json_int_t)f->n_rows,
            "bad_lines", (json_int_t)f->n_bad);
        if (json_print_line(stdout, all, &e) != 0)
            cli_fail(&e);
        json_decref(all);
    } else {
        printf("job '");
        print_safely(stdout, f->key);
        printf("': %" PRId64 " row%s accepted, %" PRId64 " bad line%s\n", f->n_rows,
            cli_s(f->n_rows), f->n_bad, cli_s(f->n_bad));
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
        feeder.models = c->value[CLI_MODELS];
        feeder.keeps_bad = 1;
        feeder.on_line = tell_bad_line;
        progress_init(&progress, c->stderr_tty, -1);
        rc = send_all(c, &feeder, &progress);
        feeder_release(&feeder);
    }
    client_free(&client);
    lines_close(&lines);
    return rc;
}
