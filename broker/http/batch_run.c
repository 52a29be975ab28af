/* batch_run.c - one step of a batch (batches_private.h). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "broker/http/batches_private.h"
#include "schema/alloc.h"
#include "schema/clock.h"
#include "schema/log.h"

#define STEP_LINES 2000
#define AGAIN_MS 1000
#define HELD_MS 5000
#define MOST_TRIES 10 /* of a disk that fails; one that is full is waited for */

int batch_wait(struct batch *b, long long ms)
{
    b->due_ms = now_mono_ms() + ms;
    return 0;
}

/* ---- beginning, ending ---- */

/* Forgets results, which can be read again. */
void run_forget(struct batches *bs, struct run *r)
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
    json_decref(r->adapters);
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
    r->began_us = now_mono_us();
    r->route = batch_route(endpoint);
    int fd = files_open(bs->options.files, &asker_own, input, &bytes, e), rc = fd < 0 ? fd : 0;
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
int batch_end(struct batches *bs, struct batch *b, const char *status, json_t *fields)
{
    char at[32];
    struct err e = {0};
    snprintf(at, sizeof at, "%s_at", status);
    json_object_set_new(fields, "status", json_string(status));
    json_object_set_new(fields, at, json_integer(now_s()));
    if (batch_set(bs, b, fields, json_pack("{s:i}", "purges", 1), &e) != 0) {
        log_warn("event=batch_not_ended id=%s reason=\"%s\"", b->id, e.msg);
        run_forget(bs, b->run);
        return batch_wait(b, BATCH_FULL_MS);
    }
    log_info("event=batch_over id=%s status=%s", b->id, status);
    run_forget(bs, b->run);
    run_free(&b->run);
    return 1;
}

int batch_fail(struct batches *bs, struct batch *b, const char *code, const char *message)
{
    return batch_end(bs, b, "failed", json_pack("{s:o}", "errors", batch_errors(code, message)));
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
    char output[FOLDER_ID_BYTES] = "", errors[FOLDER_ID_BYTES] = "", owner[OBJECT_OWNER_BYTES];
    struct output_of of = {b->id, owner, batch_number(bs, b, 1, "output_expires_s")};
    int rc = 0;
    batch_text(bs, b, 0, OBJECT_OWNER, owner, sizeof owner);
    if (strcmp(how, "completed") == 0 && batch_number(bs, b, 0, "finalizing_at") == 0)
        rc = batch_set(bs, b,
            json_pack("{s:s, s:I}", "status", "finalizing", "finalizing_at", now_s()), NULL, e);
    if (rc == 0 && (rc = write_rest(bs, b, how, e)) != 1)
        return rc < 0 ? rc : 1;
    if (rc >= 0)
        rc = output_keep(&r->output, bs->options.files, &of, "output", output, e);
    if (rc == 0)
        rc = output_keep(&r->errors_output, bs->options.files, &of, "error", errors, e);
    if (rc != 0)
        return rc;
    json_t *counts = json_pack("{s:I, s:I, s:I}", "total", (json_int_t)r->lines.n, "completed",
        (json_int_t)r->completed, "failed", (json_int_t)r->failed);
    return batch_end(bs, b, how,
        json_pack("{s:o, s:o, s:o, s:n}", "output_file_id", id_or_null(output), "error_file_id",
            id_or_null(errors), "request_counts", counts, "errors"));
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
    int does = 0, rc = 0, has_card = batch_take_card(bs, b, ends != NULL);
    if (!has_card && !ends)
        return 0;
    if (ends && batch_number(bs, b, 1, "chunk") > 0)
        rc = batch_cancel_job(bs, b, e);
    if (rc == 0 && !ends && !batch_number(bs, b, 1, "sealed") && now_mono_ms() >= r->submit_due_ms)
        rc = does = batch_submit(bs, b, e);
    if (rc == ASSAY_EQUEUEFULL) { /* results make room */
        r->submit_due_ms = now_mono_ms() + (e->retry_after_ms > 0 ? e->retry_after_ms : AGAIN_MS);
        rc = does = 0;
    }
    if (rc >= 0 && batch_number(bs, b, 1, "chunk") > 0 && has_card && !r->is_read) {
        rc = batch_ask_status(bs, b, e);
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
        return batch_wait(b, why->retry_after_ms > 0 ? why->retry_after_ms : AGAIN_MS);
    case ASSAY_ESTATE: /* held, or cancelled: its status says so */
        b->run->status_due_ms = 0;
        if (batch_ask_status(bs, b, &e) == ASSAY_EINTERNAL)
            return batch_fail(bs, b, "server_error", e.msg);
        return batch_wait(b, AGAIN_MS);
    case ASSAY_EUNKNOWNJOB:
        batch_send_again(bs, b, &e);
        return batch_wait(b, AGAIN_MS);
    case ASSAY_EFULL:
    case ASSAY_EIO:
        if (why->code == ASSAY_EIO && ++b->n_tries >= MOST_TRIES)
            return batch_fail(bs, b, "server_error", why->msg);
        log_warn("event=batch_waits id=%s reason=\"%s\"", b->id, why->msg);
        run_forget(bs, b->run);
        return batch_wait(b, BATCH_FULL_MS);
    default:
        log_warn("event=batch_failed id=%s reason=\"%s\"", b->id, why->msg);
        return batch_fail(
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
    run_forget(bs, b->run);
    run_free(&b->run);
    return batch_wait(b, ms);
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
        return batch_wait(b, BATCH_POLL_MS);
    if (is_over)
        return batch_purge(bs, b);
    if (!b->run && !has_place(bs))
        return batch_wait(b, BATCH_POLL_MS);
    if (!b->run && begin(bs, b, &e) != 0)
        return e.code == ASSAY_EIO && ++b->n_tries < MOST_TRIES
                   ? batch_wait(b, AGAIN_MS)
                   : batch_fail(bs, b, "invalid_input_file", e.msg);
    const char *ends = early_end(bs, b);
    int is_new = batch_number(bs, b, 1, "chunk_rows") == 0;
    if (is_new && ends)
        return batch_end(bs, b, ends, json_object());
    if (is_new)
        return batch_check(bs, b);
    int rc = work(bs, b, ends, &e);
    if (rc < 0)
        rc = handle(bs, b, &e);
    else if (rc == 0)
        batch_wait(b, BATCH_POLL_MS);
    if (b->run && batch_number(bs, b, 1, "chunk_rows") == 0)
        return put_aside(bs, b, BATCH_POLL_MS); /* to be validated again */
    return b->is_held && b->run && !ends ? put_aside(bs, b, HELD_MS) : rc;
}
