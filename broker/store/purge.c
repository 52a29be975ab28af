/* purge.c - removes finished jobs: the job at once, its space bit by bit.
 *
 * Purging deletes the job's record and writes its number into table purge, in one transaction. From
 * then on no view, no message and no part of the broker knows the job, and its key is free. Rows,
 * inputs and results are deleted in small steps between the broker's ticks, a few rows at a time in
 * the order of their numbers, so the next step always starts at the first row left: a broker that
 * was killed midway goes on after its restart. When none is left, the free pages go back to the
 * file system in the same small steps (pragma auto_vacuum=incremental); the file shrinks with the
 * next checkpoint.
 *
 * A job's number is never reused, or new rows would lie among those being deleted: meta keeps the
 * highest number purged.
 *
 * A job whose first rows are being written (store/ahead.c) has its number in table purge too, until
 * they are placed.
 *
 * A job may be ephemeral: table ephemeral says since when nobody needs it any more once it is over.
 * The broker purges it a while after that (retain.c).
 *
 * LIMITS: a database made before version 2 of the schema is not in incremental mode: its free pages
 * are reused, and the file does not shrink. */
#include "broker/store/private.h"
#include "schema/clock.h"

/* The next purged job. A number that a job has is not taken for a purged one, whatever table purge
 * says. */
#define NEXT                                                                                       \
    "select min(job) from purge where job between 1 and ? and job <> ? "                           \
    "and job not in (select job from job)"
#define ROWS 16 /* rows per step: each may have megabytes of tokens */
#define PIECES 4

/* Writes the jobs' numbers into table purge. */
static int mark_purged(struct store *s, int64_t job, int64_t before_ms, struct err *e)
{
    if (job != 0)
        return store_run(s, e,
            "insert into purge select job from job where job = ? and finished_ms <= ?", "ii", job,
            before_ms);
    return store_run(s, e,
        "insert into purge select job from job where finished_ms <= ? order by finished_ms limit ?",
        "ii", before_ms, (int64_t)STORE_PURGE_JOBS);
}

/* Runs the statement on this job, or on all that table purge has: those of other requests are there
 * until their rows are deleted, and would be looked at again for each job. */
#define ON_PURGED(text)                                                                            \
    (job != 0 ? text "= ?" : text "in (select job from purge where ? = 0)"), "i", job

int store_purge(
    struct store *s, int64_t job, int64_t before_ms, struct store_purged *out, struct err *e)
{
    int rc = mark_purged(s, job, before_ms, e);
    out->jobs = sqlite3_changes(s->db);
    out->more = out->jobs == STORE_PURGE_JOBS;
    out->rows = 0;
    if (rc != 0 || out->jobs == 0)
        return rc;
    rc = store_integer(s, 0, &out->rows, e, ON_PURGED("select sum(accepted) from job where job "));
    if (rc == 0)
        rc = store_run(s, e,
            "insert or replace into meta select 'last_job', "
            "max(ifnull((select value from meta where name = 'last_job'), 0), "
            "ifnull((select max(job) from purge), 0))",
            "");
    if (rc == 0)
        rc = store_run(s, e, ON_PURGED("delete from ephemeral where job "));
    return rc == 0 ? store_run(s, e, ON_PURGED("delete from job where job ")) : rc;
}

int store_set_ephemeral(struct store *s, int64_t job, int is_ephemeral, struct err *e)
{
    return is_ephemeral ? store_run(s, e, "insert or replace into ephemeral values (?, ?)", "ii",
                              job, (int64_t)now_wall_ms())
                        : store_run(s, e, "delete from ephemeral where job = ?", "i", job);
}

int store_over(
    struct store *s, int is_ephemeral, int64_t before_ms, int64_t *jobs, int most, struct err *e)
{
    sqlite3_stmt *q = is_ephemeral ? store_prepare(s,
                                         "select job from ephemeral join job using (job) "
                                         "where since_ms <= ?1 and finished_ms <= ?1 limit ?2",
                                         "ii", before_ms, (int64_t)most)
                                   : store_prepare(s,
                                         "select job from job where finished_ms <= ?1 "
                                         "order by finished_ms limit ?2",
                                         "ii", before_ms, (int64_t)most);
    int n = 0, rc;
    while ((rc = store_step(s, q, e)) == 1)
        jobs[n++] = sqlite3_column_int64(q, 0);
    sqlite3_reset(q);
    return rc < 0 ? rc : n;
}

static int count_free_pages(struct store *s, int64_t *n, struct err *e)
{
    return store_integer(s, 0, n, e, "pragma freelist_count", "");
}

int store_purge_waits(struct store *s, struct err *e)
{
    int64_t job, n = 0;
    int rc =
        store_integer(s, 0, &job, e, NEXT, "ii", (int64_t)STORE_LAST_JOB, store_ahead_number(s));
    if (rc == 0 && job > 0)
        return 2;
    if (rc == 0 && s->free_pages)
        rc = count_free_pages(s, &n, e);
    if (rc == 0)
        s->free_pages = n > 0;
    return rc == 0 ? s->free_pages : rc;
}

/* Deletes the first rows of the job: 1, or 0 when none are left. */
static int delete_rows(struct store *s, int64_t job, struct err *e)
{
    int64_t low = row_id_of(job, 0), last;
    int rc = store_integer(s, 0, &last, e,
        "select max(row) from (select row from row where row >= ? and row <= ? order by row limit "
        "?)",
        "iii", low, row_last(job), (int64_t)ROWS);
    if (rc == 0 && last == 0) /* the input of rows that were not written whole (store/ahead.c) */
        return store_run(
            s, e, "delete from row_input where row between ? and ?", "ii", low, row_last(job));
    if (rc != 0)
        return rc;
    rc = store_run(s, e, "delete from result where row between ? and ?", "ii", low, last);
    if (rc == 0)
        rc = store_run(s, e, "delete from row_input where row between ? and ?", "ii", low, last);
    if (rc == 0)
        rc = store_run(
            s, e, "delete from block where block between ? and ?", "ii", low >> 6, last >> 6);
    if (rc == 0)
        rc = store_run(s, e, "delete from row where row between ? and ?", "ii", low, last);
    return rc == 0 ? 1 : rc;
}

/* The same for its chunks, and before them for the pieces of kept ones. */
static int delete_chunks(struct store *s, int64_t job, struct err *e)
{
    int rc = store_run(s, e,
        "delete from piece where job = ?1 and (chunk, piece) in "
        "(select chunk, piece from piece where job = ?1 order by chunk, piece limit ?2)",
        "ii", job, (int64_t)PIECES);
    if (rc != 0 || sqlite3_changes(s->db) > 0)
        return rc == 0 ? 1 : rc;
    rc = store_run(s, e,
        "delete from chunk where job = ?1 and chunk in "
        "(select chunk from chunk where job = ?1 order by chunk limit ?2)",
        "ii", job, (int64_t)ROWS);
    if (rc != 0 || sqlite3_changes(s->db) > 0)
        return rc == 0 ? 1 : rc;
    return store_run(s, e, "delete from gone where job = ?", "i", job);
}

/* Cuts free pages off the end of the file until none is left or the time is up. */
static int give_back(struct store *s, long long deadline_ms, struct err *e)
{
    int64_t before, left;
    int rc = count_free_pages(s, &before, e), got;
    if (rc != 0)
        return rc;
    sqlite3_stmt *q = store_prepare(s, "pragma incremental_vacuum", ""); /* a step frees a page */
    do
        got = store_step(s, q, e);
    while (got == 1 && now_mono_ms() < deadline_ms);
    sqlite3_reset(q);
    if (got < 0)
        return got;
    s->changes = STORE_CHANGED_NOW;
    rc = count_free_pages(s, &left, e);
    s->free_pages = left > 0 && left < before;
    return rc;
}

int store_purge_step(struct store *s, long long budget_ms, struct err *e)
{
    long long deadline_ms = now_mono_ms() + budget_ms;
    int64_t job;
    do {
        int rc = store_integer(
            s, 0, &job, e, NEXT, "ii", (int64_t)STORE_LAST_JOB, store_ahead_number(s));
        if (rc == 0 && job == 0)
            return give_back(s, deadline_ms, e);
        if (rc == 0)
            rc = delete_rows(s, job, e);
        if (rc == 0)
            rc = delete_chunks(s, job, e);
        if (rc == 0)
            rc = store_run(s, e, "delete from purge where job = ?", "i", job);
        if (rc < 0)
            return rc;
        s->free_pages = 1;
    } while (now_mono_ms() < deadline_ms);
    return 0;
}
