/* store_jobs.c - jobs: made, found, read, and what is done to one as a whole. */
#include <stdio.h>
#include <string.h>

#include "broker/store_private.h"
#include "schema/log.h"

int store_find_job(struct store *s, struct slice key, int64_t *job, struct err *e)
{
    int rc = store_integer(s, -1, job, e, "select job from job where key = ?", "t", key);
    return rc != 0 ? rc : *job >= 0;
}

int store_new_job(
    struct store *s, struct slice key, int priority, struct slice meta, int64_t *job, struct err *e)
{
    int rc = store_run(s, e,
        "insert into job(job, key, priority, meta, mode, created_ms) select 1 + max("
        "ifnull((select max(job) from job), 0), "
        "ifnull((select value from meta where name = 'last_job'), 0)), ?, ?, ?, ?, ?",
        "tibii", key, (int64_t)priority, meta, s->mode, (int64_t)now_wall_ms());
    *job = sqlite3_last_insert_rowid(s->db);
    if (rc == 0 && *job > INT32_MAX)
        rc = err_set(e, ASSAY_EIO, "job numbers are used up");
    return rc;
}

#define JOB_COLUMNS                                                                                \
    "select job, key, priority, paused, cancelled, seal_chunk, next_chunk, accepted, placed, "     \
    "done, failed, running, rate, created_ms, finished_ms, mode, copied, cached, fresh from job "

static enum job_state state_of(const struct store_job *j)
{
    if (j->cancelled)
        return JOB_CANCELLED;
    if (j->paused || j->held)
        return JOB_PAUSED;
    if (j->sealed && j->done == j->placed)
        return JOB_DONE;
    if (!j->sealed)
        return JOB_OPEN;
    return j->running > 0 ? JOB_RUNNING : JOB_QUEUED;
}

static void read_reason(struct store *s, int64_t mode, struct store_job *j)
{
    sqlite3_stmt *q = store_prepare(s, "select digest, text from mode where mode = ?", "i", mode);
    if (store_step(s, q, NULL) != 1)
        return;
    snprintf(j->reason, sizeof j->reason,
        "made with checkpoint %.12s (%.80s), the broker runs %.12s (%.80s)",
        (const char *)sqlite3_column_text(q, 0), (const char *)sqlite3_column_text(q, 1),
        s->options.digest, s->options.mode);
    sqlite3_reset(q);
}

static void read_job(struct store *s, sqlite3_stmt *q, struct store_job *j)
{
    memset(j, 0, sizeof *j);
    j->job = sqlite3_column_int64(q, 0);
    snprintf(j->key, sizeof j->key, "%s", (const char *)sqlite3_column_text(q, 1));
    j->priority = sqlite3_column_int(q, 2);
    j->paused = sqlite3_column_int(q, 3);
    j->cancelled = sqlite3_column_int(q, 4);
    j->sealed = sqlite3_column_type(q, 5) != SQLITE_NULL &&
                sqlite3_column_int64(q, 6) > sqlite3_column_int64(q, 5);
    j->accepted = sqlite3_column_int64(q, 7);
    j->placed = sqlite3_column_int64(q, 8);
    j->total = j->sealed ? j->placed : -1;
    j->done = sqlite3_column_int64(q, 9);
    j->failed = sqlite3_column_int64(q, 10);
    j->running = sqlite3_column_int64(q, 11);
    j->rate = sqlite3_column_double(q, 12);
    j->created_ms = sqlite3_column_int64(q, 13);
    j->finished_ms = sqlite3_column_int64(q, 14);
    if (j->finished_ms > j->created_ms) /* over: the rate of its whole life */
        j->rate = (double)j->done * 1000 / (double)(j->finished_ms - j->created_ms);
    int64_t mode = sqlite3_column_int64(q, 15);
    j->copied = sqlite3_column_int64(q, 16);
    j->cached = sqlite3_column_int64(q, 17);
    j->fresh = sqlite3_column_int(q, 18);
    sqlite3_reset(q);
    /* What is finished is not held: there is nothing left to score under another mode. */
    j->held = mode != s->mode && !(j->sealed && j->done == j->placed);
    j->made_otherwise = mode != s->mode && !j->held;
    if (mode != s->mode)
        read_reason(s, mode, j);
    j->state = state_of(j);
}

int store_get_job(struct store *s, int64_t job, struct store_job *out, struct err *e)
{
    sqlite3_stmt *q = store_prepare(s, JOB_COLUMNS "where job = ?", "i", job);
    int rc = store_step(s, q, e);
    if (rc == 1)
        read_job(s, q, out);
    return rc;
}

int store_each_job(struct store *s, int64_t after, uint32_t limit, int unfinished,
    store_job_visitor *visit, void *arg, struct err *e)
{
    struct store_job j;
    while (limit-- > 0) {
        sqlite3_stmt *q =
            unfinished
                ? store_prepare(s,
                      JOB_COLUMNS "indexed by job_unfinished where job > ? and finished_ms is "
                                  "null order by job limit 1", /* a cancelled one is finished */
                      "i", after)
                : store_prepare(s, JOB_COLUMNS "where job > ? order by job limit 1", "i", after);
        int rc = store_step(s, q, e);
        if (rc != 1)
            return rc;
        read_job(s, q, &j);
        after = j.job;
        if (visit(arg, &j) != 0)
            break;
    }
    return 0;
}

int store_cancel(struct store *s, int64_t job, struct err *e)
{
    int64_t left;
    int rc = store_integer(
        s, 0, &left, e, "select tokens_left from job where job = ? and not cancelled", "i", job);
    if (rc != 0)
        return rc;
    s->queued_tokens -= left;
    return store_run(s, e,
        "update job set cancelled = 1, running = 0, finished_ms = ? where job = ? and finished_ms "
        "is null",
        "ii", (int64_t)now_wall_ms(), job);
}

int store_pause(struct store *s, int64_t job, int paused, struct err *e)
{
    return store_run(s, e, "update job set paused = ? where job = ?", "ii", (int64_t)paused, job);
}

int store_accept_mode(struct store *s, int64_t job, struct err *e)
{
    return store_run(s, e, "update job set mode = ? where job = ?", "ii", s->mode, job);
}

int store_set_fresh(struct store *s, int64_t job, struct err *e)
{
    return store_run(s, e, "update job set fresh = 1 where job = ?", "i", job);
}

int store_set_rate(struct store *s, int64_t job, double rows_per_s, struct err *e)
{
    return store_run(s, e, "update job set rate = ? where job = ?", "di", rows_per_s, job);
}

/* Rows that were refused when they came (n_values 0) stay failed: their content will not change. */
static int retry_row(struct store *s, int64_t row, int64_t *n, int64_t *tokens, struct err *e)
{
    int64_t n_tokens;
    int rc = store_integer(
        s, -1, &n_tokens, e, "select n_tokens from row where row = ? and n_values > 0", "i", row);
    if (rc != 0 || n_tokens < 0)
        return rc;
    rc = store_run(s, e, "delete from result indexed by result_row where row = ?", "i", row);
    if (rc == 0)
        rc = store_run(s, e, "update row set attempts = 0 where row = ?", "i", row);
    if (rc == 0)
        rc = store_row_is_queued_again(s, row, e);
    *n += 1;
    *tokens += n_tokens;
    return rc;
}

/* The first block from *block on, and before `end`, with a failed row: 1 and which are, or 0. */
static int next_failed(
    struct store *s, int64_t *block, int64_t end, uint64_t *failed, struct err *e)
{
    sqlite3_stmt *q = store_prepare(s,
        "select block, failed from block indexed by block_failed "
        "where failed <> 0 and block >= ? and block < ? order by block limit 1",
        "ii", *block, end);
    int rc = store_step(s, q, e);
    if (rc != 1)
        return rc;
    *block = sqlite3_column_int64(q, 0);
    *failed = (uint64_t)sqlite3_column_int64(q, 1);
    sqlite3_reset(q);
    return 1;
}

int store_retry(struct store *s, int64_t job, int64_t *n, struct err *e)
{
    int64_t block = block_number(row_number(job, 0)), end = block_number(row_number(job + 1, 0));
    int64_t tokens = *n = 0;
    uint64_t failed;
    int rc = store_keep_blocks(s, e);
    for (; rc == 0 && (rc = next_failed(s, &block, end, &failed, e)) == 1; block++)
        for (rc = 0; rc == 0 && failed != 0; failed &= failed - 1)
            rc = retry_row(s, (block << 6) + __builtin_ctzll(failed), n, &tokens, e);
    if (rc != 0 || *n == 0)
        return rc;
    s->queued_tokens += tokens;
    return store_run(s, e,
        "update job set done = done - ?1, failed = failed - ?1, tokens_left = tokens_left + ?2, "
        "finished_ms = null where job = ?3",
        "iii", *n, tokens, job);
}
