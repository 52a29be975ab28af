/* store_work.c - rows on their way: queued rows out, batches, results in. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "broker/store_private.h"
#include "schema/log.h"

/* ---- queued rows ---- */

/* Rows on their way out: the bundle that holds the last one. */
struct reading {
    struct store *s;
    sqlite3_stmt *input; /* whose row has the bundle's columns */
    int64_t first;       /* number of the bundle's first row; 0: none yet */
    struct bundle bundle;
    store_row_visitor *visit;
    void *arg;
    uint32_t left; /* rows that are still wanted */
    int is_over;   /* rows in any state, among which are some that were born failed */
    int64_t last;  /* that was read, or was born failed */
};

/* Sequence `part` of the row that q stands on: n tokens from `from` on. */
static struct row *read_part(const struct reading *rd, sqlite3_stmt *q,
    const struct bundle_input *in, struct line *line, uint32_t part, uint32_t from, uint32_t n)
{
    uint32_t n_positions = in->n_positions;
    const uint8_t *positions = in->positions;
    struct bundle_input ids = {.from = in->from + from, .n_tokens = n};
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
    bundle_ids(&rd->bundle, &ids, r->ids);
    if (n_positions > 0)
        memcpy(r->positions, positions, n_positions * sizeof *r->positions);
    return r;
}

/* What was checked when the row came still holds: it has tokens, and positions among them. */
static int is_sound(const struct row *r)
{
    int sound = r->n_tokens > 0;
    for (uint32_t i = 0; i < r->n_positions; i++)
        sound &= (uint32_t)r->positions[i] < r->n_tokens;
    return sound;
}

static int bad_input(struct store *s, int64_t row, struct err *e)
{
    return err_set(e, ASSAY_EIO,
        "%s/assay.db: row %lld: expected its tokens, found a record that does not hold them",
        s->dir, (long long)row);
}

static struct slice column(sqlite3_stmt *q, int i)
{
    return (struct slice){sqlite3_column_blob(q, i), (size_t)sqlite3_column_bytes(q, i)};
}

/* Is the row, which has n_tokens, in the bundle? 1, and that is read; 0, or negative. */
static int read_bundle(struct reading *rd, int64_t row, uint32_t n_tokens, struct err *e)
{
    if (rd->first != 0 && row - rd->first < rd->bundle.n_rows)
        return 1;
    rd->first = 0;
    rd->input = store_prepare(rd->s,
        "select rows, ids, positions, ends, row from row_input where row <= ? "
        "order by row desc limit 1",
        "i", row);
    int rc = store_step(rd->s, rd->input, e);
    if (rc != 1)
        return rc;
    struct bundle_columns c = {
        column(rd->input, 0), column(rd->input, 1), column(rd->input, 2), column(rd->input, 3)};
    int64_t first = sqlite3_column_int64(rd->input, 4);
    if (row - first >= (c.rows.at ? (int64_t)(c.rows.len / 4) : 1))
        return 0;
    if (bundle_open(&rd->bundle, &c, n_tokens) != 0)
        return bad_input(rd->s, row, e);
    rd->first = first;
    return 1;
}

/* Sequence `part` to who asked for it. */
static int give_part(struct reading *rd, sqlite3_stmt *q, const struct bundle_input *in,
    struct line *line, uint32_t part, uint32_t from, uint32_t n, struct err *e)
{
    struct row *r = read_part(rd, q, in, line, part, from, n);
    if (is_sound(r)) {
        rd->visit(rd->arg, r);
        return 0;
    }
    row_free(&r);
    return bad_input(rd->s, sqlite3_column_int64(q, 0), e);
}

/* Its sequences, as many as `ends` says. */
static int read_parts(
    struct reading *rd, sqlite3_stmt *q, const struct bundle_input *in, struct err *e)
{
    struct line *line = line_new(in->n_ends, in->n_tokens);
    uint32_t from = 0, end;
    int rc = 0;
    line->refs = 1; /* ours, while they are made: one that is visited may be freed at once */
    for (uint32_t part = 0; rc == 0 && part < in->n_ends; part++, from = end) {
        memcpy(&end, in->ends + part * sizeof end, sizeof end);
        if (end < from || end > in->n_tokens || (in->n_positions > 0 && part >= in->n_positions))
            rc = bad_input(rd->s, sqlite3_column_int64(q, 0), e);
        else
            rc = give_part(rd, q, in, line, part, from, end - from, e);
    }
    line_unref(line);
    return rc;
}

/* The row that q stands on: one sequence, or more. */
static int read_row(struct reading *rd, sqlite3_stmt *q, struct err *e)
{
    int64_t row = sqlite3_column_int64(q, 0);
    uint32_t n_tokens = (uint32_t)sqlite3_column_int64(q, 6);
    struct bundle_input in = {0};
    rd->left--;
    rd->last = row;
    if (rd->is_over && sqlite3_column_int64(q, 4) == 0) /* born failed */
        return 0;
    int rc = read_bundle(rd, row, n_tokens, e);
    if (rc == 1)
        in = bundle_input(&rd->bundle, (uint32_t)(row - rd->first));
    if (rc < 0)
        return rc;
    if (rc == 0 || in.n_tokens != n_tokens)
        return bad_input(rd->s, row, e);
    if (in.n_ends > 0)
        return read_parts(rd, q, &in, e);
    return give_part(rd, q, &in, NULL, 0, 0, n_tokens, e);
}

/* Rows of one block: those whose bits are set. */
static int read_block(struct reading *rd, int64_t block, uint64_t bits, struct err *e)
{
    int64_t low = (block << 6) + __builtin_ctzll(bits);
    int64_t high = (block << 6) + 63 - __builtin_clzll(bits);
    sqlite3_stmt *q = store_prepare(rd->s,
        "select row, pool_type, activation, step_token, n_values, attempts, n_tokens from row "
        "where row between ? and ? order by row",
        "ii", low, high);
    int rc = 1;
    while (rd->left > 0 && (rc = store_step(rd->s, q, e)) == 1)
        if ((bits & row_bit(sqlite3_column_int64(q, 0))) && (rc = read_row(rd, q, e)) != 0)
            break;
    sqlite3_reset(q);
    return rc < 0 ? rc : 0;
}

static void end_reading(struct reading *rd)
{
    if (rd->input)
        sqlite3_reset(rd->input);
}

/* The job's rows behind `after` that are queued, or those that are not, in the blocks that `sql` selects. */
static int read_job(struct reading *rd, const char *sql, int64_t job, int64_t after, struct err *e)
{
    int64_t first = after < row_number(job, 0) ? row_number(job, 0) : after + 1;
    int rc = store_keep_blocks(rd->s, e);
    if (rc != 0)
        return rc;
    sqlite3_stmt *q =
        store_prepare(rd->s, sql, "ii", block_number(first), block_number(row_number(job + 1, 0)));
    while (rd->left > 0 && (rc = store_step(rd->s, q, e)) == 1) {
        int64_t block = sqlite3_column_int64(q, 0);
        uint64_t queued = (uint64_t)sqlite3_column_int64(q, 1);
        uint64_t bits = rd->is_over ? ~queued : queued;
        if (block == block_number(first))
            bits &= ~(row_bit(first) - 1);
        if (bits != 0 && (rc = read_block(rd, block, bits, e)) != 0)
            break;
    }
    sqlite3_reset(q);
    end_reading(rd);
    return rc < 0 ? rc : 0;
}

int store_queued_rows(struct store *s, int64_t job, int64_t after, uint32_t limit,
    store_row_visitor *visit, void *arg, struct err *e)
{
    struct reading rd = {.s = s, .visit = visit, .arg = arg, .left = limit};
    return read_job(&rd,
        "select block, queued from block indexed by block_queued "
        "where queued <> 0 and block >= ? and block < ? order by block",
        job, after, e);
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
        rc = store_row_runs(s, b->rows[i]->row, 1, e);
    return rc == 0 ? add_running(s, b, 1, e) : rc;
}

int store_batch_ended(struct store *s, const struct batch *b, int ok, struct err *e)
{
    int rc = store_run(s, e, "update batch set ms = ?, ok = ? where batch = ?", "iii", b->ms,
        (int64_t)ok, b->number);
    for (uint32_t i = 0; rc == 0 && i < b->n_rows; i++)
        rc = store_row_runs(s, b->rows[i]->row, 0, e);
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
    rc = store_row_is_over(s, r->row, failed, e);
    if (rc != 1)
        return rc;
    rc = insert_result(s, r, result, e);
    if (rc != 0)
        return rc;
    count_result(s, r, result);
    return 1;
}

/* ---- rows that are the same ---- */

int store_finished_rows(struct store *s, int64_t job, int64_t *after, uint32_t limit,
    store_row_visitor *visit, void *arg, struct err *e)
{
    struct reading rd = {
        .s = s, .visit = visit, .arg = arg, .left = limit, .is_over = 1, .last = *after};
    int rc = read_job(&rd,
        "select block, queued from block where queued <> -1 and block >= ? and block < ? "
        "order by block",
        job, *after, e);
    *after = rd.last;
    return rc == 0 ? rd.left == 0 : rc;
}

int store_one_row(struct store *s, int64_t row, store_row_visitor *visit, void *arg, struct err *e)
{
    struct reading rd = {.s = s, .visit = visit, .arg = arg, .left = 1, .is_over = 1};
    int rc = read_block(&rd, block_number(row), row_bit(row), e);
    end_reading(&rd);
    return rc;
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
    if (answer->n > 0 && (uint64_t)answer->from + answer->n <= answer->n_values)
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
