/* results.c - what comes back from workers, into the store; what goes out to them (broker.h).
 *
 * Results of a batch are checked here: the group has seen that the slot's token is right and that
 * all ranks agree; a row with a NaN or an infinity becomes that row's error, its neighbours are
 * kept. */
#include <stdio.h>
#include <string.h>

#include "broker/broker.h"
#include "schema/log.h"

static int is_finite(float v)
{
    return v - v == 0;
}

/* The row's result: its values, or the error that they are. */
static struct store_result judge(
    const struct row *r, const float *values, char *message, size_t size)
{
    for (uint32_t k = 0; k < r->n_values; k++)
        if (!is_finite(values[k])) {
            snprintf(message, size, "value %u of %u: expected a finite number, found %g", k,
                r->n_values, (double)values[k]);
            return (struct store_result){.error_code = ASSAY_ENONFINITE, .error_message = message};
        }
    return (struct store_result){.values = values, .n_values = r->n_values};
}

static int keep(
    struct broker *b, const struct row *r, const struct store_result *result, struct err *e)
{
    int rc = store_finish_row(b->store, r, result, e);
    if (rc == 1) {
        b->counters.rows_done++;
        b->counters.rows_failed += result->values == NULL;
        b->counters.tokens += r->n_tokens;
    }
    return rc < 0 ? rc : 0;
}

static int keep_results(struct broker *b, const struct batch *batch, struct err *e)
{
    const float *values = batch->values;
    char message[128];
    int rc = store_batch_ended(b->store, batch, 1, e);
    for (uint32_t i = 0; rc == 0 && i < batch->n_rows; i++) {
        struct store_result result = judge(batch->rows[i], values, message, sizeof message);
        rc = keep(b, batch->rows[i], &result, e);
        values += batch->rows[i]->n_values;
    }
    b->counters.batches++;
    return rc;
}

/* The one row of this batch has killed its group for the last time. */
static int keep_killer(struct broker *b, const struct batch *batch, struct err *e)
{
    char message[192];
    struct store_result result = {.error_code = ASSAY_EKILLED, .error_message = message};
    const struct row *r = batch->rows[0];
    if (batch->lost_signal)
        snprintf(message, sizeof message,
            "the row alone ended a worker group %u times; signal %d, batch %lld", r->attempts,
            batch->lost_signal, (long long)batch->number);
    else if (batch->lost_exit >= 0)
        snprintf(message, sizeof message,
            "the row alone ended a worker group %u times; exit code %d, batch %lld", r->attempts,
            batch->lost_exit, (long long)batch->number);
    else
        snprintf(message, sizeof message,
            "the row alone ended a worker group %u times; it hung or failed, batch %lld",
            r->attempts, (long long)batch->number);
    log_warn("event=row_set_aside job=%lld i=%u reason=\"%s\"", (long long)row_job(r->row),
        row_index(r->row), message);
    return keep(b, r, &result, e);
}

/* Takes *batch when it is done with it. */
static int keep_lost(struct broker *b, struct batch **batch, int was_running, struct err *e)
{
    int rc = store_batch_ended(b->store, *batch, 0, e);
    b->counters.batches_lost++;
    if (rc != 0)
        return rc;
    int blamed = planner_lost(b->planner, batch, was_running);
    if (blamed == 1)
        rc = keep_killer(b, *batch, e);
    return rc;
}

/* Attempts are kept in the database for who wants to see; a suspect of one row has its new count
 * when planner_lost returned. */
static int keep_attempts(struct broker *b, const struct row *r, uint32_t attempts, struct err *e)
{
    struct row copy = *r;
    copy.attempts = attempts;
    return store_set_attempts(b->store, &copy, e);
}

static int take_one(
    struct broker *b, struct batch **batch, enum batch_outcome outcome, struct err *e)
{
    const struct batch *taken = *batch;
    int64_t last = 0;
    int rc = 0;
    for (uint32_t i = 0; rc == 0 && i < taken->n_rows; i++)
        if (row_job(taken->rows[i]->row) != last)
            rc = broker_job_changed(b, last = row_job(taken->rows[i]->row), e);
    if (rc == 0 && outcome == BATCH_LOST_RUNNING && taken->suspect && taken->n_rows == 1)
        rc = keep_attempts(b, taken->rows[0], taken->rows[0]->attempts + 1, e);
    if (rc != 0)
        return rc;
    return outcome == BATCH_DONE ? keep_results(b, taken, e)
                                 : keep_lost(b, batch, outcome == BATCH_LOST_RUNNING, e);
}

int broker_take_outcomes(struct broker *b, struct err *e)
{
    struct batch *finished = NULL, *batch;
    enum batch_outcome outcome;
    int rc = 0;
    for (int g = 0; g < b->options->replicas; g++)
        while (rc == 0 && group_take(b->groups[g], &batch, &outcome)) {
            rc = broker_begin(b, e);
            if (rc == 0)
                rc = take_one(b, &batch, outcome, e);
            if (batch) {
                batch->next = finished;
                finished = batch;
            }
        }
    if (rc == 0 && b->in_transaction) {
        rc = store_commit(b->store, e);
        b->in_transaction = 0;
    }
    for (; finished; finished = batch) {
        batch = finished->next;
        if (rc == 0)
            planner_finished(b->planner, &finished);
    }
    return rc;
}

/* ---- going out ---- */

static uint32_t in_flight(const struct broker *b)
{
    uint32_t n = 0;
    for (int g = 0; g < b->options->replicas; g++)
        n += group_in_flight(b->groups[g]);
    return n;
}

/* A batch that no group can take, whatever its state: its rows fail, it is no use to try again. */
static int refuse_batch(
    struct broker *b, struct batch **batch, const struct err *why, struct err *e)
{
    struct store_result result = {.error_code = ASSAY_EINTERNAL, .error_message = why->msg};
    int rc = 0;
    log_error("event=batch_refused error=\"%s\"", why->msg);
    for (uint32_t i = 0; rc == 0 && i < (*batch)->n_rows; i++)
        rc = keep(b, (*batch)->rows[i], &result, e);
    if (rc == 0)
        planner_finished(b->planner, batch);
    return rc;
}

static int send_out(struct broker *b, int g, struct batch **batch, struct err *e)
{
    struct err why = {0};
    (*batch)->started_wall_ms = now_wall_ms();
    int rc = broker_begin(b, e);
    if (rc == 0)
        rc = store_batch_started(b->store, *batch, g, group_incarnation(b->groups[g]), e);
    if (rc != 0)
        return rc;
    rc = group_run(b->groups[g], batch, &why);
    if (rc == 1)
        return 0;
    if (rc < 0)
        return refuse_batch(b, batch, &why, e);
    planner_lost(b->planner, batch, 0); /* not taken after all: it comes again */
    return 0;
}

int broker_dispatch(struct broker *b, struct err *e)
{
    int rc = 0, sent = 1;
    if (b->draining)
        return 0;
    while (rc == 0 && sent) { /* round by round, so that groups share the work */
        sent = 0;
        for (int g = 0; rc == 0 && g < b->options->replicas; g++) {
            struct batch *batch = NULL;
            if (group_free_slots(b->groups[g]) == 0)
                continue;
            rc = planner_next(b->planner, in_flight(b) == 0, &batch, e);
            if (rc != 1)
                continue;
            sent = 1;
            rc = send_out(b, g, &batch, e);
        }
    }
    return rc < 0 ? rc : 0;
}
