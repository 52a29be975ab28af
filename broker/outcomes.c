/* outcomes.c - writes what came of each batch, and tells planner and jobs (outcomes.h).
 *
 * Results of a batch are checked here. The group has already checked the slot's token and that all
 * ranks agree. A row with a NaN or an infinity gets an error; the other rows of its batch keep
 * their results.
 *
 * A batch stays here until its outcome is synced, so that it can be written again: when the disk is
 * full, the reserve file's space is freed for results. If that is not enough, or another process
 * has the database locked, outcomes are held and retried every AGAIN_MS, and no batch goes out
 * until they are written. */
#include "broker/outcomes.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "broker/api/progress.h"
#include "broker/api/waiters.h"
#include "broker/transaction.h"
#include "schema/alloc.h"
#include "schema/clock.h"
#include "schema/log.h"
#include "schema/utf8.h"

#define AGAIN_MS 200
#define MOST_ROWS 1024 /* of a tick, and the rest of a batch; writing them takes some 4 ms */
#define KNOWN_US 5000  /* after so much of a tick, known results wait for the next, but no longer */

/* ---- one row ---- */

static int is_finite(float v)
{
    return v - v == 0;
}

/* Returns the row's result: its values, or the error that was found for it, or one if the values
 * are not finite. */
static struct store_result judge(
    const struct sequence *r, const float *values, char *message, size_t size)
{
    struct store_result result = {.origin = (enum row_origin)r->origin,
        .error_code = r->found_error,
        .error_message = r->found_message};
    for (uint32_t k = 0; !result.error_code && k < r->n_values; k++)
        if (!is_finite(values[k])) {
            snprintf(message, size, "value %u of %u: expected a finite number, found %g", k,
                r->n_values, (double)values[k]);
            result.error_code = ASSAY_ENONFINITE;
            result.error_message = message;
        }
    if (!result.error_code) {
        result.values = values;
        result.n_values = r->n_values;
    }
    return result;
}

/* Adds a sequence's result to its row's. Idempotent. 1: all of the row's sequences are done, and
 * *whole is its result. */
static int join_sequence(const struct broker *b, const struct sequence *r,
    const struct store_result *result, struct store_result *whole)
{
    struct row *l = r->of;
    uint32_t n_pooled = 0;
    int32_t *pooled = sequence_pooled_at(r, &n_pooled);
    if (!result->values && !l->error_code) {
        l->error_code = result->error_code;
        int several = l->mode != r->mode; /* models */
        snprintf(l->error_message, sizeof l->error_message, "%s%s%.150s",
            several ? b->models[r->lane]->info.name : "", several ? ": " : "",
            result->error_message ? result->error_message : "");
        utf8_make_printable(l->error_message);
    }
    if (result->values)
        l->values[r->part] = result->values[0];
    if (n_pooled > 0)
        memcpy(l->pooled + 2 * r->part, pooled, 2 * sizeof *pooled);
    l->n_pooled = n_pooled > 0 ? l->n_parts : 0;
    free(pooled);
    if (result->origin == ROW_COMPUTED || l->origin == ROW_COPIED)
        l->origin = result->origin;
    l->n_done += !l->done[r->part];
    l->done[r->part] = 1;
    *whole = (struct store_result){.values = l->error_code ? NULL : l->values,
        .n_values = l->n_parts,
        .error_code = l->error_code,
        .error_message = l->error_message,
        .origin = l->origin};
    return l->n_done == l->n_parts;
}

static int keep(
    struct broker *b, const struct sequence *r, const struct store_result *result, struct err *e)
{
    struct store_result whole = *result;
    b->counters.tokens += result->origin == ROW_COMPUTED ? r->n_tokens : 0;
    if (r->of && !join_sequence(b, r, result, &whole))
        return 0;
    int rc = store_finish_row(b->store, r, &whole, e);
    if (rc == 1) {
        b->counters.rows_done++;
        b->counters.rows_failed += whole.values == NULL;
        b->counters.rows_copied += whole.values && whole.origin == ROW_COPIED;
        b->counters.rows_cached += whole.values && whole.origin == ROW_CACHED;
    }
    return rc < 0 ? rc : 0;
}

/* ---- one batch ---- */

/* Writes a row's answer for the row and its duplicates. */
static int keep_answer(
    struct broker *b, struct sequence *r, const struct store_result *result, struct err *e)
{
    struct store_result copy = *result;
    int rc = keep(b, r, result, e);
    copy.origin = ROW_COPIED;
    for (const struct sequence *duplicate = r->duplicates; rc == 0 && duplicate;
         duplicate = duplicate->next)
        rc = keep(b, duplicate, &copy, e);
    r->answer = result->values ? ROW_VALUES : ROW_ERROR;
    return rc;
}

struct computed {
    struct sequence *row;
    const float *values;
};

static int compare_rows(const void *a, const void *b)
{
    const struct sequence *x = ((const struct computed *)a)->row,
                          *y = ((const struct computed *)b)->row;
    if (x->row_id != y->row_id)
        return x->row_id < y->row_id ? -1 : 1;
    return x->part < y->part ? -1 : x->part > y->part;
}

/* Writes the rows in the order of their numbers: jobs take turns in a batch, and data that adjacent
 * rows of one job have in common is written once (store/finish.c). */
static int keep_values(struct broker *b, const struct batch *batch, struct err *e)
{
    struct computed *list = xcalloc(batch->n_rows + 1, sizeof *list);
    const float *values = batch->values;
    char message[128];
    int rc = 0;
    for (uint32_t i = 0; i < batch->n_rows; values += batch->rows[i++]->n_values)
        list[i] = (struct computed){batch->rows[i], values};
    qsort(list, batch->n_rows, sizeof *list, compare_rows);
    for (uint32_t i = 0; rc == 0 && i < batch->n_rows; i++) {
        struct store_result result = judge(list[i].row, list[i].values, message, sizeof message);
        rc = keep_answer(b, list[i].row, &result, e);
    }
    free(list);
    return rc;
}

/* Fails the rows of a batch that no group can ever take. Rows beyond a limit of this broker do not
 * come so far: the store gives them as failed (struct store_limits). */
static int keep_refused(struct broker *b, const struct batch *batch, struct err *e)
{
    const struct err *why = &b->held.refused;
    struct store_result result = {
        .error_code = why->code == ASSAY_ETOOLARGE ? ASSAY_ETOOLONG : ASSAY_EINTERNAL,
        .error_message = why->msg};
    int rc = 0;
    for (uint32_t i = 0; rc == 0 && i < batch->n_rows; i++)
        rc = keep_answer(b, batch->rows[i], &result, e);
    return rc;
}

/* Fails the only row of this batch, which has killed its group for the last time. Its duplicates
 * fail untried: each would kill a group as often. */
static int keep_killer(struct broker *b, const struct batch *batch, struct err *e)
{
    char how[64], message[192];
    struct store_result result = {.error_code = ASSAY_EKILLED, .error_message = message};
    struct sequence *r = batch->rows[0];
    if (batch->lost_signal)
        snprintf(how, sizeof how, "signal %d", batch->lost_signal);
    else if (batch->lost_exit >= 0)
        snprintf(how, sizeof how, "exit code %d", batch->lost_exit);
    else
        snprintf(how, sizeof how, "it hung or failed");
    snprintf(message, sizeof message, "the row alone ended a worker group %u times; %s, batch %lld",
        r->attempts + 1, how, (long long)batch->number);
    log_warn("event=row_set_aside job=%lld i=%u reason=\"%s\"", (long long)row_job(r->row_id),
        row_index(r->row_id), message);
    return keep_answer(b, r, &result, e);
}

/* Blames a row that was alone when its group died. The planner counts the attempt once the outcome
 * is synced; the database shows the new count already. */
static int keep_blame(struct broker *b, const struct batch *batch, struct err *e)
{
    struct sequence copy = *batch->rows[0];
    copy.attempts++;
    int rc = store_set_attempts(b->store, &copy, e);
    if (rc == 0 && copy.attempts >= PLANNER_ATTEMPTS)
        rc = keep_killer(b, batch, e);
    return rc;
}

static int keep_outcome(struct broker *b, const struct batch *batch, struct err *e)
{
    int done = batch->outcome == BATCH_DONE;
    int rc = batch->known ? 0 : store_batch_ended(b->store, batch, done, e);
    if (rc != 0)
        return rc;
    if (done)
        return keep_values(b, batch, e);
    if (batch->outcome == BATCH_REFUSED)
        return keep_refused(b, batch, e);
    if (batch->outcome == BATCH_LOST_RUNNING && batch->suspect && batch->n_rows == 1)
        return keep_blame(b, batch, e);
    return 0;
}

/* ---- all of a tick ---- */

/* Writes all that is held, or nothing of it. */
static int keep_held(struct broker *b, struct err *e)
{
    struct counters before = b->counters;
    int rc = transaction_begin_synced(b, e);
    for (const struct batch *batch = b->held.first; rc == 0 && batch; batch = batch->next)
        rc = keep_outcome(b, batch, e);
    if (rc == 0)
        rc = transaction_commit(b, e);
    if (rc != 0) {
        transaction_rollback(b);
        b->counters = before;
    }
    return rc;
}

static void tell_jobs(struct broker *b, const struct batch *batch)
{
    int64_t last = 0;
    for (uint32_t i = 0; i < batch->n_rows; i++) {
        int64_t job = row_job(batch->rows[i]->row_id);
        if (job == last)
            continue;
        waiters_job_changed(b, job);
        progress_job_changed(b, job);
        last = job;
    }
}

static int64_t shared_tokens(const struct batch *batch)
{
    int64_t n = 0;
    for (uint32_t i = 0; i < batch->n_rows; i++)
        n += batch->rows[i]->n_shared;
    return n;
}

/* Gives a batch back to the planner once its outcome is synced. */
static void settle(struct broker *b, struct batch *batch)
{
    enum batch_outcome outcome = batch->outcome;
    int lost = outcome == BATCH_LOST_RUNNING || outcome == BATCH_LOST_WAITING;
    tell_jobs(b, batch);
    b->wake = 1;
    if (outcome == BATCH_DONE && !batch->known) {
        b->counters.batches++;
        b->counters.tokens_shared += shared_tokens(batch);
    }
    b->counters.batches_lost += lost;
    if (!lost || planner_lost(b->planner, &batch, outcome == BATCH_LOST_RUNNING) == 1)
        planner_finished(b->planner, &batch);
}

/* Writes and settles what is held; if it cannot be written now, leaves it to a later call. Results
 * of accepted work are written at any cost: on a full disk, into the space of the reserve. */
static int write_held(struct broker *b, struct err *e)
{
    struct held *h = &b->held;
    if (!h->first || now_mono_ms() < h->again_ms)
        return 0;
    int rc = keep_held(b, e);
    if (rc == ASSAY_EFULL && store_free_reserve(b->store)) {
        log_warn("event=disk_full action=\"reserve freed for results\" error=\"%s\"", e->msg);
        rc = keep_held(b, e);
    }
    if (store_may_pass(rc)) {
        transaction_cannot_write(b, e);
        h->again_ms = now_mono_ms() + AGAIN_MS;
        h->unwritten = *e;
        return 0;
    }
    while (rc == 0 && h->first)
        settle(b, batch_pop(&h->first));
    if (rc == 0)
        *h = (struct held){0};
    return rc;
}

void outcomes_drop(struct broker *b)
{
    batch_free_all(&b->held.first);
}

const char *outcomes_unwritten(const struct broker *b)
{
    return b->held.again_ms != 0 ? b->held.unwritten.msg : NULL;
}

int outcomes_block(const struct broker *b)
{
    return b->draining || b->held.first || store_is_late(b->store);
}

int outcomes_take(struct broker *b, struct err *e)
{
    struct batch *batch;
    int all_written = !b->held.first;
    uint32_t n = 0;
    for (int g = served_next_group(b, 0); all_written && g < b->n_groups;
         g = served_next_group(b, g + 1))
        while (n < MOST_ROWS && (batch = group_take(b->groups[g]))) {
            n += batch->n_rows;
            batch_append(&b->held.first, batch);
        }
    b->wake |= n >= MOST_ROWS; /* there may be more */
    return write_held(b, e);
}

int outcomes_refuse(struct broker *b, struct batch **batch, const struct err *why, struct err *e)
{
    (*batch)->outcome = BATCH_REFUSED;
    b->held = (struct held){.first = *batch, .refused = *why};
    *batch = NULL;
    return write_held(b, e);
}

/* ---- results that are known ---- */

int outcomes_take_known(struct broker *b, struct err *e)
{
    b->known_waits = !b->known_waits && ticks_has_taken(&b->ticks, KNOWN_US);
    if (b->known_waits) {
        b->wake = 1;
        return 0;
    }
    int rc = outcomes_block(b) ? 0 : planner_known(b->planner, &b->held.first, e);
    return rc == 1 ? write_held(b, e) : rc;
}
