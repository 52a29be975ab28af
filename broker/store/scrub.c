/* scrub.c - see scrub.h.
 *
 * First it checks that the log has all that was synced to it (store/wal.c). Then pragma
 * integrity_check reads every page and compares every index with its table. Then each job is read
 * as the broker reads it: its record, its rows with their input, the states of its rows and its
 * counters, its chunks, its results. One read transaction spans it all, so that a running broker
 * does not change the data under comparison. */
#include "broker/store/scrub.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "broker/store/private.h"
#include "schema/alloc.h"
#include "schema/utf8.h"

#define PAGE_STEPS 100000
#define PAGE_ROWS 1000

struct scrub {
    struct store *s;
    const struct scrub_caller *caller;
    struct scrub_totals *totals;
    int64_t job, done, total;
    char key[201];
    int ended;
    uint64_t cursor; /* the last result's */
};

static void find(struct scrub *c, int64_t i, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
static void find(struct scrub *c, int64_t i, const char *fmt, ...)
{
    char what[400];
    va_list args;
    va_start(args, fmt);
    vsnprintf(what, sizeof what, fmt, args);
    va_end(args);
    utf8_make_printable(what);
    c->totals->damaged++;
    c->caller->found(c->caller->arg, &(struct scrub_finding){c->job, c->key, i, what});
}

static void go_on(struct scrub *c, int64_t n)
{
    c->done += n;
    c->ended |= c->caller->progress(c->caller->arg, c->done, c->total);
}

/* A query that SQLite cannot answer is a finding; the next one may work. */
static void note_failure(struct scrub *c, const char *what, int rc, const struct err *e)
{
    if (rc < 0)
        find(c, -1, "%s cannot be read: %s", what, e->msg);
}

/* ---- the file ---- */

static int tick(void *arg)
{
    struct scrub *c = arg;
    return c->caller->progress(c->caller->arg, -1, c->total);
}

static void check_file(struct scrub *c)
{
    struct err e;
    int rc;
    sqlite3_progress_handler(c->s->db, PAGE_STEPS, tick, c);
    sqlite3_stmt *q = store_prepare(c->s, "pragma integrity_check(1000)", "");
    while ((rc = store_step(c->s, q, &e)) == 1) {
        const char *text = (const char *)sqlite3_column_text(q, 0);
        if (text && strcmp(text, "ok") != 0)
            find(c, -1, "the file: %.300s", text);
    }
    sqlite3_reset(q);
    sqlite3_progress_handler(c->s->db, 0, NULL, NULL);
    if (rc < 0 && (sqlite3_errcode(c->s->db) & 0xff) == SQLITE_INTERRUPT)
        c->ended = 1;
    else
        note_failure(c, "the file", rc, &e);
}

/* Checks the log unless a broker is running: its log grows and restarts meanwhile, and was checked
 * when the broker started. The lock is held during the check; a broker that starts then waits for
 * it briefly, if the lock file names an earlier broker (store/lock.c). */
static void check_log(struct scrub *c, const char *dir)
{
    struct err e;
    char path[4200];
    struct wal_point p;
    snprintf(path, sizeof path, "%s/lock", dir);
    int fd = open(path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0 || flock(fd, LOCK_SH | LOCK_NB) == 0) {
        int rc = store_wal_check(dir, &p, &e);
        if (rc == ASSAY_EFORMAT || rc == ASSAY_EDAMAGED)
            find(c, -1, "%s", e.msg);
        else
            note_failure(c, "the log", rc, &e);
    }
    if (fd >= 0)
        close(fd);
}

/* ---- a job ---- */

static void check_counters(struct scrub *c)
{
    struct err e;
    int rc = store_states_agree(c->s, c->job, &e);
    note_failure(c, "states of the rows", rc, &e);
    if (rc == 0)
        find(c, -1, "states of its rows and its counters do not agree, or are damaged");
}

/* Whether the record of a kept chunk has another number of bytes than its pieces. */
static void check_pending_bytes(struct scrub *c, const struct store_pending *p)
{
    int64_t bytes;
    int rc = store_integer(c->s, 0, &bytes, NULL,
        "select pending from chunk where job = ? and chunk = ?", "ii", c->job, (int64_t)p->chunk);
    if (rc != 0 || bytes != (int64_t)p->bytes)
        find(c, -1, "the number of bytes of chunk %" PRIu32 ", which waits", p->chunk);
}

/* Checks the pieces of each chunk that is kept. */
static void check_pending(struct scrub *c)
{
    struct err e;
    struct store_pending p;
    int rc;
    for (int64_t after = -1; (rc = store_pending_above(c->s, c->job, after, &p, &e)) == 1;
         after = p.chunk) {
        uint8_t *bytes = xcalloc(1, p.bytes + 1);
        rc = store_read_pending(c->s, &p, bytes, INT64_MAX, &e);
        if (rc < 0 || !store_pending_is_sound(&p, bytes))
            find(c, -1, "rows of chunk %" PRIu32 ", which waits", p.chunk);
        check_pending_bytes(c, &p);
        free(bytes);
    }
    note_failure(c, "rows of chunks that wait", rc, &e);
}

static void check_chunks(struct scrub *c, int64_t accepted)
{
    struct err e;
    int64_t n_rows = 0;
    int rc;
    sqlite3_stmt *q =
        store_prepare(c->s, "select " STORE_CHUNK_COLUMNS "from chunk where job = ?", "i", c->job);
    while ((rc = store_step(c->s, q, &e)) == 1) {
        int64_t n = sqlite3_column_int64(q, 1);
        n_rows += n >= 0 && n <= UINT32_MAX ? n : 0;
        if (!store_chunk_is_sound(q, c->job, 0))
            find(c, -1, "the record of chunk %" PRId64, (int64_t)sqlite3_column_int64(q, 0));
    }
    note_failure(c, "chunks", rc, &e);
    if (rc == 0 && n_rows != accepted)
        find(c, -1, "expected %" PRId64 " rows in its chunks, found %" PRId64, accepted, n_rows);
}

static void see_row(void *arg, struct sequence *r)
{
    struct scrub *c = arg;
    if (r->found_error)
        find(c, row_index(r->row_id), "the row");
    sequence_free(&r);
}

static void check_rows(struct scrub *c, int64_t placed)
{
    struct err e;
    for (int64_t i = 0; i < placed && !c->ended; i += PAGE_ROWS) {
        int64_t end = i + PAGE_ROWS < placed ? i + PAGE_ROWS : placed;
        int rc = store_rows_between(c->s, row_id_of(c->job, (uint32_t)i),
            row_id_of(c->job, (uint32_t)(end - 1)), see_row, c, &e);
        note_failure(c, "rows", rc, &e);
        c->totals->rows += end - i;
        go_on(c, end - i);
    }
}

static int see_result(void *arg, const struct store_result_row *r)
{
    struct scrub *c = arg;
    if (r->error_code && strcmp(r->error_code, "damaged") == 0)
        find(c, r->i, "the result at cursor %" PRIu64 ": %s", r->cursor, r->error_message);
    c->cursor = r->cursor;
    c->totals->results++;
    return 0;
}

/* Moves c->cursor to just before the next result after a gap: 1, or 0 when there is none. */
static int pass_gap(struct scrub *c)
{
    int64_t next;
    int rc = store_integer(c->s, 0, &next, NULL,
        "select min(seq) from result where job = ? and seq > ?", "ii", c->job, (int64_t)c->cursor);
    int64_t first = (int64_t)c->cursor + 1;
    if (rc != 0 || next <= first)
        find(c, -1, "results from cursor %" PRId64 " on are missing", first);
    else
        find(c, -1, "results at the cursors %" PRId64 " to %" PRId64 " are missing", first,
            next - 1);
    c->cursor = (uint64_t)next - 1;
    return rc == 0 && next > first;
}

static void check_results(struct scrub *c)
{
    struct err e;
    int goes_on = 1;
    c->cursor = 0;
    while (goes_on && !c->ended) {
        int64_t before = c->totals->results;
        int rc = store_each_result(
            c->s, &(struct store_page){c->job, c->cursor, PAGE_ROWS}, see_result, c, &e);
        go_on(c, c->totals->results - before);
        goes_on = rc >= 0 ? rc : rc == ASSAY_EINTERNAL && pass_gap(c);
        if (rc != ASSAY_EINTERNAL)
            note_failure(c, "results", rc, &e);
    }
}

/* Checks that the JSON that views show of a vector matches its numbers. */
static void check_shown(struct scrub *c)
{
    struct err e;
    int rc;
    sqlite3_stmt *q = store_prepare(c->s,
        "select row, vector, vector_json from result where job = ? and vector is not null", "i",
        c->job);
    while ((rc = store_step(c->s, q, &e)) == 1) {
        struct slice vector = {sqlite3_column_blob(q, 1), (size_t)sqlite3_column_bytes(q, 1)};
        const char *shown = (const char *)sqlite3_column_text(q, 2);
        float *values = xcalloc(1, vector.len + sizeof *values);
        memcpy(values, vector.at, vector.len);
        char *json = store_vector_json(values, (uint32_t)(vector.len / sizeof *values));
        if (!shown || strcmp(shown, json) != 0)
            find(c, row_index(sqlite3_column_int64(q, 0)), "what SQL shows of its values");
        free(json);
        free(values);
    }
    note_failure(c, "results", rc, &e);
}

/* Rows between the last job and row `end` belong to no job, unless they are being purged. */
static void check_between(struct scrub *c, int64_t before, int64_t end)
{
    int64_t row;
    int rc = store_integer(c->s, 0, &row, NULL,
        "select min(row) from row where row > ? and row < ? "
        "and (row >> 32) not in (select job from purge)",
        "ii", row_last(before), end);
    c->job = 0;
    c->key[0] = '\0';
    if (rc == 0 && row != 0)
        find(c, -1, "rows of job %" PRId64 ", which is not there", row_job(row));
}

/* Chunks and their pieces of a job that is not there, and not being purged. */
static void check_lost(struct scrub *c)
{
    struct err e;
    int rc;
    sqlite3_stmt *q = store_prepare(c->s,
        "select job from (select job from chunk union select job from piece) "
        "where job not in (select job from job) and job not in (select job from purge)",
        "");
    c->job = 0;
    c->key[0] = '\0';
    while ((rc = store_step(c->s, q, &e)) == 1)
        find(c, -1, "chunks of job %" PRId64 ", which is not there",
            (int64_t)sqlite3_column_int64(q, 0));
    note_failure(c, "chunks", rc, &e);
}

static void check_job(struct scrub *c, int64_t placed, int64_t accepted, int damage)
{
    c->totals->jobs++;
    if (damage & JOB_SAID)
        find(c, -1, "its record: key, priority, seal or mode");
    if (damage & JOB_COUNTED)
        find(c, -1, "its record: counters");
    check_counters(c);
    check_chunks(c, accepted);
    check_pending(c);
    check_rows(c, placed);
    check_results(c);
    check_shown(c);
}

/* Checks the next job above `after`: 1, 0 when there is none, or negative. */
static int next_job(struct scrub *c, int64_t after, struct err *e)
{
    sqlite3_stmt *q =
        store_prepare(c->s, STORE_JOB_COLUMNS "where job > ? and job <= ? order by job limit 1",
            "ii", after, (int64_t)STORE_LAST_JOB);
    int rc = store_step(c->s, q, e);
    if (rc != 1)
        return rc;
    int64_t accepted = sqlite3_column_int64(q, 7), placed = sqlite3_column_int64(q, 8);
    int damage = store_job_damage(c->s, q);
    int64_t job = sqlite3_column_int64(q, 0);
    if (job <= after) {
        sqlite3_reset(q);
        c->job = 0;
        find(c, -1, "table job is out of order behind job %" PRId64 ": no more of it can be read",
            after);
        return 0;
    }
    const char *key = (const char *)sqlite3_column_text(q, 1);
    check_between(c, after, row_id_of(job, 0));
    c->job = job;
    snprintf(c->key, sizeof c->key, "%s", key ? key : "");
    utf8_make_printable(c->key);
    sqlite3_reset(q);
    check_job(c, placed < 0 || placed > UINT32_MAX ? 0 : placed, accepted, damage);
    return 1;
}

static void check_jobs(struct scrub *c)
{
    struct err e;
    int64_t after = 0;
    int rc = 1;
    while (!c->ended && (rc = next_job(c, after, &e)) == 1)
        after = c->job;
    if (rc == 0)
        check_between(c, after, INT64_MAX);
    c->job = 0;
    c->key[0] = '\0';
    note_failure(c, "the next job", rc, &e);
}

/* ---- all ---- */

static void count_unchecked(struct scrub *c)
{
    int64_t below = c->s->sums_from > 0 && c->s->sums_from <= STORE_LAST_JOB
                        ? row_id_of(c->s->sums_from, 0)
                    : c->s->sums_from > 0 ? INT64_MAX
                                          : 0;
    int64_t rows = 0, results = 0;
    if (below > 0 && !c->ended) {
        store_integer(c->s, 0, &rows, NULL,
            "select count(*) from row where row < ? and sum is null", "i", below);
        store_integer(c->s, 0, &results, NULL,
            "select count(*) from result where job < ? and sum is null", "i", c->s->sums_from);
    }
    c->totals->unchecked = rows + results;
}

int store_scrub(const char *data_dir, const struct scrub_caller *caller,
    struct scrub_totals *totals, struct err *e)
{
    struct scrub c = {.caller = caller, .totals = totals};
    *totals = (struct scrub_totals){0};
    check_log(&c, data_dir); /* before SQLite creates a missing log */
    int rc = store_open_reader(&c.s, data_dir, e);
    if (rc == 0)
        rc = store_run(c.s, e, "begin", "");
    if (rc == 0) {
        store_integer(c.s, 0, &c.total, NULL,
            "select sum(min(max(placed, 0), 1 << 32) + min(max(done, 0), 1 << 32)) from job", "");
        check_file(&c);
        if (!c.ended)
            check_jobs(&c);
        if (!c.ended)
            check_lost(&c);
        count_unchecked(&c);
    }
    store_close_reader(&c.s);
    if (rc == ASSAY_EDAMAGED) {
        find(&c, -1, "nothing can be read: %s", e->msg);
        rc = 0;
    }
    return rc == 0 ? c.ended : rc;
}
