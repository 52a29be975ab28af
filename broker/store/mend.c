/* mend.c - repairs what can be derived from the rest of a damaged database.
 *
 * Rows and results are the truth; the states of rows (table block) and a job's counters are derived
 * from them, for quick reading. At the start each unfinished job is checked: the checksums fit, as
 * many rows are queued as are not done, as many failed as were counted, and the index on queued
 * blocks gives the same number. If not, states and counters are rebuilt: a row without a result is
 * queued, and computed again if it was before, which gives the same bits. */
#include <stdlib.h>
#include <string.h>

#include "broker/store/private.h"
#include "schema/alloc.h"
#include "schema/clock.h"
#include "schema/log.h"
#include "schema/utf8.h"

/* ---- do they agree? ---- */

/* The totals of a job's row states. */
struct tally_of_states {
    int64_t queued, failed;
    int sound;
};

static int count_states(
    struct store *s, const char *sql, int64_t job, struct tally_of_states *t, struct err *e)
{
    *t = (struct tally_of_states){.sound = 1};
    sqlite3_stmt *q =
        store_prepare(s, sql, "ii", block_number(row_id_of(job, 0)), block_number(row_last(job)));
    int rc;
    while ((rc = store_step(s, q, e)) == 1) {
        t->queued += __builtin_popcountll((uint64_t)sqlite3_column_int64(q, 1));
        t->failed += __builtin_popcountll((uint64_t)sqlite3_column_int64(q, 2));
        t->sound &= store_block_is_sound(s, q, NULL) == 0;
    }
    return rc;
}

struct counters {
    int64_t next_chunk, accepted, placed, done, failed, tokens_left, next_seq;
    int damage;
};

/* 1, or 0 when there is no such job. */
static int read_counters(struct store *s, int64_t job, struct counters *c, struct err *e)
{
    sqlite3_stmt *q = store_prepare(s, STORE_JOB_COLUMNS "where job = ?", "i", job);
    int rc = store_step(s, q, e);
    if (rc != 1)
        return rc;
    *c = (struct counters){sqlite3_column_int64(q, 6), sqlite3_column_int64(q, 7),
        sqlite3_column_int64(q, 8), sqlite3_column_int64(q, 9), sqlite3_column_int64(q, 10),
        sqlite3_column_int64(q, 19), sqlite3_column_int64(q, 20), store_job_damage(s, q)};
    sqlite3_reset(q);
    return 1;
}

static int are_possible(const struct counters *c)
{
    return c->placed >= 0 && c->accepted >= c->placed && c->accepted <= UINT32_MAX &&
           c->done >= 0 && c->done <= c->placed && c->failed >= 0 && c->failed <= c->done &&
           c->next_seq > c->done && c->next_seq < INT64_MAX >> 8 && c->tokens_left >= 0 &&
           c->tokens_left < INT64_MAX >> 8 && c->next_chunk >= 0;
}

int store_states_agree(struct store *s, int64_t job, struct err *e)
{
    struct counters c;
    struct tally_of_states all, queued;
    int rc = read_counters(s, job, &c, e);
    if (rc != 1)
        return rc < 0 ? rc : 1;
    rc = count_states(
        s, STORE_BLOCK_COLUMNS " from block where block between ? and ?", job, &all, e);
    if (rc == 0)
        rc = count_states(s,
            STORE_BLOCK_COLUMNS " from block indexed by block_queued "
                                "where queued <> 0 and block between ? and ?",
            job, &queued, e);
    int chunks = rc == 0 ? store_chunks_agree(s, job, c.accepted, e) : rc;
    if (chunks < 0)
        return chunks;
    return chunks && are_possible(&c) && !(c.damage & JOB_COUNTED) && all.sound && queued.sound &&
           all.queued == c.placed - c.done && all.failed == c.failed && queued.queued == all.queued;
}

/* ---- made anew ---- */

/* A job's rows as rows and results show them. */
struct census {
    struct store *s;
    int64_t job, n_rows; /* rows with an index */
    uint64_t *over, *failed;
    int64_t n_over, n_failed, last_seq, tokens;
};

static int has_bit(const uint64_t *bits, int64_t i)
{
    return bits[i >> 6] >> (i & 63) & 1;
}

/* Deletes a result. If the index has it under another row, SQLite deletes it only after a
 * reindex. */
static int forget_result(struct store *s, int64_t job, int64_t seq, struct err *e)
{
    static const char *const sql = "delete from result where job = ? and seq = ?";
    int rc = store_run(s, e, sql, "ii", job, seq);
    if (rc == 0 || sqlite3_extended_errcode(s->db) != SQLITE_CORRUPT_INDEX)
        return rc;
    rc = store_run(s, e, "reindex result_row", "");
    return rc == 0 ? store_run(s, e, sql, "ii", job, seq) : rc;
}

/* Counts a result if it belongs to a row of the job and is that row's first. Returns 1 when it must
 * be deleted. */
static int count_result(struct census *c, const struct result_record *r, int sound, int drop)
{
    int64_t i = row_index(r->row);
    if (r->seq > c->last_seq)
        c->last_seq = r->seq;
    if (row_job(r->row) != c->job || i >= c->n_rows || has_bit(c->over, i) || (!sound && drop))
        return 1;
    c->over[i >> 6] |= row_bit(i);
    c->n_over++;
    if (r->error_code.at) {
        c->failed[i >> 6] |= row_bit(i);
        c->n_failed++;
    }
    return 0;
}

static int count_results(struct census *c, int drop, struct err *e)
{
    int64_t after = 0;
    int rc = 1;
    while (rc == 1) {
        struct result_record r;
        sqlite3_stmt *q = store_prepare(c->s,
            "select " STORE_RESULT_COLUMNS
            "from result where result.job = ? and seq > ? order by result.job, seq",
            "ii", c->job, after);
        while ((rc = store_step(c->s, q, e)) == 1) {
            int sound = store_read_result(c->s, q, 0, &r);
            if (r.job != c->job || r.seq <= after)
                continue; /* out of place */
            after = r.seq;
            if (!sound)
                r.row = store_row_of_result(c->s, &r);
            if (count_result(c, &r, sound, drop))
                break; /* delete it, and go on behind it */
        }
        sqlite3_reset(q);
        if (rc == 1)
            rc = forget_result(c->s, c->job, after, e) < 0 ? ASSAY_EIO : 1;
    }
    return rc;
}

static int write_states(struct census *c, struct err *e)
{
    int64_t first = block_number(row_id_of(c->job, 0)), n = (c->n_rows + 63) / 64;
    int rc = store_run(c->s, e, "delete from block where block between ? and ?", "ii", first,
        block_number(row_last(c->job)));
    for (int64_t k = 0; rc == 0 && k < n; k++) {
        int64_t rows = c->n_rows - 64 * k;
        uint64_t all = rows < 64 ? row_bit(rows) - 1 : UINT64_MAX, queued = all & ~c->over[k];
        rc = store_run(c->s, e,
            "insert into block(block, queued, running, failed, sum) values (?, ?, 0, ?, ?)", "iiii",
            first + k, (int64_t)queued, (int64_t)c->failed[k],
            store_sum_block(first + k, queued, c->failed[k]));
    }
    return rc;
}

/* Tokens of queued rows, as far as their records are plausible. */
static int count_tokens(struct census *c, struct err *e)
{
    sqlite3_stmt *q = store_prepare(c->s,
        "select row, n_tokens from row where row between ? and ? and n_tokens between 0 and ?",
        "iii", row_id_of(c->job, 0), row_last(c->job), (int64_t)INT32_MAX);
    int rc;
    while ((rc = store_step(c->s, q, e)) == 1) {
        int64_t i = row_index(sqlite3_column_int64(q, 0));
        if (i < c->n_rows && !has_bit(c->over, i))
            c->tokens += sqlite3_column_int64(q, 1);
    }
    return rc;
}

/* Lists cursors without a result as gone by intent: their rows are computed again. */
static int note_gone(struct census *c, int64_t next_seq, struct err *e)
{
    int64_t known;
    int rc =
        store_integer(c->s, 0, &known, e, "select count(*) from gone where job = ?", "i", c->job);
    if (rc != 0 || next_seq - 1 == known + c->n_over)
        return rc;
    return store_run(c->s, e,
        "insert or ignore into gone "
        "with recursive n(seq) as (select 1 union all select seq + 1 from n where seq + 1 < ?2) "
        "select ?1, seq from n where ?2 > 1 and not exists "
        "(select 1 from result where result.job = ?1 and result.seq = n.seq)",
        "ii", c->job, next_seq);
}

/* How many rows have an index: what the counter or the chunks say, or else the number of
 * records. */
static int count_rows(
    struct census *c, const struct counters *was, int was_next, int64_t *accepted, struct err *e)
{
    struct store *s = c->s;
    int64_t chunks = 0, rows = 0, job = c->job, *n = &c->n_rows;
    int rc = store_integer(s, 0, &chunks, e,
        "select sum(iif(pending is null, n_rows, n_placed)) from chunk "
        "where job = ? and n_rows >= 0 and n_placed >= 0",
        "i", job);
    if (rc == 0)
        rc = store_integer(s, 0, &rows, e, "select count(*) from row where row between ? and ?",
            "ii", row_id_of(job, 0), row_last(job));
    if (rc == 0)
        rc = store_integer(s, 0, accepted, e,
            "select sum(n_rows - n_placed) from chunk where job = ? and pending is not null "
            "and n_placed between 0 and n_rows",
            "i", job);
    *n = was->placed == rows || was->placed == chunks ? was->placed : chunks;
    if (*n < 0 || *n > UINT32_MAX || *n > 4 * rows + 4096) /* some rows may be lost, not most */
        *n = rows;
    if (rc == 0 && was_next && *n > chunks && chunks >= 0) {
        *n = chunks; /* the rows behind are a part of a chunk that has to be sent again */
        rc = store_drop_unplaced(s, job, chunks, e);
    }
    *accepted += *n;
    return rc;
}

static int write_counters(
    struct census *c, const struct counters *was, int64_t accepted, struct err *e)
{
    int64_t gone, pending, next = c->last_seq + 1;
    int rc =
        store_integer(c->s, 0, &gone, e, "select max(seq) from gone where job = ?", "i", c->job);
    if (rc == 0)
        rc = store_integer(c->s, 0, &pending, e,
            "select sum(pending / 4) from chunk where job = ? and pending is not null", "i",
            c->job);
    if (gone >= next)
        next = gone + 1;
    if (!(was->damage & JOB_COUNTED) && was->next_seq > next &&
        was->next_seq - next <= 2 * c->n_rows + 4096)
        next = was->next_seq;
    if (rc == 0)
        rc = note_gone(c, next, e);
    if (rc != 0)
        return rc;
    return store_run_job(c->s, c->job, JOB_COUNTED, e,
        "update job set accepted = ?2, placed = ?3, done = ?4, failed = ?5, tokens_left = ?6, "
        "next_seq = ?7, copied = min(max(copied, 0), ?4), cached = min(max(cached, 0), ?4), "
        "next_chunk = (select ifnull(max(chunk), -1) + 1 from chunk where job = ?1 and chunk < "
        "ifnull((select min(chunk) from chunk where job = ?1 and pending is not null), 1 << 31)) "
        "where job = ?1",
        "iiiiiii", c->job, accepted, c->n_rows, c->n_over, c->n_failed, c->tokens + pending, next);
}

static int finish_job(struct store *s, int64_t job, struct err *e)
{
    return store_run_job(s, job, JOB_COUNTED, e,
        "update job set finished_ms = case when cancelled or (seal_chunk is not null and "
        "next_chunk > seal_chunk and done = placed) then ifnull(finished_ms, ?) end where job = ?",
        "ii", (int64_t)now_wall_ms(), job);
}

int store_count_tokens(struct store *s, struct err *e)
{
    return store_integer(s, 0, &s->queued_tokens, e,
        "select sum(tokens_left) from job indexed by job_unfinished where finished_ms is null "
        "and job between 1 and ?",
        "i", (int64_t)STORE_LAST_JOB);
}

int store_mend_job(struct store *s, int64_t job, int drop, struct err *e)
{
    struct counters was;
    struct census c = {.s = s, .job = job};
    int64_t accepted = 0;
    int was_next = 0;
    int rc = read_counters(s, job, &was, e);
    if (rc != 1)
        return rc;
    if ((rc = store_end_tally(s, e)) != 0 || (rc = store_keep_blocks(s, e)) != 0)
        return rc;
    store_drop_blocks(s);
    rc = store_drop_damaged_chunks(s, job, was.next_chunk, &was_next, e);
    if (rc == 0)
        rc = count_rows(&c, &was, was_next, &accepted, e);
    c.over = xcalloc((size_t)c.n_rows / 64 + 1, sizeof *c.over);
    c.failed = xcalloc((size_t)c.n_rows / 64 + 1, sizeof *c.failed);
    if (rc == 0)
        rc = count_results(&c, drop, e);
    if (rc == 0)
        rc = count_tokens(&c, e);
    if (rc == 0)
        rc = write_states(&c, e);
    if (rc == 0)
        rc = write_counters(&c, &was, accepted, e);
    if (rc == 0)
        rc = finish_job(s, job, e);
    if (rc == 0)
        rc = store_count_tokens(s, e);
    free(c.over);
    free(c.failed);
    if (rc == 0)
        log_warn("event=job_mended job=%lld rows=%lld queued=%lld reason=\"its records in the "
                 "database were damaged\"",
            (long long)job, (long long)c.n_rows, (long long)(c.n_rows - c.n_over));
    return rc;
}

/* ---- when ---- */

/* Whether table job is in order and its indices lead to all of its records: 1, or 0 with what is
 * wrong. */
static int jobs_are_in_order(struct store *s, char *what, size_t size, struct err *e)
{
    sqlite3_stmt *q = store_prepare(s, "pragma integrity_check(job)", "");
    int rc = store_step(s, q, e);
    const char *text = rc == 1 ? (const char *)sqlite3_column_text(q, 0) : NULL;
    if (rc < 0)
        return rc;
    snprintf(what, size, "table job: %s", text ? text : "nothing was found");
    utf8_make_printable(what);
    rc = text && strcmp(text, "ok") == 0;
    sqlite3_reset(q);
    return rc;
}

/* Rows behind those that the job has placed are of a chunk that was not accepted. */
static int drop_unplaced(struct store *s, int64_t job, struct err *e)
{
    int64_t placed;
    int rc =
        store_integer(s, UINT32_MAX, &placed, e, "select placed from job where job = ?", "i", job);
    return rc == 0 ? store_drop_unplaced(s, job, placed, e) : rc;
}

static int mend_unfinished(struct store *s, struct err *e)
{
    int64_t job = 0, last = 0;
    int rc = store_begin(s, e);
    while (rc == 0) {
        last = job;
        rc = store_integer(s, 0, &job, e,
            "select min(job) from job where job > ? and job <= ? and finished_ms is null", "ii",
            last, (int64_t)STORE_LAST_JOB);
        if (rc != 0 || job <= last) /* lower where the file is out of order */
            break;
        rc = store_states_agree(s, job, e);
        rc = rc == 0 ? store_mend_job(s, job, 0, e) : rc < 0 ? rc : drop_unplaced(s, job, e);
    }
    if (rc == 0)
        rc = store_drop_lost_pieces(s, e);
    if (rc == 0)
        return store_commit(s, e);
    store_rollback(s);
    return rc;
}

/* Logs each job whose rows are there without its record. It is found by its first row. */
static int tell_lost_jobs(struct store *s, struct err *e)
{
    int rc;
    sqlite3_stmt *q = store_prepare(s,
        "with recursive has_rows(job) as (select min(row) >> 32 from row where row >= 0 union "
        "select (select min(row) >> 32 from row where row >= (has_rows.job + 1) << 32) "
        "from has_rows where job < ?) "
        "select job from has_rows where job is not null and job not in (select job from job) "
        "and job not in (select job from purge)",
        "i", (int64_t)STORE_LAST_JOB);
    while ((rc = store_step(s, q, e)) == 1)
        log_warn("event=job_lost job=%lld reason=\"its rows are in the database and its record is "
                 "not: the file is damaged; `assay scrub` says what is\"",
            (long long)sqlite3_column_int64(q, 0));
    return rc;
}

static int make_indices_anew(struct store *s, const struct err *why, struct err *e)
{
    char what[200];
    log_warn("event=indices_made_anew error=\"%s\"", why->msg);
    int rc = store_run(s, e, "reindex", "");
    if (rc == 0)
        rc = mend_unfinished(s, e);
    if (rc == 0)
        rc = jobs_are_in_order(s, what, sizeof what, e);
    if (rc == 0)
        log_error("event=damaged error=\"%s\" reason=\"jobs may be missing from what is served; "
                  "`assay scrub` says more\"",
            what);
    return rc < 0 ? rc : 0;
}

int store_mend_all(struct store *s, struct err *e)
{
    struct err why;
    char what[200];
    int rc = jobs_are_in_order(s, what, sizeof what, e);
    if (rc == 1)
        rc = mend_unfinished(s, &why);
    else if (rc == 0)
        rc = err_set(&why, ASSAY_EIO, "%s", what);
    if (store_may_pass(rc) && e)
        *e = why;
    if (store_may_pass(rc))
        return rc;
    if (rc != 0)
        rc = make_indices_anew(s, &why, e);
    return rc == 0 ? tell_lost_jobs(s, e) : rc;
}

int store_mend_suspect(struct store *s, int64_t *job, struct err *e)
{
    *job = s->suspect;
    s->suspect = 0;
    if (*job == 0)
        return 0;
    int rc = store_begin(s, e);
    if (rc == 0)
        rc = store_mend_job(s, *job, 0, e);
    if (rc == 0)
        rc = store_commit(s, e);
    if (rc != 0)
        store_rollback(s);
    if (store_may_pass(rc))
        s->suspect = *job; /* later */
    return rc == 0 ? 1 : rc;
}
