/* work.c - records batches and results, and reads the results of rows for their duplicates. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "broker/store/private.h"
#include "schema/log.h"

/* ---- batches ---- */

/* How many adjacent sequences of the batch, starting at `from`, belong to one job. */
static uint32_t run_of_job(const struct batch *b, uint32_t from)
{
    uint32_t n = 1;
    while (from + n < b->n_rows &&
           row_job(b->rows[from + n]->row_id) == row_job(b->rows[from]->row_id))
        n++;
    return n;
}

static int add_running(struct store *s, const struct batch *b, int sign, struct err *e)
{
    int rc = 0;
    for (uint32_t i = 0, n; rc == 0 && i < b->n_rows; i += n) {
        int64_t rows = 0; /* counts each row once, by its first sequence */
        n = run_of_job(b, i);
        for (uint32_t k = i; k < i + n; k++)
            rows += b->rows[k]->part == 0;
        rc = store_run(s, e, "update job set running = max(running + ?, 0) where job = ?", "ii",
            sign * rows, row_job(b->rows[i]->row_id));
    }
    return rc;
}

int store_batch_started(
    struct store *s, struct batch *b, int group, uint64_t incarnation, struct err *e)
{
    b->number = s->next_batch++;
    int rc = store_run(s, e,
        "insert into batch(batch, worker_group, incarnation, n_rows, n_tokens, started_ms) values "
        "(?, ?, ?, ?, ?, ?)",
        "iiiiii", b->number, (int64_t)group, (int64_t)incarnation, (int64_t)b->n_rows,
        (int64_t)b->n_tokens, b->started_wall_ms);
    for (uint32_t i = 0; rc == 0 && i < b->n_rows; i++)
        rc = store_row_runs(s, b->rows[i]->row_id, 1, e);
    return rc == 0 ? add_running(s, b, 1, e) : rc;
}

int store_batch_ended(struct store *s, const struct batch *b, int ok, struct err *e)
{
    int rc = store_run(s, e, "update batch set ms = ?, ok = ? where batch = ?", "iii", b->ms,
        (int64_t)ok, b->number);
    for (uint32_t i = 0; rc == 0 && i < b->n_rows; i++)
        rc = store_row_runs(s, b->rows[i]->row_id, 0, e);
    if (rc == 0)
        rc = add_running(s, b, -1, e);
    return rc;
}

int store_set_attempts(struct store *s, const struct sequence *r, struct err *e)
{
    return store_run(
        s, e, "update row set attempts = ? where row = ?", "ii", (int64_t)r->attempts, r->row_id);
}

/* ---- results ---- */

char *store_vector_json(const float *values, uint32_t n)
{
    size_t room = (size_t)n * 18 + 3, at = 1;
    char *text = xcalloc(1, room);
    text[0] = '[';
    for (uint32_t i = 0; i < n; i++)
        at += (size_t)snprintf(text + at, room - at, "%s%.9g", i ? "," : "", (double)values[i]);
    text[at] = ']';
    return text;
}

/* Whether this row's result is a list, even with one element. */
static int is_list(const struct sequence *r, const struct store_result *result)
{
    return result->values && (result->n_values != 1 || r->of || r->pool.type == POOL_ALL ||
                                 r->pool.type == POOL_STEP || r->pool.type == POOL_POSITIONS);
}

static int insert_result(
    struct store *s, const struct sequence *r, const struct store_result *result, struct err *e)
{
    uint32_t n_pooled = 0;
    int list = is_list(r, result);
    int32_t *pairs = result->values && !r->of ? sequence_pooled_at(r, &n_pooled) : NULL;
    char *json = list ? store_vector_json(result->values, result->n_values) : NULL;
    struct slice vector = {
        list ? (const uint8_t *)result->values : NULL, list ? result->n_values * sizeof(float) : 0};
    struct slice pooled = {n_pooled ? (const uint8_t *)pairs : NULL, n_pooled * 2 * sizeof *pairs};
    if (result->values && r->of && r->of->n_pooled > 0)
        pooled = (struct slice){
            (const uint8_t *)r->of->pooled, r->of->n_pooled * 2 * sizeof *r->of->pooled};
    struct result_record record = {s->tally.job, s->tally.next_seq, r->row_id, s->mode,
        now_wall_ms(), .has_score = result->values && !list,
        .score = result->values && !list ? (double)result->values[0] : 0, .vector = vector,
        .pooled = pooled};
    if (!result->values) {
        record.error_code = store_text(err_name(result->error_code));
        record.error_message = store_text(result->error_message);
    }
    int rc = store_insert_result(s, &record, json, e);
    free(pairs);
    free(json);
    return rc;
}

/* A job's rows finish many at a time: what they have in common is read and written once. */
static int begin_tally(struct store *s, int64_t job, struct err *e)
{
    int rc = s->tally.job == job ? 0 : store_end_tally(s, e);
    if (rc != 0 || s->tally.job == job)
        return rc;
    s->tally = (struct store_tally){.job = job, .cancelled = 1}; /* missing: as if cancelled */
    sqlite3_stmt *q =
        store_prepare(s, "select next_seq, cancelled from job where job = ?", "i", job);
    rc = store_step(s, q, e);
    if (rc != 1)
        return rc;
    s->tally.next_seq = sqlite3_column_int64(q, 0);
    s->tally.cancelled = sqlite3_column_int(q, 1);
    sqlite3_reset(q);
    return 0;
}

int store_end_tally(struct store *s, struct err *e)
{
    struct store_tally t = s->tally;
    int64_t now_ms = now_wall_ms();
    s->tally = (struct store_tally){0};
    if (t.done == 0)
        return 0;
    int rc = store_run_job(s, t.job, JOB_COUNTED, e,
        "update job set next_seq = ?1, done = done + ?2, failed = failed + ?3, "
        "tokens_left = max(tokens_left - ?4, 0), copied = copied + ?5, cached = cached + ?6, "
        "finished_ms = case when seal_chunk is not null and next_chunk > seal_chunk and "
        "done + ?2 = placed then ?7 end "
        "where job = ?8",
        "iiiiiiii", t.next_seq, t.done, t.failed, t.tokens, t.copied, t.cached, now_ms, t.job);
    return rc != 0 ? rc
                   : store_run(s, e,
                         "insert into minute values (?, ?, ?) on conflict (minute) do update set "
                         "n_rows = n_rows + excluded.n_rows, "
                         "n_tokens = n_tokens + excluded.n_tokens",
                         "iii", now_ms / 60000, t.done, t.tokens);
}

static void count_result(
    struct store *s, const struct sequence *r, const struct store_result *result)
{
    int failed = result->values == NULL;
    int64_t n_tokens = r->of ? r->of->n_tokens : r->n_tokens;
    s->tally.next_seq++;
    s->tally.done++;
    s->tally.failed += failed;
    s->tally.copied += !failed && result->origin == ROW_COPIED;
    s->tally.cached += !failed && result->origin == ROW_CACHED;
    s->tally.tokens += n_tokens;
    s->queued_tokens -= n_tokens;
}

int store_finish_row(
    struct store *s, const struct sequence *r, const struct store_result *result, struct err *e)
{
    int failed = result->values == NULL;
    int rc = begin_tally(s, row_job(r->row_id), e);
    if (rc != 0 || s->tally.cancelled)
        return rc;
    rc = store_row_is_over(s, r->row_id, failed, e);
    if (rc != 1)
        return rc;
    rc = insert_result(s, r, result, e);
    if (rc != 0)
        return rc;
    count_result(s, r, result);
    return 1;
}

/* ---- answers ---- */

static const char *text_of(struct slice text)
{
    return text.at ? (const char *)text.at : "";
}

int store_read_answer(struct store *s, int64_t row, struct store_answer *answer, struct err *e)
{
    struct result_record r;
    sqlite3_stmt *q = store_prepare(s,
        "select " STORE_RESULT_COLUMNS
        "from result indexed by result_row where result.row = ? and mode = ?",
        "ii", row, s->mode);
    int rc = store_step(s, q, e);
    if (rc != 1)
        return rc;
    rc = store_read_result(s, q, 0, &r) && r.row == row;
    float score = (float)r.score;
    const uint8_t *values = r.has_score ? (const uint8_t *)&score : r.vector.at;
    answer->n_values = r.has_score ? 1 : (uint32_t)(r.vector.len / sizeof(float));
    if (rc == 1 && answer->n > 0 && (uint64_t)answer->from + answer->n <= answer->n_values)
        memcpy(answer->values, values + answer->from * sizeof(float), answer->n * sizeof(float));
    snprintf(answer->error_code, sizeof answer->error_code, "%s", text_of(r.error_code));
    snprintf(answer->error_message, sizeof answer->error_message, "%s", text_of(r.error_message));
    sqlite3_reset(q);
    return rc;
}

int store_set_worker(struct store *s, const struct store_worker *w, struct err *e)
{
    return store_run(s, e, "insert or replace into worker values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        "iiiissiiiii", (int64_t)w->group, (int64_t)w->rank, (int64_t)w->incarnation,
        (int64_t)w->pid, w->device, w->state, w->batches, w->restarts, (int64_t)now_wall_ms(),
        w->busy_us, w->up_us);
}
