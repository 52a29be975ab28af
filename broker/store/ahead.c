/* ahead.c - rows that are written ahead: before the transaction that accepts their chunk. Or bytes.
 *
 * A large chunk takes long to write. So its rows and their input are written bit by bit, in
 * transactions of their own; the one that accepts the chunk adds what makes them count: the chunk's
 * record, the states of the rows, the job's counters, results of rows that are born failed. Until
 * then nobody sees them, for their numbers lie behind the job's placed rows, and no block of states
 * has them: rows of the block that the job's last row is in are left for the end.
 *
 * Of a chunk that is to be kept, the pieces are written (store/pending.c) and no rows. Nobody sees
 * them before the chunk's record says that it is kept.
 *
 * One chunk at a time is written ahead. A new job gets its number before and its record after: the
 * number is kept in table purge meanwhile, so if the chunk is never accepted, even after a kill,
 * the rows are deleted like those of a purged job. Rows left behind the placed ones of a job that
 * goes on are deleted before others take their numbers, and at each start. */
#include "broker/store/private.h"
#include "schema/clock.h"
#include "schema/log.h"

#define INPUTS 16 /* per step of deleting: 64 rows each */
#define ROWS 1024

/* Whether rows may lie behind those that this job has placed. */
static int has_left_some(const struct store_ahead *a)
{
    return a->job != 0 && !a->rows && !a->is_taken;
}

int64_t store_ahead_number(const struct store *s)
{
    const struct store_ahead *a = &s->ahead;
    return has_left_some(a) ? 0 : a->job;
}

/* ---- rows that were not placed ---- */

int store_drop_unplaced(struct store *s, int64_t job, int64_t placed, struct err *e)
{
    int64_t first = row_id_of(job, 0) + placed, last = row_last(job);
    int rc = store_run(s, e, "delete from row_input where row between ? and ?", "ii", first, last);
    return rc == 0 ? store_run(s, e, "delete from row where row between ? and ?", "ii", first, last)
                   : rc;
}

/* Deletes some of them: 1, or 0 when there are none. */
static int drop_some(struct store *s, int64_t first, int64_t last, struct err *e)
{
    int rc = store_run(s, e,
        "delete from row_input where row in "
        "(select row from row_input where row between ? and ? limit ?)",
        "iii", first, last, (int64_t)INPUTS);
    int n = sqlite3_changes(s->db);
    if (rc == 0)
        rc = store_run(s, e,
            "delete from row where row in (select row from row where row between ? and ? limit ?)",
            "iii", first, last, (int64_t)ROWS);
    return rc == 0 ? n + sqlite3_changes(s->db) > 0 : rc;
}

/* Deletes what s->ahead has left, until the time is up: 1, and 0 when nothing was left by earlier
 * transactions. */
static int drop_left(struct store *s, long long until_us, struct err *e)
{
    int64_t placed, job = s->ahead.job;
    if (s->ahead.in_pieces) /* a job that was not made is being purged */
        return s->ahead.is_new ? 0 : store_drop_pieces(s, job, s->ahead.chunk, until_us, e);
    int rc = store_integer(s, -1, &placed, e, "select placed from job where job = ?", "i", job);
    if (rc != 0 || placed < 0) /* no such job: its rows are being purged */
        return rc;
    int64_t first = row_id_of(job, 0) + placed;
    int some = 0;
    while ((rc = drop_some(s, first, row_last(job), e)) == 1) {
        some = 1;
        if (now_mono_us() >= until_us)
            break;
    }
    return rc < 0 ? rc : some;
}

/* ---- rows to be placed ---- */

/* Gives a job that is to be made its number. */
static int reserve_number(struct store *s, int64_t *job, struct err *e)
{
    int rc = store_next_number(s, job, e);
    if (rc == 0)
        rc = store_run(s, e, "insert into purge values (?)", "i", *job);
    if (rc == 0)
        rc = store_run(s, e, "insert or replace into meta values ('last_job', ?)", "i", *job);
    return rc;
}

/* For a job that does not exist. */
static int find_new(struct store *s, const struct store_ahead_of *of, struct err *e)
{
    int64_t job;
    int rc = reserve_number(s, &job, e);
    if (rc == 0)
        s->ahead = (struct store_ahead){.job = job, .first = row_id_of(job, 0), .is_new = 1};
    s->ahead.in_pieces = of->is_slow || of->chunk != 0;
    return rc == 0 ? 1 : rc;
}

/* Whether this chunk is there: 1, or 0. */
static int has_chunk(struct store *s, int64_t job, uint32_t chunk, struct err *e)
{
    int64_t there;
    int rc = store_integer(s, 0, &there, e, "select 1 from chunk where job = ? and chunk = ?", "ii",
        job, (int64_t)chunk);
    return rc == 0 ? (int)there : rc;
}

/* For a job that exists. */
static int find_old(struct store *s, const struct store_ahead_of *of, int64_t job, struct err *e)
{
    int64_t next, placed;
    int rc = store_integer(
        s, -1, &next, e, "select next_chunk from job where job = ? and cancelled = 0", "i", job);
    if (rc == 0 && next >= 0)
        rc = has_chunk(s, job, of->chunk, e);
    if (rc != 0 || next < 0 || next > of->chunk)
        return rc < 0 ? rc : 0;
    rc = store_integer(s, 0, &placed, e, "select placed from job where job = ?", "i", job);
    int in_pieces = of->is_slow || next < of->chunk;
    if (rc != 0 || (!in_pieces && placed + of->n_rows > UINT32_MAX))
        return rc;
    s->ahead = (struct store_ahead){
        .job = job, .first = row_id_of(job, 0) + placed, .in_pieces = in_pieces};
    return 1;
}

/* Finds where the chunk's rows or pieces will lie: 1, or 0 when they are not to be written. */
static int find_place(struct store *s, const struct store_ahead_of *of, struct err *e)
{
    int64_t job = 0;
    s->ahead = (struct store_ahead){0};
    int rc = of->key.at ? store_find_job(s, of->key, &job, e) : 0;
    if (rc >= 0)
        rc = rc == 0 ? find_new(s, of, e) : find_old(s, of, job, e);
    if (rc == 1) {
        s->ahead.rows = of->rows;
        s->ahead.chunk = of->chunk;
    }
    return rc;
}

static int write_some(
    struct store *s, const struct store_ahead_of *of, long long until_us, struct err *e)
{
    struct store_ahead *a = &s->ahead;
    struct store_chunk c = {.job = a->job, .chunk = of->chunk, .rows = of->encoded};
    return a->in_pieces ? store_write_pieces(s, &c, &a->n_bytes, until_us, e)
                        : store_write_rows(s, a->first, a->rows, &a->written, until_us, e);
}

int store_write_ahead(
    struct store *s, const struct store_ahead_of *of, long long budget_us, struct err *e)
{
    struct store_ahead *a = &s->ahead;
    long long until_us = now_mono_us() + budget_us;
    int rc = 1;
    if (a->rows != of->rows) {
        rc = has_left_some(a) ? drop_left(s, until_us, e) : 0;
        if (rc == 0)
            rc = find_place(s, of, e);
        else if (rc > 0)
            return rc;
    }
    if (rc == 1)
        rc = write_some(s, of, until_us, e);
    a->is_whole = a->rows && rc == 0;
    return rc;
}

void store_forget_ahead(struct store *s)
{
    s->ahead.rows = NULL;
}

int64_t store_job_ahead(const struct store *s, const struct store_rows *rows)
{
    const struct store_ahead *a = &s->ahead;
    return rows && a->rows == rows && a->is_whole && a->is_new ? a->job : 0;
}

int store_take_ahead(
    struct store *s, int64_t job, int64_t first, const struct store_rows *rows, struct err *e)
{
    struct store_ahead *a = &s->ahead;
    if (a->job != job || a->in_pieces)
        return 0;
    int are_there = a->rows == rows && a->is_whole && a->first == first;
    a->rows = NULL; /* later ones might lie in the same memory */
    a->is_taken |= are_there;
    return are_there ? 1 : store_drop_unplaced(s, job, first - row_id_of(job, 0), e);
}

int store_take_pieces(struct store *s, const struct store_chunk *c, struct err *e)
{
    struct store_ahead *a = &s->ahead;
    size_t n = 0;
    int are_there =
        a->in_pieces && a->job == c->job && a->chunk == c->chunk && a->rows && a->is_whole;
    if (are_there)
        a->rows = NULL;
    a->is_taken |= are_there;
    return are_there ? 0 : store_write_pieces(s, c, &n, INT64_MAX, e);
}

void store_end_ahead(struct store *s, int kept)
{
    if (s->ahead.is_taken && kept)
        s->ahead = (struct store_ahead){0};
    s->ahead.is_taken = 0;
}
