/* store_work.c - rows on their way: queued rows out, batches, results in. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "broker/store_private.h"
#include "schema/ids.h"
#include "schema/log.h"

/* ---- queued rows ---- */

/* A row as it stands in the database, its ids unpacked. */
struct stored {
    sqlite3_stmt *q;
    const int32_t *ids;
    uint32_t n_tokens;
};

/* Sequence `part` of it: n tokens from `from` on. */
static struct row *read_part(
    const struct stored *stored, struct line *line, uint32_t part, uint32_t from, uint32_t n)
{
    sqlite3_stmt *q = stored->q;
    uint32_t n_positions = (uint32_t)(sqlite3_column_bytes(q, 7) / 4);
    const uint8_t *positions = sqlite3_column_blob(q, 7);
    if (line && n_positions > 0) { /* one for each */
        n_positions = 1;
        positions += part * sizeof(int32_t);
    }
    struct row *r = row_new(n, n_positions);
    r->row = sqlite3_column_int64(q, 0);
    r->pool_type = sqlite3_column_int(q, 1);
    r->activation = sqlite3_column_int(q, 2);
    r->step_token = sqlite3_column_int(q, 3);
    r->n_values = line ? 1 : (uint32_t)sqlite3_column_int64(q, 4);
    r->attempts = (uint32_t)sqlite3_column_int(q, 5);
    r->line = line;
    r->part = part;
    if (line)
        line->refs++;
    memcpy(r->ids, stored->ids + from, n * sizeof *r->ids);
    if (n_positions > 0)
        memcpy(r->positions, positions, n_positions * sizeof *r->positions);
    return r;
}

static int read_ids(struct store *s, struct stored *stored, struct err *e)
{
    size_t len = (size_t)sqlite3_column_bytes(stored->q, 6);
    const uint8_t *bytes = sqlite3_column_blob(stored->q, 6);
    stored->n_tokens = (uint32_t)sqlite3_column_int64(stored->q, 9);
    int32_t *ids = store_scratch(s, stored->n_tokens * sizeof *ids);
    stored->ids = ids;
    if (ids_unpack(bytes, len, stored->n_tokens, ids) == 0)
        return 0;
    return err_set(e, ASSAY_EIO,
        "%s/assay.db: row %lld: expected the ids of %u tokens, found %zu bytes", s->dir,
        (long long)sqlite3_column_int64(stored->q, 0), stored->n_tokens, len);
}

/* The sequences of the row that q stands on: one, or as many as `ends` says. */
static int read_row(
    struct store *s, sqlite3_stmt *q, store_row_visitor *visit, void *arg, struct err *e)
{
    struct stored stored = {.q = q};
    uint32_t from = 0, end, n_parts = (uint32_t)(sqlite3_column_bytes(q, 8) / 4);
    const uint8_t *ends = sqlite3_column_blob(q, 8);
    int rc = read_ids(s, &stored, e);
    if (rc != 0)
        return rc;
    if (n_parts == 0) {
        visit(arg, read_part(&stored, NULL, 0, 0, stored.n_tokens));
        return 0;
    }
    struct line *line = line_new(n_parts, stored.n_tokens);
    line->refs = 1; /* ours, while they are made: one that is visited may be freed at once */
    for (uint32_t part = 0; part < n_parts; part++, from = end) {
        memcpy(&end, ends + part * sizeof end, sizeof end);
        visit(arg, read_part(&stored, line, part, from, end - from));
    }
    line_unref(line);
    return 0;
}

#define ROW_COLUMNS                                                                                \
    "select row.row, pool_type, activation, step_token, n_values, attempts, ids, positions, "      \
    "ends, n_tokens "

static int visit_rows(
    struct store *s, sqlite3_stmt *q, store_row_visitor *visit, void *arg, struct err *e)
{
    int rc;
    while ((rc = store_step(s, q, e)) == 1)
        if ((rc = read_row(s, q, visit, arg, e)) != 0)
            break;
    sqlite3_reset(q);
    return rc;
}

int store_queued_rows(struct store *s, int64_t job, int64_t after, uint32_t limit,
    store_row_visitor *visit, void *arg, struct err *e)
{
    int64_t low = row_number(job, 0) - 1;
    sqlite3_stmt *q = store_prepare(s,
        ROW_COLUMNS "from row indexed by row_queued join row_input on row_input.row = row.row "
                    "where state = 0 and row.row > ? and row.row < ? order by row.row limit ?",
        "iii", after > low ? after : low, row_number(job + 1, 0), (int64_t)limit);
    return visit_rows(s, q, visit, arg, e);
}

/* ---- batches ---- */

/* Sequences of one job in the batch, from `from` on: how many are next to each other. */
static uint32_t run_of_job(const struct batch *b, uint32_t from)
{
    uint32_t n = 1;
    while (from + n < b->n_rows && row_job(b->rows[from + n]->row) == row_job(b->rows[from]->row))
        n++;
    return n;
}

static int add_running(struct store *s, const struct batch *b, int sign, struct err *e)
{
    int rc = 0;
    for (uint32_t i = 0, n; rc == 0 && i < b->n_rows; i += n) {
        int64_t rows = 0; /* each row once, with its first sequence */
        n = run_of_job(b, i);
        for (uint32_t k = i; k < i + n; k++)
            rows += b->rows[k]->part == 0;
        rc = store_run(s, e, "update job set running = max(running + ?, 0) where job = ?", "ii",
            sign * rows, row_job(b->rows[i]->row));
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
        rc = store_run(
            s, e, "insert or replace into lease values (?, ?)", "ii", b->rows[i]->row, b->number);
    return rc == 0 ? add_running(s, b, 1, e) : rc;
}

/* The leases of b's rows from i on, n of one job: what lies among them is of other batches. */
static int end_leases(struct store *s, const struct batch *b, uint32_t i, uint32_t n, struct err *e)
{
    int64_t low = b->rows[i]->row, high = low;
    for (uint32_t k = i + 1; k < i + n; k++) {
        low = b->rows[k]->row < low ? b->rows[k]->row : low;
        high = b->rows[k]->row > high ? b->rows[k]->row : high;
    }
    return store_run(s, e, "delete from lease where row between ? and ? and batch = ?", "iii", low,
        high, b->number);
}

int store_batch_ended(struct store *s, const struct batch *b, int ok, struct err *e)
{
    int rc = store_run(s, e, "update batch set ms = ?, ok = ? where batch = ?", "iii", b->ms,
        (int64_t)ok, b->number);
    for (uint32_t i = 0, n; rc == 0 && i < b->n_rows; i += n) {
        n = run_of_job(b, i);
        rc = end_leases(s, b, i, n, e);
    }
    if (rc == 0)
        rc = add_running(s, b, -1, e);
    return rc;
}

int store_set_attempts(struct store *s, const struct row *r, struct err *e)
{
    return store_run(
        s, e, "update row set attempts = ? where row = ?", "ii", (int64_t)r->attempts, r->row);
}

/* ---- results ---- */

static char *vector_json(const float *values, uint32_t n)
{
    size_t room = (size_t)n * 18 + 3, at = 1;
    char *text = xcalloc(1, room);
    text[0] = '[';
    for (uint32_t i = 0; i < n; i++)
        at += (size_t)snprintf(text + at, room - at, "%s%.9g", i ? "," : "", (double)values[i]);
    text[at] = ']';
    return text;
}

/* Is this row's result a list, even where it has one element? */
static int is_list(const struct row *r, const struct store_result *result)
{
    return result->values && (result->n_values != 1 || r->line || r->pool_type == POOL_ALL ||
                                 r->pool_type == POOL_STEP || r->pool_type == POOL_POSITIONS);
}

static int insert_result(
    struct store *s, const struct row *r, const struct store_result *result, struct err *e)
{
    uint32_t n_pooled = 0;
    int list = is_list(r, result);
    int32_t *pairs = result->values && !r->line ? row_pooled_at(r, &n_pooled) : NULL;
    char *json = list ? vector_json(result->values, result->n_values) : NULL;
    struct slice vector = {
        list ? (const uint8_t *)result->values : NULL, result->n_values * sizeof(float)};
    struct slice pooled = {n_pooled ? (const uint8_t *)pairs : NULL, n_pooled * 2 * sizeof *pairs};
    if (result->values && r->line && r->line->n_pooled > 0)
        pooled = (struct slice){
            (const uint8_t *)r->line->pooled, r->line->n_pooled * 2 * sizeof *r->line->pooled};
    sqlite3_stmt *q = store_prepare(s,
        "insert into result(job, seq, row, vector, vector_json, pooled, error_code, error_message, "
        "mode, finished_ms, "
        "score) values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?11)",
        "iiibsbssii", s->tally.job, s->tally.next_seq, r->row, vector, json, pooled,
        result->values ? NULL : err_name(result->error_code),
        result->values ? NULL : result->error_message, s->mode, (int64_t)now_wall_ms());
    if (result->values && !list)
        sqlite3_bind_double(q, 11, (double)result->values[0]);
    else
        sqlite3_bind_null(q, 11);
    int rc = store_step(s, q, e);
    free(pairs);
    free(json);
    return rc;
}

/* One job's rows are finished many at a time: what they have in common is read and written once. */
static int begin_tally(struct store *s, int64_t job, struct err *e)
{
    int rc = s->tally.job == job ? 0 : store_end_tally(s, e);
    if (rc != 0 || s->tally.job == job)
        return rc;
    s->tally = (struct store_tally){.job = job, .cancelled = 1}; /* as is one that is not there */
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
    int rc = store_run(s, e,
        "update job set next_seq = ?1, done = done + ?2, failed = failed + ?3, "
        "tokens_left = tokens_left - ?4, copied = copied + ?5, cached = cached + ?6, "
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

static void count_result(struct store *s, const struct row *r, const struct store_result *result)
{
    int failed = result->values == NULL;
    int64_t n_tokens = r->line ? r->line->n_tokens : r->n_tokens;
    s->tally.next_seq++;
    s->tally.done++;
    s->tally.failed += failed;
    s->tally.copied += !failed && result->origin == ROW_COPIED;
    s->tally.cached += !failed && result->origin == ROW_CACHED;
    s->tally.tokens += n_tokens;
    s->queued_tokens -= n_tokens;
}

int store_finish_row(
    struct store *s, const struct row *r, const struct store_result *result, struct err *e)
{
    int failed = result->values == NULL;
    int rc = begin_tally(s, row_job(r->row), e);
    if (rc != 0 || s->tally.cancelled)
        return rc;
    rc = store_run(s, e, "update row set state = ? where row = ? and state = 0", "ii",
        (int64_t)(failed ? 2 : 1), r->row);
    if (rc != 0 || sqlite3_changes(s->db) == 0)
        return rc;
    rc = insert_result(s, r, result, e);
    if (rc != 0)
        return rc;
    count_result(s, r, result);
    return 1;
}

/* ---- rows that are the same ---- */

int store_finished_rows(struct store *s, int64_t job, int64_t after, uint32_t limit,
    store_row_visitor *visit, void *arg, struct err *e)
{
    int64_t low = row_number(job, 0) - 1;
    sqlite3_stmt *q = store_prepare(s,
        ROW_COLUMNS "from row join row_input on row_input.row = row.row where state <> 0 and "
                    "row.row > ? and row.row < ? order by row.row limit ?",
        "iii", after > low ? after : low, row_number(job + 1, 0), (int64_t)limit);
    return visit_rows(s, q, visit, arg, e);
}

int store_one_row(struct store *s, int64_t row, store_row_visitor *visit, void *arg, struct err *e)
{
    sqlite3_stmt *q = store_prepare(s,
        ROW_COLUMNS "from row join row_input on row_input.row = row.row where row.row = ?", "i",
        row);
    return visit_rows(s, q, visit, arg, e);
}

static const char *text_of(sqlite3_stmt *q, int i)
{
    return sqlite3_column_type(q, i) == SQLITE_NULL ? "" : (const char *)sqlite3_column_text(q, i);
}

int store_read_answer(struct store *s, int64_t row, struct store_answer *answer, struct err *e)
{
    sqlite3_stmt *q = store_prepare(s,
        "select score, vector, error_code, error_message from result indexed by result_row "
        "where row = ? and mode = ?",
        "ii", row, s->mode);
    int rc = store_step(s, q, e);
    if (rc != 1)
        return rc;
    int one = sqlite3_column_type(q, 0) != SQLITE_NULL;
    float score = (float)sqlite3_column_double(q, 0);
    const uint8_t *values = one ? (const uint8_t *)&score : sqlite3_column_blob(q, 1);
    answer->n_values = one ? 1 : (uint32_t)(sqlite3_column_bytes(q, 1) / (int)sizeof(float));
    if ((uint64_t)answer->from + answer->n <= answer->n_values)
        memcpy(answer->values, values + answer->from * sizeof(float), answer->n * sizeof(float));
    snprintf(answer->error_code, sizeof answer->error_code, "%s", text_of(q, 2));
    snprintf(answer->error_message, sizeof answer->error_message, "%s", text_of(q, 3));
    sqlite3_reset(q);
    return 1;
}

int store_set_worker(struct store *s, const struct store_worker *w, struct err *e)
{
    return store_run(s, e, "insert or replace into worker values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        "iiiissiiiii", (int64_t)w->group, (int64_t)w->rank, (int64_t)w->incarnation,
        (int64_t)w->pid, w->device, w->state, w->batches, w->restarts, (int64_t)now_wall_ms(),
        w->busy_us, w->up_us);
}
