/* retry.c - queues a job's failed rows again, in parts (store.h). */
#include "broker/store/private.h"
#include "schema/clock.h"

/* Queues a failed row again: 1, or 0 when it stays failed. A row that was refused on arrival
 * (n_values 0) does, as its content will not change; so does a damaged one. */
static int retry_row(struct store *s, int64_t row, int64_t *tokens, struct err *e)
{
    int64_t n_tokens;
    int rc = store_integer(s, -1, &n_tokens, e,
        "select n_tokens from row where row = ?1 and n_values > 0 and not exists (select 1 from "
        "result indexed by result_row where result.row = ?1 and error_code = 'damaged')",
        "i", row);
    if (rc != 0 || n_tokens < 0)
        return rc;
    rc = store_run(s, e,
        "insert or ignore into gone select job, seq from result indexed by result_row where row = "
        "?",
        "i", row);
    if (rc == 0)
        rc = store_run(s, e, "delete from result indexed by result_row where row = ?", "i", row);
    if (rc == 0)
        rc = store_run(s, e, "update row set attempts = 0 where row = ?", "i", row);
    if (rc == 0)
        rc = store_row_is_queued_again(s, row, e);
    *tokens += n_tokens;
    return rc < 0 ? rc : 1;
}

/* The first block from *block to `end` with a failed row: 1 with *block and the bits in *failed, or
 * 0. */
static int next_failed(
    struct store *s, int64_t *block, int64_t end, uint64_t *failed, struct err *e)
{
    sqlite3_stmt *q = store_prepare(s,
        "select block, failed from block indexed by block_failed "
        "where failed <> 0 and block >= ? and block <= ? order by block limit 1",
        "ii", *block, end);
    int rc = store_step(s, q, e);
    if (rc != 1)
        return rc;
    *block = sqlite3_column_int64(q, 0);
    *failed = (uint64_t)sqlite3_column_int64(q, 1);
    sqlite3_reset(q);
    return 1;
}

/* Queues rows whose results are damaged, by rebuilding all of the job's states. */
static int retry_damaged(struct store *s, int64_t job, struct store_retried *out, struct err *e)
{
    struct store_job before, after;
    int agree = store_states_agree(s, job, e);
    for (int i = 0; i < STORE_DAMAGED; i++)
        if (s->damaged[i] == job)
            agree = s->damaged[i] = 0;
    if (agree != 0)
        return agree < 0 ? agree : 0;
    int rc = store_get_job(s, job, &before, e);
    if (rc == 1)
        rc = store_mend_job(s, job, 1, e);
    if (rc == 0)
        rc = store_get_job(s, job, &after, e);
    if (rc == 1 && before.done > after.done)
        out->rows += before.done - after.done;
    return rc < 0 ? rc : 0;
}

/* Retries a block's failed rows, of which it counts those that are queued again. */
static int retry_block(struct store *s, int64_t block, uint64_t failed, struct store_retried *out,
    int64_t *tokens, struct err *e)
{
    int rc = 0;
    for (; rc >= 0 && failed != 0; failed &= failed - 1) {
        rc = retry_row(s, (block << 6) + __builtin_ctzll(failed), tokens, e);
        out->rows += rc == 1;
        out->kept += rc == 0;
    }
    return rc < 0 ? rc : 0;
}

static int note_retried(struct store *s, int64_t job, int64_t n, int64_t tokens, struct err *e)
{
    int rc = n > 0 ? store_accept_adapters(s, job, 0, e) : 0;
    if (rc != 0 || n == 0)
        return rc;
    s->queued_tokens += tokens;
    return store_run_job(s, job, JOB_COUNTED, e,
        "update job set done = done - ?1, failed = failed - ?1, tokens_left = tokens_left + ?2, "
        "finished_ms = null where job = ?3",
        "iii", n, tokens, job);
}

int store_retry(
    struct store *s, int64_t job, long long until_us, struct store_retried *out, struct err *e)
{
    int64_t block = block_number(row_id_of(job, 0)), end = block_number(row_last(job)), tokens = 0;
    uint64_t failed;
    int is_late = 0, rc = store_keep_blocks(s, e);
    if (rc == 0 && out->next == 0)
        rc = retry_damaged(s, job, out, e);
    int64_t before = out->rows;
    if (out->next > block)
        block = out->next;
    for (; rc == 0 && !is_late && (rc = next_failed(s, &block, end, &failed, e)) == 1; block++) {
        rc = retry_block(s, block, failed, out, &tokens, e);
        is_late = now_mono_us() >= until_us;
    }
    out->next = block;
    if (rc == 0)
        rc = note_retried(s, job, out->rows - before, tokens, e);
    return rc == 0 ? is_late : rc;
}
