/* batches.c - records which batches run, and on which workers: for the views, but for a row's
 * attempts. */
#include "broker/store/private.h"
#include "schema/clock.h"

#define DROPPED 2 /* old records for each new one */

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

/* Records the batch, and drops the oldest records beyond those that are kept: two at a time, or a
 * database that has far more would hold up this one. */
int store_batch_started(
    struct store *s, struct batch *b, int group, uint64_t incarnation, struct err *e)
{
    b->number = s->next_batch++;
    int rc = store_run(s, e,
        "insert into batch(batch, worker_group, incarnation, n_rows, n_tokens, started_ms) values "
        "(?, ?, ?, ?, ?, ?)",
        "iiiiii", b->number, (int64_t)group, (int64_t)incarnation, (int64_t)b->n_rows,
        (int64_t)b->n_tokens, b->started_wall_ms);
    if (rc == 0)
        rc = store_run(s, e,
            "delete from batch where batch in "
            "(select batch from batch where batch <= ? order by batch limit ?)",
            "ii", b->number - STORE_BATCHES, (int64_t)DROPPED);
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

int store_set_worker(struct store *s, const struct store_worker *w, struct err *e)
{
    return store_run(s, e,
        "insert or replace into worker values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", "iiiissiiiiis",
        (int64_t)w->group, (int64_t)w->rank, (int64_t)w->incarnation, (int64_t)w->pid, w->device,
        w->state, w->batches, w->restarts, (int64_t)now_wall_ms(), w->busy_us, w->up_us, w->model);
}

int store_drop_workers(struct store *s, int group, struct err *e)
{
    return store_run(s, e, "delete from worker where worker_group = ?", "i", (int64_t)group);
}
