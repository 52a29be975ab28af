/* finish.c - writes the results of rows, and adds what finished in a transaction to the counters of
 * its job (the tally). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "broker/store/private.h"
#include "schema/alloc.h"
#include "schema/clock.h"

int store_insert_result(
    struct store *s, const struct result_record *r, const char *vector_json, struct err *e)
{
    sqlite3_stmt *q = store_prepare(s,
        "insert into result(job, seq, row, mode, finished_ms, vector, pooled, error_code, "
        "error_message, vector_json, sum, score) values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?12)",
        "iiiiibbttsi", r->job, r->seq, r->row, r->mode, r->finished_ms, r->vector, r->pooled,
        r->error_code, r->error_message, vector_json, store_sum_result(r));
    if (r->has_score)
        sqlite3_bind_double(q, 12, r->score);
    else
        sqlite3_bind_null(q, 12);
    return store_step(s, q, e);
}

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
    struct result_record record = {s->tally.job, s->tally.next_seq, r->row_id,
        r->of ? r->of->mode : r->mode, now_wall_ms(), .has_score = result->values && !list,
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
    return rc != 0 ? rc : store_note_minute(s, now_ms, t.done, t.tokens, e);
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
