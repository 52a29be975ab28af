/* score.c - `assay score`: one command that submits lines as a job, writes the results, and can be
 * killed and run again.
 *
 * The job lives in a broker: a private one with --model, or the one named by --connect or --data.
 * The same command finds the same job (run.h): chunks that the broker has are acknowledged again,
 * finished rows come back from the database, and the rest is scored. A run writes its output
 * anew, each line once, unless the output is whole already and made from the same files (stamp.h).
 *
 * Reading and scoring overlap: output.h says how many lines are read ahead of the output. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "broker/cli/connect.h"
#include "broker/cli/feeder.h"
#include "broker/cli/output.h"
#include "broker/cli/private_broker.h"
#include "broker/cli/progress.h"
#include "broker/cli/run.h"
#include "broker/cli/stamp.h"

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
    struct run run;
    struct card *card; /* with --format openai-batch, once the broker answers */
    enum run_end end;
    int is_kept; /* the private broker's directory is */
    int another; /* the job belongs to an earlier run with another input, checkpoint or mode */
    char stamp[STAMP_BYTES];
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
    const char *why = cli_interrupted() == SIGPIPE   ? "nobody reads the output any more"
                      : cli_interrupted() == SIGXFSZ ? "a file would grow beyond `ulimit -f`"
                                                     : "stopped";
    if (cli_interrupted() && (s->broker || s->run.from_pipe))
        return err_set(e, ASSAY_EIO, "%s", why); /* tell_what_is_kept says the rest */
    if (cli_interrupted())
        return err_set(e, ASSAY_EIO,
            "%s; the broker goes on with what it has, and the same command again goes on from here",
            why);
    return s->broker ? private_broker_watch(s->broker, e) : 0;
}

static int start_broker(struct score *s)
{
    struct err e = {0};
    if (private_broker_start(&s->broker, s->cli, s->run.data, &e) != 0)
        return cli_fail(&e);
    return cli_connect_own(s->cli, s->run.data, &s->client);
}

static void make_stamp(const struct score *s, char stamp[STAMP_BYTES])
{
    stamp_make(
        s->cli, lines_opened(s->lines), s->output.target.place, s->output.target.part, stamp);
}

/* Opens input and output. *whole: the output exists already, made from the same files. */
static int open_files(struct score *s, int *whole)
{
    struct err e = {0};
    const struct cli *c = s->cli;
    struct stat st;
    int rc = lines_open(&s->lines, c);
    if (rc != 0)
        return rc;
    if (output_open(&s->output, c, &e) != 0)
        return e.code == ASSAY_EBADREQ ? cli_usage("%s", e.msg) : cli_fail(&e);
    if (!c->value[CLI_MODEL] || !c->operand || stat(c->operand, &st) != 0 || !S_ISREG(st.st_mode))
        return 0;
    make_stamp(s, s->stamp);
    *whole = !c->value[CLI_FORCE] && s->output.target.part[0] &&
             stamp_is_on(s->output.target.place, s->stamp);
    return 0;
}

static void begin(struct score *s)
{
    feeder_init(&s->feeder, s->client, s->lines, s->run.key);
    s->feeder.on_line = expect_line;
    s->feeder.models = s->cli->value[CLI_MODELS];
    s->feeder.names_first = !s->cli->value[CLI_MODEL];
    s->feeder.on_line_arg = &s->output;
    s->after = s->got = 0;
    lines_set_card(s->lines, s->card);
}

/* Refuses what is a private broker's, where there is none: a running one has its own. */
static int check_owner(const struct cli *c)
{
    static const enum cli_option own[] = {CLI_DEVICE, CLI_DEVICES, CLI_QUANT, CLI_DTYPE,
        CLI_WEIGHTS, CLI_ACTIVATIONS, CLI_HEAD, CLI_LORA, CLI_RECIPE, CLI_TAIL, CLI_TP, CLI_PP,
        CLI_MAX_LEN, CLI_CHAT_TEMPLATE, CLI_TEMPLATE_DATE, CLI_THREADS, CLI_MAX_BATCH_TOKENS,
        CLI_WORKER, CLI_SCORE_CACHE, CLI_KV_CACHE, CLI_NO_DEDUPE, CLI_KEEP_DATA};
    if (c->value[CLI_MODEL] && c->value[CLI_CONNECT])
        return cli_usage("score: expected --model or --connect, found both");
    if (c->value[CLI_MODEL] && c->value[CLI_MODELS])
        return cli_usage("score: --models: expected a running broker, which has the models by "
                         "name, found --model DIR, a private one with one model");
    if (c->value[CLI_RECIPE] && cli_check_recipe(c) != 0)
        return EX_USAGE;
    for (size_t i = 0; !c->value[CLI_MODEL] && i < sizeof own / sizeof own[0]; i++)
        if (c->value[own[i]])
            return cli_usage("score: --%s: expected --model DIR with it, found none: it is for a "
                             "private broker; a running one was started with its own",
                cli_option_info(own[i])->name);
    return 0;
}

static int score_open(struct score *s, int *whole)
{
    const struct cli *c = s->cli;
    int rc = check_owner(c);
    if (rc == 0)
        rc = cli_check_format(c);
    if (rc == 0)
        rc = cli_check_numbers(c);
    if (rc == 0)
        rc = open_files(s, whole);
    if (rc != 0 || *whole)
        return rc;
    if ((rc = run_open(&s->run, c)) != 0)
        return rc;
    progress_init(&s->progress, c->stderr_tty, -1);
    s->waiting =
        (struct waiting){.progress = &s->progress, .refuse = c->value[CLI_NO_WAIT] != NULL};
    rc = c->value[CLI_MODEL] ? start_broker(s) : cli_connect(c, &s->client);
    if (rc != 0)
        return rc;
    client_set_watch(s->client, watch, s);
    client_set_waiting(s->client, &s->waiting);
    begin(s);
    return 0;
}

static void score_close(struct score *s)
{
    feeder_release(&s->feeder);
    client_free(&s->client);
    private_broker_stop(&s->broker);
    output_release(&s->output);
    lines_close(&s->lines);
    card_release(&s->card);
    s->is_kept = run_close(&s->run, s->end, s->cli->value[CLI_KEEP_DATA] != NULL);
}

/* Marks the job as another run's; *e says why. The caller may start over. */
static int is_another(struct score *s, int rc)
{
    s->another = run_may_begin_anew(&s->run);
    return rc;
}

/* Resumes a paused job if --accept-mode is given, else says why it is paused. */
static int unpause(struct score *s, struct err *e)
{
    int accept = s->cli->value[CLI_ACCEPT_MODE] != NULL;
    json_t *reply = NULL;
    struct msg_writer *w = client_begin(s->client, accept ? "resume" : "status", accept ? 2 : 1);
    cli_write_job(w, s->run.key);
    if (accept)
        msg_key_bool(w, "accept_mode", 1);
    int rc = client_call_patiently(s->client, 0, &reply, e);
    if (rc != 0)
        return rc;
    const char *reason = json_string_value(json_object_get(reply, "reason"));
    if (!accept && !reason)
        rc = err_set(
            e, ASSAY_ESTATE, "job '%s' is paused; `assay resume` lets it go on", s->run.key);
    if (!accept && reason)
        rc = is_another(s,
            err_set(e, ASSAY_ESTATE,
                "job '%s' is held: %s; --accept-mode goes on all the same, another key begins anew",
                s->run.key, reason));
    json_decref(reply);
    s->feeder.paused = 0;
    return rc;
}

/* A finished job is never held, and one of a checkpoint that was replaced goes on: their scores
 * would pass for those of the present one. */
static int check_checkpoint(struct score *s, struct err *e)
{
    json_t *reply = NULL;
    if (s->cli->value[CLI_ACCEPT_MODE])
        return 0;
    cli_write_job(client_begin(s->client, "status", 1), s->run.key);
    int rc = client_call_patiently(s->client, 0, &reply, e);
    const char *why = json_string_value(json_object_get(reply, "made_otherwise"));
    const char *replaced = json_string_value(json_object_get(reply, "replaced"));
    if (rc == 0 && (replaced || why))
        rc = is_another(s,
            err_set(e, ASSAY_ESTATE,
                "job '%s' %s%s%s; --accept-mode takes its scores all the same, another key begins "
                "anew",
                s->run.key,
                replaced ? "was begun with the checkpoint that model '" : "is finished and was ",
                replaced ? replaced : why, replaced ? "' had before" : ""));
    json_decref(reply);
    return rc == ASSAY_EUNKNOWNJOB ? 0 : rc;
}

/* An earlier run left the job with models of other names or in another order. */
static int refuse_models(struct score *s, struct err *e)
{
    struct err why = *e;
    return is_another(
        s, err_set(e, ASSAY_ESTATE,
               "job '%s' is not of the models of this command: %s; another key begins anew",
               s->run.key, why.msg));
}

static int feed(struct score *s, struct err *e)
{
    int rc = feeder_step(&s->feeder, e);
    s->busy = rc == FEEDER_BUSY;
    if (s->busy && s->waiting.refuse)
        return e->code;
    if (rc == ASSAY_EKEYREUSED)
        return is_another(s, rc);
    if (rc == ASSAY_ESTATE && strcmp(e->field, "model") == 0)
        return refuse_models(s, e);
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
        rc = feed(s, e); /* its result is of an earlier run: read its line first */
        if (rc == 0 && s->busy)
            rc = waiting_pause(&s->waiting, e);
    }
    s->got++;
    return rc == 0 ? output_result(&s->output, i, row, e) : rc;
}

/* No row came: report what keeps the job from going on. */
static int tell_what_blocks(struct score *s, struct err *e)
{
    json_t *reply = NULL;
    cli_write_job(client_begin(s->client, "status", 1), s->run.key);
    int rc = client_call_patiently(s->client, 0, &reply, e);
    if (rc == 0)
        waiting_tell_what_blocks(&s->waiting, reply, 0); /* open only until the input has ended */
    json_decref(reply);
    return rc;
}

/* Fetches one page of results. *ended: the broker says that no more will come. */
static int fetch(struct score *s, int wait_ms, int *ended, struct err *e)
{
    json_t *reply = NULL, *row;
    size_t k;
    struct msg_writer *w = client_begin(s->client, "results", 4);
    msg_key_int(w, "job", s->feeder.job); /* the key may be another job's, after a purge */
    msg_key_int(w, "after", s->after);
    msg_key_int(w, "limit", PAGE_ROWS);
    msg_key_int(w, "wait_ms", wait_ms);
    int rc = client_call_patiently(s->client, wait_ms, &reply, e);
    if (rc == ASSAY_EUNKNOWNJOB)
        return err_set(e, rc, "job '%s' was purged while its rows were scored", s->run.key);
    if (rc != 0)
        return rc;
    json_array_foreach(json_object_get(reply, "rows"), k, row) if (rc == 0) rc =
        take_row(s, row, e);
    s->after = json_integer_value(json_object_get(reply, "next"));
    *ended = json_is_true(json_object_get(reply, "done"));
    int came = json_array_size(json_object_get(reply, "rows")) > 0;
    json_decref(reply);
    if (rc == 0 && !came && !*ended && wait_ms > 0 && !s->busy)
        rc = tell_what_blocks(s, e);
    if (rc == 0)
        rc = output_flush(&s->output, e);
    if (s->progress.on && s->progress.total < 0 && !s->card) /* requests have any number of rows */
        s->progress.total = lines_count(s->lines);
    progress_show(&s->progress, s->got + s->feeder.n_bad, s->output.n_failed, 0);
    return rc;
}

/* Abandons the earlier run's job; none of its results are in this run's output. */
static int begin_anew(struct score *s, struct err *e)
{
    struct err why = *e;
    progress_end(&s->progress);
    cli_say("input, options or checkpoint are not those of the run that was begun before "
            "(%s%s%s); "
            "scoring anew",
        why.field, why.field[0] ? ": " : "", why.msg);
    s->another = 0;
    lines_close(&s->lines);
    if (lines_open(&s->lines, s->cli) != 0)
        return err_set(e, ASSAY_EIO, "cannot read the input again");
    if (s->stamp[0])
        make_stamp(s, s->stamp);
    int rc = run_begin_anew(&s->run, s->client, e);
    if (rc == 0)
        rc = output_begin_anew(&s->output, e);
    feeder_release(&s->feeder);
    begin(s);
    return rc;
}

static int step(struct score *s, int *ended, struct err *e)
{
    int room = !output_is_full(&s->output) || feeder_has_begun(&s->feeder);
    int rc = watch(s, e); /* the client calls it only while it waits for a reply */
    rc = rc < 0 ? rc : 0;
    if (rc == 0 && !s->feeder.sealed && room)
        rc = feed(s, e);
    int has_job = s->feeder.chunk > 0; /* false: only bad lines so far, or no room */
    if (rc == 0 && !has_job)
        rc = s->busy ? waiting_pause(&s->waiting, e) : output_flush(&s->output, e);
    if (rc == 0 && has_job)
        rc = fetch(s, s->feeder.sealed || !room || s->busy ? WAIT_MS : 0, ended, e);
    return rc;
}

static int transfer(struct score *s, struct err *e)
{
    int ended = 0, rc = cli_is_batch(s->cli) ? cli_card(s->cli, s->client, &s->card, e) : 0;
    lines_set_card(s->lines, s->card);
    if (rc == 0)
        rc = run_choose_job(&s->run, s->client, e);
    if (rc == 0)
        s->end = RUN_FAILED; /* from here on, the run can be continued */
    if (rc == 0 && (rc = check_checkpoint(s, e)) != 0 && s->another)
        rc = begin_anew(s, e);
    while (rc == 0 && !(ended && s->feeder.sealed)) {
        rc = step(s, &ended, e);
        if (rc != 0 && s->another)
            rc = begin_anew(s, e);
    }
    if (rc == 0)
        rc = output_flush(&s->output, e);
    if (rc == 0 && output_waiting(&s->output) > 0)
        rc = err_set(e, ASSAY_ESTATE, "job '%s' was cancelled with %zu row%s unfinished",
            s->run.key, output_waiting(&s->output), cli_s((int64_t)output_waiting(&s->output)));
    return rc;
}

/* Writes ", 12 copied, 3 from the cache", without counts that are 0. */
static void name_copies(struct score *s, char *text, size_t size)
{
    struct err e = {0};
    json_t *reply = NULL;
    text[0] = '\0';
    cli_write_job(client_begin(s->client, "status", 1), s->run.key);
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
    if (o->n_written == 0)
        cli_say("there are no rows in %s", s->cli->operand ? s->cli->operand : "-");
    if (s->cli->stderr_tty || o->n_failed > 0) {
        name_copies(s, copies, sizeof copies);
        const char *what = s->card ? "request" : "row",
                   *first = s->card ? "; the first is request " : "; the first is row ";
        cli_say("%lld %ss, %lld failed%s%s%s", (long long)o->n_written, what,
            (long long)o->n_failed, copies, o->n_failed > 0 ? first : "", o->first_failure);
    }
    s->end = o->n_failed > 0 ? RUN_FAILED : RUN_WHOLE;
    return o->n_failed > 0 ? EX_ROWS_FAILED : EX_OK;
}

/* Stamps an output without failed rows, unless a file changed while it was read: then the next run
 * scores again. */
static void stamp_output(struct score *s)
{
    char now[STAMP_BYTES];
    if (lines_is_changed(s->lines))
        cli_say("'%s' was written to while it was read: the output may hold scores of its old "
                "lines; the same command scores it again",
            s->cli->operand);
    else if (s->stamp[0] && s->output.n_failed == 0) {
        make_stamp(s, now);
        if (strcmp(now, s->stamp) == 0)
            memcpy(s->output.target.stamp, now, sizeof now);
    }
}

/* The output is whole and synced: nobody needs the broker's job, unless it was named. Not knowing
 * the answer is no fault of the scores. */
static void let_job_go(struct score *s)
{
    struct err ignored;
    json_t *reply = NULL;
    if (s->broker || s->cli->value[CLI_KEY] || s->end != RUN_WHOLE || s->feeder.job <= 0)
        return;
    struct msg_writer *w = client_begin(s->client, "purge", 2);
    msg_key_int(w, "job", s->feeder.job);
    msg_key_bool(w, "ephemeral", 1);
    (void)client_call(s->client, 0, &reply, &ignored);
    json_decref(reply);
}

static int run_all(struct score *s)
{
    struct err e = {0};
    int failed = transfer(s, &e) != 0;
    if (failed && cli_interrupted())
        watch(s, &e); /* if a signal ended the write, report the signal */
    progress_end(&s->progress);
    if (!failed)
        stamp_output(s);
    if (!failed)
        failed = output_finish(&s->output, &e) != 0;
    if (!failed) {
        int rc = report(s);
        let_job_go(s);
        return rc;
    }
    if (s->broker && e.code == ASSAY_ENOTREADY && !waiting_is_worth(&e))
        private_broker_is_silent(s->broker, client_timeout_s(s->client), &e);
    int rc = cli_fail(&e);
    if (private_broker_names_log(s->broker))
        s->end = RUN_FAILED;
    else if (s->got == 0 && !cli_interrupted())
        s->end = RUN_NOTHING; /* for example, the workers do not start */
    return s->waiting.refuse && waiting_is_worth(&e) ? EX_TEMPFAIL : rc;
}

/* Says what is kept and what it is good for. */
static void tell_what_is_kept(const struct score *s, int rc)
{
    int asked_for = s->cli->value[CLI_KEEP_DATA] != NULL;
    if (!s->is_kept || s->end == RUN_NOTHING || (s->end == RUN_WHOLE && !asked_for))
        return;
    if (s->end == RUN_WHOLE || s->run.from_pipe)
        cli_say("job kept in %s", s->run.data);
    else if (rc == EX_ROWS_FAILED)
        cli_say(
            "job kept in %s: with that mended, in the input or the checkpoint, the same command "
            "scores only what is new",
            s->run.data);
    else
        cli_say(
            "what is done is kept in %s; the same command again goes on from there", s->run.data);
}

int verb_score(const struct cli *c)
{
    struct score s = {.cli = c, .end = RUN_NOTHING, .run.lock = -1, .output.target.fd = -1};
    int whole = 0;
    cli_catch_signals();
    cli_catch_failed_writes();
    int rc = score_open(&s, &whole);
    if (rc == 0 && whole)
        cli_say("'%s' is there and whole, made by this command from the same input and model; "
                "--force scores again",
            c->value[CLI_OUTPUT]);
    else if (rc == 0)
        rc = run_all(&s);
    score_close(&s);
    tell_what_is_kept(&s, rc);
    return rc;
}
