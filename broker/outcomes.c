/* outcomes.c - see outcomes.h.
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
#include "schema/log.h"
#include "schema/utf8.h"

#define MAX_OUTCOMES (OPTIONS_MAX_REPLICAS * STAGE_MAX_SLOTS)

/* A batch on its way from a group into the store. */
struct outcome {
    struct batch *batch;
    enum batch_outcome kind;
    const struct err *refused; /* why no group can take it; else NULL */
};

#define AGAIN_MS 200

struct held {
    struct outcome list[MAX_OUTCOMES];
    int n;
    struct err why; /* why list[0] was refused */
    long long again_ms;
};

/* ---- one row ---- */

static int is_finite(float v)
{
    return v - v == 0;
}

/* Returns the row's result: its values, or an error if they are not finite. */
static struct store_result judge(
    const struct sequence *r, const float *values, char *message, size_t size)
{
    for (uint32_t k = 0; k < r->n_values; k++)
        if (!is_finite(values[k])) {
            snprintf(message, size, "value %u of %u: expected a finite number, found %g", k,
                r->n_values, (double)values[k]);
            return (struct store_result){.error_code = ASSAY_ENONFINITE, .error_message = message};
        }
    return (struct store_result){.values = values, .n_values = r->n_values};
}

/* Adds a sequence's result to its row's. Idempotent. 1: all of the row's sequences are done, and
 * *whole is its result. */
static int join_sequence(
    const struct sequence *r, const struct store_result *result, struct store_result *whole)
{
    struct row *l = r->of;
    uint32_t n_pooled = 0;
    int32_t *pooled = sequence_pooled_at(r, &n_pooled);
    if (!result->values && !l->error_code) {
        l->error_code = result->error_code;
        snprintf(l->error_message, sizeof l->error_message, "%.*s",
            (int)sizeof l->error_message - 1, result->error_message ? result->error_message : "");
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
    if (r->of && !join_sequence(r, result, &whole))
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

static int keep_row(struct broker *b, struct sequence *r, const float *values, struct err *e)
{
    char message[128];
    struct store_result result = judge(r, values, message, sizeof message);
    if (r->found_error)
        result =
            (struct store_result){.error_code = r->found_error, .error_message = r->found_message};
    result.origin = (enum row_origin)r->origin;
    return keep_answer(b, r, &result, e);
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
 * rows of one job have in common is written once (store/work.c). */
static int keep_values(struct broker *b, const struct batch *batch, struct err *e)
{
    struct computed *list = xcalloc(batch->n_rows + 1, sizeof *list);
    const float *values = batch->values;
    int rc = 0;
    for (uint32_t i = 0; i < batch->n_rows; values += batch->rows[i++]->n_values)
        list[i] = (struct computed){batch->rows[i], values};
    qsort(list, batch->n_rows, sizeof *list, compare_rows);
    for (uint32_t i = 0; rc == 0 && i < batch->n_rows; i++)
        rc = keep_row(b, list[i].row, list[i].values, e);
    free(list);
    return rc;
}

/* Fails the rows of a batch that no group can ever take, as after a start with a smaller
 * --max-len. */
static int keep_refused(
    struct broker *b, const struct batch *batch, const struct err *why, struct err *e)
{
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

static int keep_outcome(struct broker *b, const struct outcome *o, struct err *e)
{
    int done = o->kind == BATCH_DONE && !o->refused;
    int rc = o->batch->known ? 0 : store_batch_ended(b->store, o->batch, done, e);
    if (rc != 0)
        return rc;
    if (o->refused)
        return keep_refused(b, o->batch, o->refused, e);
    if (o->kind == BATCH_DONE)
        return keep_values(b, o->batch, e);
    if (o->kind == BATCH_LOST_RUNNING && o->batch->suspect && o->batch->n_rows == 1)
        return keep_blame(b, o->batch, e);
    return 0;
}

/* ---- all of a tick ---- */

static int write_outcomes(struct broker *b, const struct outcome *list, int n, struct err *e)
{
    int rc = transaction_begin_synced(b, e);
    for (int i = 0; rc == 0 && i < n; i++)
        rc = keep_outcome(b, &list[i], e);
    if (rc == 0)
        rc = transaction_commit(b, e);
    if (rc != 0)
        transaction_rollback(b);
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

/* Gives a batch back to the planner once its outcome is synced. */
static void settle(struct broker *b, struct outcome *o)
{
    tell_jobs(b, o->batch);
    b->wake = 1;
    if (o->kind == BATCH_DONE) {
        b->counters.batches += !o->refused && !o->batch->known;
        planner_finished(b->planner, &o->batch);
        return;
    }
    b->counters.batches_lost++;
    if (planner_lost(b->planner, &o->batch, o->kind == BATCH_LOST_RUNNING) == 1)
        planner_finished(b->planner, &o->batch);
}

/* Writes and settles outcomes. Results of accepted work are written at any cost: on a full disk,
 * into the space of the reserve. */
static int settle_all(struct broker *b, struct outcome *list, int n, struct err *e)
{
    struct counters before = b->counters;
    int rc = write_outcomes(b, list, n, e);
    if (rc == ASSAY_EFULL && store_free_reserve(b->store)) {
        log_warn("event=disk_full action=\"reserve freed for results\" error=\"%s\"", e->msg);
        b->counters = before;
        rc = write_outcomes(b, list, n, e);
    }
    b->counters = rc == 0 ? b->counters : before;
    for (int i = 0; rc == 0 && i < n; i++)
        settle(b, &list[i]);
    return rc;
}

static void hold(struct broker *b, const struct outcome *list, int n, const struct err *e)
{
    transaction_cannot_write(b, e);
    b->held = xcalloc(1, sizeof *b->held);
    memcpy(b->held->list, list, (size_t)n * sizeof *list);
    b->held->n = n;
    b->held->again_ms = now_mono_ms() + AGAIN_MS;
    if (list[0].refused) {
        b->held->why = *list[0].refused;
        b->held->list[0].refused = &b->held->why;
    }
}

/* 0: settled, or held until they can be. */
static int settle_or_hold(struct broker *b, struct outcome *list, int n, struct err *e)
{
    int rc = settle_all(b, list, n, e);
    if (!store_may_pass(rc))
        return rc;
    hold(b, list, n, e);
    return 0;
}

static int settle_held(struct broker *b, struct err *e)
{
    if (now_mono_ms() < b->held->again_ms)
        return 0;
    int rc = settle_all(b, b->held->list, b->held->n, e);
    b->held->again_ms = now_mono_ms() + AGAIN_MS;
    if (store_may_pass(rc)) {
        transaction_cannot_write(b, e);
        return 0;
    }
    if (rc == 0) {
        free(b->held);
        b->held = NULL;
    }
    return rc;
}

void outcomes_drop(struct broker *b)
{
    for (int i = 0; b->held && i < b->held->n; i++)
        batch_free(&b->held->list[i].batch);
    free(b->held);
    b->held = NULL;
}

int outcomes_block(const struct broker *b)
{
    return b->draining || b->held || store_is_late(b->store);
}

int outcomes_take(struct broker *b, struct err *e)
{
    struct outcome list[MAX_OUTCOMES];
    int n = 0;
    if (b->held)
        return settle_held(b, e);
    for (int g = 0; g < b->options->replicas; g++)
        while (n < MAX_OUTCOMES && group_take(b->groups[g], &list[n].batch, &list[n].kind))
            list[n++].refused = NULL;
    return n > 0 ? settle_or_hold(b, list, n, e) : 0;
}

int outcomes_refuse(struct broker *b, struct batch **batch, const struct err *why, struct err *e)
{
    struct outcome refused = {*batch, BATCH_DONE, why};
    *batch = NULL;
    return settle_or_hold(b, &refused, 1, e);
}

/* ---- results that are known ---- */

int outcomes_take_known(struct broker *b, struct err *e)
{
    struct outcome known = {.kind = BATCH_DONE};
    int rc = outcomes_block(b) ? 0 : planner_known(b->planner, &known.batch, e);
    return rc == 1 ? settle_or_hold(b, &known, 1, e) : rc;
}
