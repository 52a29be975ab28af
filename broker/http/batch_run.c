/* batch_run.c - one step of a batch (batches_private.h). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "broker/http/batches_private.h"
#include "schema/alloc.h"
#include "schema/clock.h"
#include "schema/log.h"
#include "schema/msg_json.h"

#define STEP_LINES 2000
#define MOST_ERRORS 100
#define CHUNK_ROWS 1000
#define CHUNK_BYTES (4 << 20)
#define POLL_MS 100
#define STATUS_MS 1000
#define AGAIN_MS 1000
#define FULL_MS 10000 /* after a write that failed */
#define PURGE_MS 10000
#define HELD_MS 5000
#define MOST_TRIES 10 /* of a disk that fails; one that is full is waited for */

static json_int_t now_s(void)
{
    return (json_int_t)time(NULL);
}

static int wait_ms(struct batch *b, long long ms)
{
    b->due_ms = now_mono_ms() + ms;
    return 0;
}

/* ---- beginning, ending ---- */

/* Forgets results, which can be read again. */
static void forget_results(struct batches *bs, struct run *r)
{
    if (!r)
        return;
    output_drop(&r->output, bs->options.folder);
    output_drop(&r->errors_output, bs->options.folder);
    parts_free(r);
    if (r->lines.n > 0)
        memset(r->is_answered, 0, r->lines.n);
    r->after = 0;
    r->is_read = 0;
    r->checked = r->completed = r->failed = 0;
}

void run_free(struct run **run)
{
    struct run *r = *run;
    *run = NULL;
    if (!r)
        return;
    parts_free(r);
    seen_free(&r->seen);
    json_decref(r->errors);
    msg_writer_release(&r->rows);
    free(r->rows_of);
    free(r->parts);
    free(r->is_answered);
    batch_lines_release(&r->lines);
    card_release(&r->card);
    free(r);
}

static int begin(struct batches *bs, struct batch *b, struct err *e)
{
    char input[FOLDER_ID_BYTES], endpoint[64];
    int64_t bytes;
    struct run *r = xcalloc(1, sizeof *r);
    batch_text(bs, b, 0, "input_file_id", input, sizeof input);
    batch_text(bs, b, 0, "endpoint", endpoint, sizeof endpoint);
    r->lines.fd = -1;
    msg_writer_init(&r->rows);
    r->route = batch_route(endpoint);
    int fd = files_open(bs->options.files, input, &bytes, e), rc = fd < 0 ? fd : 0;
    if (rc == 0)
        rc = batch_lines_open(&r->lines, fd, bs->options.max_line_bytes, e);
    if (rc == 0 && !r->route)
        rc = err_set(e, ASSAY_EUNSUPPORTED, "endpoint: %s is not known", endpoint);
    if (rc == 0) {
        uint32_t n = r->lines.n;
        r->rows_of = xcalloc(n + 1, sizeof *r->rows_of);
        r->parts = xcalloc(n + 1, sizeof *r->parts);
        r->is_answered = xcalloc(n + 1, 1);
        r->seen = seen_new(n);
        r->errors = json_array();
        r->until = (uint32_t)batch_number(bs, b, 1, "next_line");
    }
    b->run = r;
    if (rc != 0 || r->until > r->lines.n)
        run_free(&b->run);
    return b->run ? 0 : rc ? rc : err_set(e, ASSAY_EINTERNAL, "the input file has become shorter");
}

/* The batch is over. Whatever the broker has of it is purged later. */
static int end(struct batches *bs, struct batch *b, const char *status, json_t *fields)
{
    char at[32];
    struct err e = {0};
    snprintf(at, sizeof at, "%s_at", status);
    json_object_set_new(fields, "status", json_string(status));
    json_object_set_new(fields, at, json_integer(now_s()));
    if (batch_set(bs, b, fields, json_pack("{s:i}", "purges", 1), &e) != 0) {
        log_warn("event=batch_not_ended id=%s reason=\"%s\"", b->id, e.msg);
        forget_results(bs, b->run);
        return wait_ms(b, FULL_MS);
    }
    log_info("event=batch_over id=%s status=%s", b->id, status);
    forget_results(bs, b->run);
    run_free(&b->run);
    return 1;
}

static int fail(struct batches *bs, struct batch *b, const char *code, const char *message)
{
    return end(bs, b, "failed", json_pack("{s:o}", "errors", batch_errors(code, message)));
}

/* Deletes what the broker has of a batch that is over. */
static int purge(struct batches *bs, struct batch *b)
{
    char key[JOB_KEY_BYTES];
    struct slice reply;
    struct err e = {0};
    if (!batch_number(bs, b, 1, "purges") || batch_number(bs, b, 1, "chunk") == 0)
        return wait_ms(b, FOREVER / 2);
    batch_key(b, key);
    msg_key_str(call_begin(bs->call, "cancel", 1), "job", key);
    int rc = call_send(bs->call, &reply, &e);
    if (rc == 0) {
        msg_key_str(call_begin(bs->call, "purge", 1), "job", key);
        rc = call_send(bs->call, &reply, &e);
    }
    if ((rc == 0 || rc == ASSAY_EUNKNOWNJOB) &&
        batch_set(bs, b, json_object(), json_pack("{s:i}", "purges", 0), &e) == 0)
        return wait_ms(b, FOREVER / 2);
    return wait_ms(b, PURGE_MS);
}

/* ---- validating ---- */

static void add_error(struct run *r, uint32_t k, const char *code, const struct err *e)
{
    if (json_array_size(r->errors) < MOST_ERRORS)
        json_array_append_new(
            r->errors, json_pack("{s:s, s:s, s:I, s:o}", "code", code, "message", e->msg, "line",
                           (json_int_t)r->lines.places[k].number, "param",
                           e->field[0] ? json_string(e->field) : json_null()));
}

/* All lines are for one model, perhaps with adapters of it. */
static int check_model(
    struct run *r, const struct batch_line *line, const char **code, struct err *e)
{
    struct ask ask;
    ask_init(&ask, r->card);
    int rc = ask_choose(&ask, line->body, e);
    const struct card_model *m = ask.asks.model;
    ask_release(&ask);
    *code = "model_not_found";
    if (rc != 0 || !r->model)
        r->model = rc == 0 ? m : r->model;
    else if (m != r->model) {
        *code = "mismatched_model";
        rc = err_field(e, ASSAY_EBADREQ, "body.model",
            "expected the model of the lines before, %.100s, found %.100s", r->model->name,
            m->name);
    }
    return rc;
}

static void check_line(struct run *r, uint32_t k)
{
    struct batch_line line;
    struct err e = {0};
    const char *code;
    int rc = batch_lines_read(&r->lines, k, r->route->path, &line, &code, &e);
    if (rc == 0 && seen_add(r->seen, line.custom_id)) {
        code = "duplicate_custom_id";
        rc = err_field(&e, ASSAY_EBADREQ, "custom_id",
            "`custom_id`: expected another than in the lines before, found '%.80s' again",
            line.custom_id);
    }
    if (rc == 0)
        rc = check_model(r, &line, &code, &e);
    if (rc != 0)
        add_error(r, k, code, &e);
    batch_line_release(&line);
}

static int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* A chunk is a small part of a message, and of what the broker's queue holds. */
static int64_t chunk_bytes(const struct card *card)
{
    const json_t *limits = json_object_get(card->info, "limits");
    int64_t queued = json_integer_value(json_object_get(limits, "max_queued_bytes"));
    int64_t most = least(CHUNK_BYTES, card->max_message_bytes / 2);
    return queued > 0 ? least(most, queued / 4) : most;
}

/* What of the broker's info the batch needs to the end: its model, as clients call it. */
static json_t *info_of(const struct card *card, const struct card_model *model)
{
    json_t *names = json_array();
    for (int i = 0; model == &card->models[0] && i < card->n_names; i++)
        json_array_append_new(names, json_string(card->names[i]));
    return json_pack("{s:s, s:O, s:[{s:s, s:s, s:O}], s:[], s:o}", "state", "ready", "limits",
        json_object_get(card->info, "limits"), "models", "name", model->name, "mode", model->mode,
        "model", (json_t *)model->json, "workers", "names", names);
}

static int go_on(struct batches *bs, struct batch *b)
{
    struct run *r = b->run;
    struct err e = {0};
    json_t *counts =
        json_pack("{s:I, s:i, s:i}", "total", (json_int_t)r->lines.n, "completed", 0, "failed", 0);
    json_t *fields = json_pack("{s:s, s:I, s:o}", "status", "in_progress", "in_progress_at",
        now_s(), "request_counts", counts);
    json_t *own = json_pack("{s:o, s:s, s:s, s:s, s:I, s:I, s:i, s:i, s:i, s:i}", "info",
        info_of(r->card, r->model), "model", r->model->name, "digest", r->model->digest, "mode",
        r->model->mode, "chunk_rows", (json_int_t)least(CHUNK_ROWS, r->card->max_rows),
        "chunk_bytes", (json_int_t)chunk_bytes(r->card), "next_line", 0, "chunk", 0, "rows", 0,
        "refused", 0);
    if (batch_set(bs, b, fields, own, &e) == 0)
        return 1;
    log_warn("event=batch_not_begun id=%s reason=\"%s\"", b->id, e.msg);
    return wait_ms(b, FULL_MS);
}

static int validate(struct batches *bs, struct batch *b)
{
    struct run *r = b->run;
    if (r->lines.n == 0)
        return fail(bs, b, "empty_file", "the input file has no lines");
    if (!r->card && !(r->card = link_card(bs->options.link)))
        return wait_ms(b, POLL_MS);
    for (int i = 0; i < STEP_LINES && r->checked < r->lines.n; i++)
        check_line(r, r->checked++);
    if (r->checked < r->lines.n)
        return 1;
    if (json_array_size(r->errors) == 0) {
        r->checked = 0;
        return go_on(bs, b);
    }
    return end(bs, b, "failed",
        json_pack("{s:{s:s, s:O}}", "errors", "object", "list", "data", r->errors));
}

/* ---- in progress ---- */

static void show_held(struct batches *bs, struct batch *b, const char *reason)
{
    if (!reason && !b->is_held)
        return;
    b->is_held = reason != NULL;
    batch_show(
        bs, b, json_pack("{s:o}", "errors", reason ? batch_errors("held", reason) : json_null()));
}

/* The card that the batch was begun with: lines are read, and answers written, as its model has
 * them, whatever the broker serves by now. */
static struct card *own_card(struct batches *bs, struct batch *b)
{
    const char *names[CARD_MAX_NAMES];
    struct card *card = NULL;
    struct err e = {0};
    json_t *name;
    size_t k;
    pthread_mutex_lock(&bs->lock);
    json_t *info = json_deep_copy(json_object_get(b->own, "info"));
    pthread_mutex_unlock(&bs->lock);
    json_array_foreach(json_object_get(info, "names"), k, name)
    {
        if (k < CARD_MAX_NAMES)
            names[k] = json_string_value(name); /* lies in the card's own info */
    }
    int n = (int)(k < CARD_MAX_NAMES ? k : CARD_MAX_NAMES);
    if (card_new(&card, info, names, n, &e) != 0)
        log_warn("event=batch_record id=%s reason=\"%s\"", b->id, e.msg);
    return card;
}

/* Has the broker the checkpoint and mode under the model's name that the batch was begun with? */
static int is_served(struct batches *bs, struct batch *b)
{
    char model[256], digest[128], mode[1024];
    batch_text(bs, b, 1, "model", model, sizeof model);
    batch_text(bs, b, 1, "digest", digest, sizeof digest);
    batch_text(bs, b, 1, "mode", mode, sizeof mode);
    struct card *card = link_card(bs->options.link);
    const struct card_model *m = card ? card_model_named(card, model) : NULL;
    int is_it = m && strcmp(m->digest, digest) == 0 && strcmp(m->mode, mode) == 0;
    card_release(&card);
    return is_it;
}

/* A job is made only while the checkpoint is served. Once it is there the broker sees to it: a job
 * is of one checkpoint, and is held without it. */
static int take_card(struct batches *bs, struct batch *b)
{
    struct run *r = b->run;
    if (!r->card)
        r->card = own_card(bs, b);
    if (batch_number(bs, b, 1, "chunk") > 0 || is_served(bs, b))
        return r->card != NULL;
    show_held(bs, b,
        "the broker has another checkpoint or mode of the model than the batch was begun with, or "
        "has not the model");
    return 0;
}

/* They never fall: after a start results are read again from the first. */
static void show_counts(struct batches *bs, struct batch *b)
{
    const struct run *r = b->run;
    if (r->completed < batch_completed(bs, b))
        return;
    json_int_t failed = r->failed + batch_number(bs, b, 1, "refused");
    json_t *counts = json_pack("{s:I, s:I, s:I}", "total", (json_int_t)r->lines.n, "completed",
        (json_int_t)r->completed, "failed", failed);
    batch_show(bs, b, json_pack("{s:o}", "request_counts", counts));
}

/* The broker does not know the job, since its data are new: all is sent again. */
static int begin_again(struct batches *bs, struct batch *b, struct err *e)
{
    struct run *r = b->run;
    forget_results(bs, r);
    msg_writer_clear(&r->rows);
    r->n_rows = r->until = r->refused = 0;
    return batch_set(bs, b, json_object(),
        json_pack("{s:i, s:i, s:i, s:i, s:i, s:i}", "checked", 0, "next_line", 0, "chunk", 0,
            "rows", 0, "refused", 0, "sealed", 0),
        e);
}

static const char *text_in(const json_t *map, const char *key)
{
    return json_string_value(json_object_get(map, key));
}

/* The broker loaded another checkpoint between the card and the job. Nothing of the job counts: it is
 * deleted, and the lines are read under a newer card. Returns a code that lets the batch wait. */
static int validate_again(struct batches *bs, struct batch *b, struct err *e)
{
    char key[JOB_KEY_BYTES];
    struct slice reply;
    batch_key(b, key);
    msg_key_str(call_begin(bs->call, "cancel", 1), "job", key);
    int rc = call_send(bs->call, &reply, e);
    if (rc == 0) {
        msg_key_str(call_begin(bs->call, "purge", 1), "job", key);
        rc = call_send(bs->call, &reply, e);
    }
    if (rc != 0)
        return err_set(e, ASSAY_ENOTREADY, "a job of another checkpoint is still there");
    rc = batch_set(bs, b, json_pack("{s:s, s:n}", "status", "validating", "in_progress_at"),
        json_pack("{s:i, s:i, s:i, s:i, s:i, s:i}", "chunk_rows", 0, "next_line", 0, "chunk", 0,
            "rows", 0, "refused", 0, "sealed", 0),
        e);
    return rc != 0 ? rc : err_set(e, ASSAY_ENOTREADY, "the lines are read again");
}

/* Reads what became of the job: whose scores it has, whether it waits, whether somebody has
 * cancelled it. */
static int take_status(struct batches *bs, struct batch *b, const json_t *status, struct err *e)
{
    char digest[128], mode[1024];
    const char *state = text_in(status, "state"), *reason = text_in(status, "reason");
    const char *of = text_in(status, "checkpoint"), *in = text_in(status, "mode");
    batch_text(bs, b, 1, "digest", digest, sizeof digest);
    batch_text(bs, b, 1, "mode", mode, sizeof mode);
    if (of && in && (strcmp(of, digest) != 0 || strcmp(in, mode) != 0)) {
        if (!batch_number(bs, b, 1, "checked"))
            return validate_again(bs, b, e);
        return err_set(e, ASSAY_EINTERNAL,
            "the broker scores the job with another checkpoint or mode than the batch was begun "
            "with");
    }
    show_held(bs, b, reason);
    if (of && in && !batch_number(bs, b, 1, "checked") &&
        batch_set(bs, b, json_object(), json_pack("{s:i}", "checked", 1), e) != 0)
        return e->code;
    if (state && strcmp(state, "cancelled") == 0 && batch_number(bs, b, 0, "cancelling_at") == 0)
        return batch_set(bs, b,
            json_pack("{s:s, s:I}", "status", "cancelling", "cancelling_at", now_s()), NULL, e);
    return 0;
}

static int ask_status(struct batches *bs, struct batch *b, struct err *e)
{
    char key[JOB_KEY_BYTES];
    struct slice reply;
    struct msg_reader r;
    json_t *status = NULL;
    if (batch_number(bs, b, 1, "checked") && now_mono_ms() < b->run->status_due_ms)
        return 0;
    batch_key(b, key);
    msg_key_str(call_begin(bs->call, "status", 1), "job", key);
    int rc = call_send(bs->call, &reply, e);
    if (rc != 0)
        return rc;
    msg_reader_init(&r, reply.at, reply.len);
    rc = msg_read_json(&r, &status, e) == 0 ? take_status(bs, b, status, e) : ASSAY_EINTERNAL;
    json_decref(status);
    b->run->status_due_ms = now_mono_ms() + STATUS_MS;
    return rc;
}

static int cancel(struct batches *bs, struct batch *b, struct err *e)
{
    char key[JOB_KEY_BYTES];
    struct slice reply;
    if (b->run->is_cancelled)
        return 0;
    batch_key(b, key);
    msg_key_str(call_begin(bs->call, "cancel", 1), "job", key);
    int rc = call_send(bs->call, &reply, e);
    b->run->is_cancelled = rc == 0 || rc == ASSAY_EUNKNOWNJOB;
    b->run->is_read |= rc == ASSAY_EUNKNOWNJOB;
    return b->run->is_cancelled ? 0 : rc;
}

/* ---- its end ---- */

/* Writes what was not answered, some lines at a time: 1 when all is written. */
static int write_rest(struct batches *bs, struct batch *b, const char *how, struct err *e)
{
    struct run *r = b->run;
    int is_late = strcmp(how, "expired") == 0, is_cancelled = strcmp(how, "cancelled") == 0;
    const char *code = is_late        ? "batch_expired"
                       : is_cancelled ? "batch_cancelled"
                                      : "server_error";
    const char *message =
        is_late        ? "This request could not be executed before the completion window expired."
        : is_cancelled ? "This request was not executed before the batch was cancelled."
                       : "The broker has no result of this request.";
    int rc = 0;
    for (int i = 0; rc == 0 && i < STEP_LINES && r->checked < r->lines.n; i++, r->checked++)
        if (!r->is_answered[r->checked])
            rc = batch_answer_rest(bs, b, r->checked, code, message, e);
    return rc != 0 ? rc : r->checked == r->lines.n;
}

static json_t *id_or_null(const char *id)
{
    return id[0] ? json_string(id) : json_null();
}

/* Returns 1, or a code. */
static int finish(struct batches *bs, struct batch *b, const char *how, struct err *e)
{
    struct run *r = b->run;
    char output[FOLDER_ID_BYTES] = "", errors[FOLDER_ID_BYTES] = "";
    int64_t expires_s = batch_number(bs, b, 1, "output_expires_s");
    int rc = 0;
    if (strcmp(how, "completed") == 0 && batch_number(bs, b, 0, "finalizing_at") == 0)
        rc = batch_set(bs, b,
            json_pack("{s:s, s:I}", "status", "finalizing", "finalizing_at", now_s()), NULL, e);
    if (rc == 0 && (rc = write_rest(bs, b, how, e)) != 1)
        return rc < 0 ? rc : 1;
    if (rc >= 0)
        rc = output_keep(&r->output, bs->options.files, b->id, "output", expires_s, output, e);
    if (rc == 0)
        rc =
            output_keep(&r->errors_output, bs->options.files, b->id, "error", expires_s, errors, e);
    if (rc != 0)
        return rc;
    json_t *counts = json_pack("{s:I, s:I, s:I}", "total", (json_int_t)r->lines.n, "completed",
        (json_int_t)r->completed, "failed", (json_int_t)r->failed);
    return end(bs, b, how,
        json_pack("{s:o, s:o, s:o, s:n}", "output_file_id", id_or_null(output), "error_file_id",
            id_or_null(errors), "request_counts", counts, "errors"));
}

/* What ends the batch early: NULL, or its state then. */
static const char *early_end(struct batches *bs, struct batch *b)
{
    if (batch_number(bs, b, 0, "cancelling_at") > 0)
        return "cancelled";
    if (batch_number(bs, b, 0, "finalizing_at") > 0)
        return NULL; /* all is scored */
    return batch_number(bs, b, 0, "expires_at") <= now_s() ? "expired" : NULL;
}

static int work(struct batches *bs, struct batch *b, const char *ends, struct err *e)
{
    struct run *r = b->run;
    int does = 0, rc = 0, has_card = take_card(bs, b);
    if (!has_card && !ends)
        return 0;
    if (ends && batch_number(bs, b, 1, "chunk") > 0)
        rc = cancel(bs, b, e);
    if (rc == 0 && !ends && !batch_number(bs, b, 1, "sealed") && now_mono_ms() >= r->submit_due_ms)
        rc = does = batch_submit(bs, b, e);
    if (rc == ASSAY_EQUEUEFULL) { /* results make room */
        r->submit_due_ms = now_mono_ms() + (e->retry_after_ms > 0 ? e->retry_after_ms : AGAIN_MS);
        rc = does = 0;
    }
    if (rc >= 0 && batch_number(bs, b, 1, "chunk") > 0 && has_card && !r->is_read) {
        rc = ask_status(bs, b, e);
        if (rc == 0 && batch_number(bs, b, 1, "checked"))
            rc = batch_collect(bs, b, e);
        does |= rc > 0;
        show_counts(bs, b);
    }
    if (rc < 0)
        return rc;
    int has_job = batch_number(bs, b, 1, "chunk") > 0;
    int is_sent = ends || batch_number(bs, b, 1, "sealed");
    int is_blind = ends && !(has_card && batch_number(bs, b, 1, "checked")); /* whose they are */
    if (is_sent && (!has_job || r->is_read || is_blind))
        return finish(bs, b, ends ? ends : "completed", e);
    return does;
}

/* Waits, begins again, or gives up. */
static int handle(struct batches *bs, struct batch *b, const struct err *why)
{
    struct err e = {0};
    log_debug("event=batch_step id=%s code=%s reason=\"%s\"", b->id, err_name(why->code), why->msg);
    switch (why->code) {
    case ASSAY_EQUEUEFULL:
    case ASSAY_ENOTREADY:
    case ASSAY_ETIMEOUT:
    case ASSAY_EMODEL:
        return wait_ms(b, why->retry_after_ms > 0 ? why->retry_after_ms : AGAIN_MS);
    case ASSAY_ESTATE: /* held, or cancelled: its status says so */
        b->run->status_due_ms = 0;
        if (ask_status(bs, b, &e) == ASSAY_EINTERNAL)
            return fail(bs, b, "server_error", e.msg);
        return wait_ms(b, AGAIN_MS);
    case ASSAY_EUNKNOWNJOB:
        begin_again(bs, b, &e);
        return wait_ms(b, AGAIN_MS);
    case ASSAY_EFULL:
    case ASSAY_EIO:
        if (why->code == ASSAY_EIO && ++b->n_tries >= MOST_TRIES)
            return fail(bs, b, "server_error", why->msg);
        log_warn("event=batch_waits id=%s reason=\"%s\"", b->id, why->msg);
        forget_results(bs, b->run);
        return wait_ms(b, FULL_MS);
    default:
        log_warn("event=batch_failed id=%s reason=\"%s\"", b->id, why->msg);
        return fail(
            bs, b, why->code == ASSAY_EINTERNAL ? "server_error" : err_name(why->code), why->msg);
    }
}

static int has_place(struct batches *bs)
{
    int n = 0;
    pthread_mutex_lock(&bs->lock);
    for (const struct batch *b = bs->first; b; b = b->next)
        n += b->run != NULL;
    pthread_mutex_unlock(&bs->lock);
    return n < BATCHES_AT_ONCE;
}

/* A batch that is held gives its place to others, and looks again later. */
static int put_aside(struct batches *bs, struct batch *b, long long ms)
{
    forget_results(bs, b->run);
    run_free(&b->run);
    return wait_ms(b, ms);
}

/* Whether a broker is there that can be asked. */
static int is_heard(struct batches *bs)
{
    struct card *card = link_card(bs->options.link);
    int is_there = card != NULL;
    card_release(&card);
    return is_there;
}

int batch_step(struct batches *bs, struct batch *b)
{
    char status[32];
    struct err e = {0};
    batch_text(bs, b, 0, "status", status, sizeof status);
    pthread_mutex_lock(&bs->lock);
    int is_over = b->is_over;
    pthread_mutex_unlock(&bs->lock);
    if (!is_heard(bs))
        return wait_ms(b, POLL_MS);
    if (is_over)
        return purge(bs, b);
    if (!b->run && !has_place(bs))
        return wait_ms(b, POLL_MS);
    if (!b->run && begin(bs, b, &e) != 0)
        return e.code == ASSAY_EIO && ++b->n_tries < MOST_TRIES
                   ? wait_ms(b, AGAIN_MS)
                   : fail(bs, b, "invalid_input_file", e.msg);
    const char *ends = early_end(bs, b);
    int is_new = batch_number(bs, b, 1, "chunk_rows") == 0;
    if (is_new && ends)
        return end(bs, b, ends, json_object());
    if (is_new)
        return validate(bs, b);
    int rc = work(bs, b, ends, &e);
    if (rc < 0)
        rc = handle(bs, b, &e);
    else if (rc == 0)
        wait_ms(b, POLL_MS);
    if (b->run && batch_number(bs, b, 1, "chunk_rows") == 0)
        return put_aside(bs, b, POLL_MS); /* to be validated again */
    return b->is_held && b->run && !ends ? put_aside(bs, b, HELD_MS) : rc;
}
