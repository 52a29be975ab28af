/* jobs.c - creates, finds, reads and lists jobs, and does what concerns a job as a whole. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "broker/store/private.h"
#include "schema/alloc.h"
#include "schema/clock.h"
#include "schema/utf8.h"

int store_find_job(struct store *s, struct slice key, int64_t *job, struct err *e)
{
    int rc = store_integer(s, 0, job, e, "select job from job where key = ?", "t", key);
    if (rc != 0 || (*job >= 0 && *job <= STORE_LAST_JOB))
        return rc != 0 ? rc : *job > 0;
    return err_set(e, ASSAY_EINTERNAL,
        "%s/assay.db: job '%.*s': expected a number from 1 to %d, found %lld: its record is "
        "damaged",
        s->dir, (int)key.len, (const char *)key.at, STORE_LAST_JOB, (long long)*job);
}

int store_next_number(struct store *s, int64_t *job, struct err *e)
{
    int rc = store_integer(s, 0, job, e,
        "select 1 + max(ifnull((select max(job) from job where job <= ?1), 0), "
        "ifnull((select value from meta where name = 'last_job' and typeof(value) = 'integer' "
        "and value between 1 and ?1), 0), "
        "ifnull((select max(row) >> 32 from row where row < (?1 + 1) << 32), 0), "
        "ifnull((select max(job) from chunk where job <= ?1), 0), "
        "ifnull((select max(job) from piece where job <= ?1), 0), "
        "ifnull((select max(job) from result where job <= ?1), 0))",
        "i", (int64_t)STORE_LAST_JOB);
    if (rc == 0 && *job > STORE_LAST_JOB)
        rc =
            err_set(e, ASSAY_EINTERNAL, "job numbers are used up: %d was the last", STORE_LAST_JOB);
    return rc;
}

int store_new_job(
    struct store *s, struct slice key, int priority, struct slice meta, int64_t *job, struct err *e)
{
    int rc = *job == 0 ? store_next_number(s, job, e)
                       : store_run(s, e, "delete from purge where job = ?", "i", *job);
    const struct store_served *first = store_first(s);
    if (rc == 0)
        rc = store_run(s, e,
            "insert into job(job, key, priority, meta, mode, created_ms, model) "
            "values (?, ?, ?, ?, ?, ?, ?)",
            "itibiis", *job, key, (int64_t)priority, meta, first ? first->modes[0] : 0,
            (int64_t)now_wall_ms(), first ? first->is.name : NULL);
    return rc == 0 ? store_touch_job(s, *job, JOB_SAID | JOB_COUNTED, e) : rc;
}

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

/* ---- truncation ---- */

int64_t store_join_truncation(int64_t a, int64_t b)
{
    int64_t n = a < 0 ? -a : a, m = b < 0 ? -b : b, most = n > m ? n : m;
    return a < 0 || b < 0 ? -most : most;
}

/* Returns the longest sequence that the model of this mode takes; 0: no limit, or it is not
 * served. */
static int64_t max_len_of(const struct store *s, int64_t mode)
{
    uint32_t k;
    const struct store_served *v = store_served_of(s, mode, &k);
    return v ? v->is.limits.max_len : 0;
}

/* Whether the broker would truncate rows of the job otherwise than they were: to another length, or
 * at all. */
static int truncates_otherwise(const struct store *s, int64_t mode, int64_t truncation)
{
    int64_t max_len = max_len_of(s, mode);
    return max_len > 0 && (truncation < 0 ? -truncation != max_len : truncation > max_len);
}

/* ---- reading a job ---- */

static int n_current(const struct store *s)
{
    int n = 0;
    for (int k = 0; k < STORE_MODELS; k++)
        n += s->served[k].is_there && s->served[k].is.is_current;
    return n;
}

/* Says what the broker has in place of the model that the job was made with: of the same name, if
 * it has several. */
static void name_present(const struct store *s, const struct store_job *j, char *text, size_t size)
{
    const struct store_served *first = store_first(s);
    const struct store_served *same = store_current_of(s, store_text(j->model));
    if (n_current(s) < 2)
        snprintf(text, size, "the broker runs %.12s (%.350s)", first ? first->is.digest : "",
            first ? first->is.mode : "");
    else if (same)
        snprintf(text, size, "the broker runs %.12s (%.350s) as %s", same->is.digest, same->is.mode,
            same->is.name);
    else
        snprintf(text, size, "the broker has no model '%s'", j->model);
}

static void read_mode(struct store *s, int64_t mode, struct store_job *j)
{
    char present[STORE_REASON_BYTES];
    snprintf(j->reason, sizeof j->reason, "made under a mode that the database does not know");
    sqlite3_stmt *q = store_prepare(s, "select digest, text from mode where mode = ?", "i", mode);
    if (store_step(s, q, NULL) != 1)
        return;
    name_present(s, j, present, sizeof present);
    snprintf(j->reason, sizeof j->reason, "made with checkpoint %.12s (%.350s), %.420s",
        (const char *)sqlite3_column_text(q, 0), (const char *)sqlite3_column_text(q, 1), present);
    utf8_make_printable(j->reason);
    sqlite3_reset(q);
}

/* Says what the job was made with that the broker has otherwise. */
static void read_reason(struct store *s, int64_t mode, const struct missing_route *missing,
    int64_t truncation, struct store_job *j)
{
    long long n = truncation < 0 ? -truncation : truncation;
    if (!store_mode_is_present(s, mode))
        read_mode(s, mode, j);
    else if (missing->route[0])
        store_name_missing(s, missing, j->reason, sizeof j->reason);
    else
        snprintf(j->reason, sizeof j->reason,
            "made with rows %s %lld tokens, the broker truncates to %lld (--max-len)",
            truncation < 0 ? "truncated to" : "of up to", n, (long long)max_len_of(s, mode));
}

static void note_unsound(struct store *s, int64_t job)
{
    size_t at = s->n_unsound;
    while (at > 0 && s->unsound[at - 1] > job)
        at--;
    if (at > 0 && s->unsound[at - 1] == job)
        return;
    if ((s->n_unsound & (s->n_unsound - 1)) == 0) { /* the array is full: 0, 1, 2, 4 .. */
        int64_t *more = xcalloc(s->n_unsound ? 2 * s->n_unsound : 1, sizeof *more);
        if (s->n_unsound > 0)
            memcpy(more, s->unsound, s->n_unsound * sizeof *more);
        free(s->unsound);
        s->unsound = more;
    }
    memmove(s->unsound + at + 1, s->unsound + at, (s->n_unsound++ - at) * sizeof *s->unsound);
    s->unsound[at] = job;
}

int store_find_unsound(struct store *s, struct err *e)
{
    int rc;
    sqlite3_stmt *q = store_prepare(s, STORE_JOB_COLUMNS "where job between 1 and ? order by job",
        "i", (int64_t)STORE_LAST_JOB);
    while ((rc = store_step(s, q, e)) == 1)
        if (store_job_damage(s, q))
            note_unsound(s, sqlite3_column_int64(q, 0));
    return rc;
}

/* A damaged record is shown as held, so that nobody takes the job to be fine. */
static void note_damage(struct store *s, int damage, struct store_job *j)
{
    j->damaged = j->held = 1;
    note_unsound(s, j->job);
    if (damage & JOB_COUNTED)
        s->suspect = j->job;
    snprintf(j->reason, sizeof j->reason, "%s",
        damage & JOB_SAID
            ? "its record in the database is damaged: key, priority, seal or mode may "
              "be wrong (`assay scrub`); resume with accept_mode takes it as it is"
            : "its record in the database is damaged; its rows are counted again");
}

static int64_t clamp(int64_t v, int64_t min, int64_t max)
{
    return v < min ? min : v > max ? max : v;
}

static int64_t rows_at(sqlite3_stmt *q, int i)
{
    return clamp(sqlite3_column_int64(q, i), 0, UINT32_MAX);
}

static int64_t ms_at(sqlite3_stmt *q, int i)
{
    return clamp(sqlite3_column_int64(q, i), 0, INT64_MAX >> 10);
}

static void read_job(struct store *s, sqlite3_stmt *q, struct store_job *j)
{
    const char *key = (const char *)sqlite3_column_text(q, 1);
    int damage = store_job_damage(s, q);
    memset(j, 0, sizeof *j);
    j->job = sqlite3_column_int64(q, 0);
    snprintf(j->key, sizeof j->key, "%s", key ? key : "");
    utf8_make_printable(j->key + utf8_valid((const uint8_t *)j->key, strlen(j->key)));
    j->priority = (int)clamp(sqlite3_column_int64(q, 2), -100, 100);
    j->paused = sqlite3_column_int(q, 3);
    j->cancelled = sqlite3_column_int(q, 4);
    j->sealed = sqlite3_column_type(q, 5) != SQLITE_NULL &&
                sqlite3_column_int64(q, 6) > sqlite3_column_int64(q, 5);
    j->accepted = rows_at(q, 7);
    j->placed = rows_at(q, 8);
    j->total = j->sealed ? j->placed : -1;
    j->done = rows_at(q, 9);
    j->failed = rows_at(q, 10);
    j->running = rows_at(q, 11);
    j->rate = sqlite3_column_double(q, 12);
    j->created_ms = ms_at(q, 13);
    j->finished_ms = ms_at(q, 14);
    if (j->finished_ms > j->created_ms) /* finished: the rate over its whole life */
        j->rate = (double)j->done * 1000 / (double)(j->finished_ms - j->created_ms);
    int64_t mode = j->mode = sqlite3_column_int64(q, 15);
    j->copied = rows_at(q, 16);
    j->cached = rows_at(q, 17);
    j->fresh = sqlite3_column_int(q, 18);
    int64_t truncation = sqlite3_column_int64(q, 22);
    struct missing_route missing = {0};
    const uint8_t *adapters = sqlite3_column_text(q, 23);
    if (adapters)
        store_find_missing(
            s, (struct slice){adapters, (size_t)sqlite3_column_bytes(q, 23)}, &missing);
    const char *model = (const char *)sqlite3_column_text(q, 24);
    snprintf(j->model, sizeof j->model, "%s", model ? model : "");
    utf8_make_printable(j->model);
    sqlite3_reset(q);
    /* A finished job is not held: nothing is left to score under another mode. */
    j->truncated_otherwise = truncates_otherwise(s, mode, truncation);
    j->otherwise = !store_mode_is_present(s, mode) || missing.route[0] || j->truncated_otherwise;
    j->held = j->otherwise && !(j->sealed && j->done == j->placed);
    j->made_otherwise = j->otherwise && !j->held;
    if (j->otherwise)
        read_reason(s, mode, &missing, truncation, j);
    if (damage)
        note_damage(s, damage, j);
    j->state = state_of(j);
}

int store_get_job(struct store *s, int64_t job, struct store_job *out, struct err *e)
{
    if (job < 1 || job > STORE_LAST_JOB)
        return 0;
    sqlite3_stmt *q = store_prepare(s, STORE_JOB_COLUMNS "where job = ?", "i", job);
    int rc = store_step(s, q, e);
    if (rc == 1)
        read_job(s, q, out);
    return rc;
}

/* The first job of a set above ?1, found with a partial index. Some sets of unfinished jobs look at
 * other unfinished jobs too, but within one statement. */
#define FIRST(index, where)                                                                        \
    STORE_JOB_COLUMNS "indexed by " index " where " where " and job > ?1 and job <= ?2 "           \
                      "order by job limit 1"
#define MAX_LEN                                                                                    \
    "ifnull(json_extract(?4, '$.\"' || mode || '\"'), iif(truncation < 0, -truncation, "           \
    "truncation))"
#define IS_SEALED "seal_chunk is not null and next_chunk > seal_chunk"
static const char *const sets[] = {
    [JOBS_ALL] = STORE_JOB_COLUMNS "where job > ?1 and job <= ?2 order by job limit 1",
    [JOBS_UNFINISHED] = FIRST("job_unfinished", "finished_ms is null"),
    [JOBS_OPEN] = FIRST("job_unfinished", "finished_ms is null and not (" IS_SEALED ")"),
    [JOBS_SEALED] = FIRST("job_unfinished", "finished_ms is null and " IS_SEALED),
    [JOBS_RUNNING] = FIRST("job_unfinished", "finished_ms is null and running > 0"),
    [JOBS_HELD] = FIRST("job_unfinished",
        "finished_ms is null and (mode not in (select value from json_each(?3)) or "
        "iif(truncation < 0, -truncation <> " MAX_LEN ", truncation > " MAX_LEN ") or "
        "exists (select 1 from json_each(" STORE_JSON("adapters") ") where " STORE_IS_MISSING(
            "?3") "))"),
    [JOBS_PAUSED] = FIRST("job_paused", "paused <> 0"),
    [JOBS_DONE] = FIRST("job_done", "finished_ms is not null and cancelled = 0 and paused = 0"),
    [JOBS_CANCELLED] = FIRST("job_cancelled", "cancelled <> 0"),
};

enum { PAUSED_SAID, PAUSED_HELD, PAUSED_DAMAGED, PAUSED_KINDS };

struct paused {
    /* the next job of each kind; one not above the last given is stale */
    struct store_job next[PAUSED_KINDS];
    int has[PAUSED_KINDS];
};

/* The first job of the set above `after`: 1, or 0 when there is none. */
static int first_of(
    struct store *s, enum store_jobs set, int64_t after, struct store_job *j, struct err *e)
{
    sqlite3_stmt *q = set == JOBS_HELD
                          ? store_prepare(s, sets[set], "iiss", after, (int64_t)STORE_LAST_JOB,
                                s->present_json, s->lengths)
                          : store_prepare(s, sets[set], "ii", after, (int64_t)STORE_LAST_JOB);
    int rc = store_step(s, q, e);
    if (rc == 1)
        read_job(s, q, j);
    if (rc == 1 && j->job <= after)
        return err_set(e, ASSAY_EINTERNAL,
            "%s/assay.db: table job is out of order behind job %lld: the file is damaged (`assay "
            "scrub` says where)",
            s->dir, (long long)after);
    return rc;
}

enum store_jobs store_jobs_of(enum job_state state)
{
    static const enum store_jobs set_of[] = {[JOB_OPEN] = JOBS_OPEN,
        [JOB_QUEUED] = JOBS_SEALED,
        [JOB_RUNNING] = JOBS_RUNNING,
        [JOB_PAUSED] = JOBS_PAUSED,
        [JOB_DONE] = JOBS_DONE,
        [JOB_CANCELLED] = JOBS_CANCELLED};
    return set_of[state];
}

/* The first damaged job above `after` that is neither paused nor cancelled: 1, or 0 when there is
 * none. */
static int first_damaged(struct store *s, int64_t after, struct store_job *j, struct err *e)
{
    for (size_t i = 0; i < s->n_unsound; i++) {
        int rc = s->unsound[i] > after ? store_get_job(s, s->unsound[i], j, e) : 0;
        if (rc < 0 || (rc == 1 && j->damaged && !j->paused && !j->cancelled))
            return rc;
    }
    return 0;
}

/* The next job shown as paused: it was paused, is held for another mode, or is damaged. */
static int first_paused(
    struct store *s, struct paused *p, int64_t after, struct store_job *j, struct err *e)
{
    int least = -1;
    for (int k = 0; k < PAUSED_KINDS; k++) {
        if (p->has[k] && p->next[k].job <= after)
            p->has[k] = k == PAUSED_DAMAGED
                            ? first_damaged(s, after, &p->next[k], e)
                            : first_of(s, k == PAUSED_HELD ? JOBS_HELD : JOBS_PAUSED, after,
                                  &p->next[k], e);
        if (p->has[k] < 0)
            return p->has[k];
        if (p->has[k] && (least < 0 || p->next[k].job < p->next[least].job))
            least = k;
    }
    if (least < 0)
        return 0;
    *j = p->next[least];
    return 1;
}

int store_each_job(struct store *s, const struct store_job_page *page, store_job_visitor *visit,
    void *arg, struct err *e)
{
    struct store_job j;
    struct paused paused = {.has = {1, 1, 1}};
    int64_t after = page->after;
    for (uint32_t n = 0; n < page->limit; n++) {
        int rc = page->set == JOBS_PAUSED ? first_paused(s, &paused, after, &j, e)
                                          : first_of(s, page->set, after, &j, e);
        if (rc != 1)
            return rc;
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
    return store_run_job(s, job, JOB_SAID | JOB_COUNTED, e,
        "update job set cancelled = 1, running = 0, finished_ms = ? where job = ? and finished_ms "
        "is null",
        "ii", (int64_t)now_wall_ms(), job);
}

int store_pause(struct store *s, int64_t job, int paused, struct err *e)
{
    return store_run_job(
        s, job, JOB_SAID, e, "update job set paused = ? where job = ?", "ii", (int64_t)paused, job);
}

/* Finds what the job is to go on with: the model of its name, or the only one. */
static int find_present(
    struct store *s, const struct store_job *j, const struct store_served **v, struct err *e)
{
    uint32_t k;
    *v = store_served_of(s, j->mode, &k); /* what it wants besides is missing */
    if (!*v)
        *v = store_current_of(s, store_text(j->model));
    if (!*v && (n_current(s) < 2 || !j->model[0]))
        *v = store_first(s);
    return *v ? 0
              : err_field(e, ASSAY_ESTATE, "job",
                    "expected a model '%s', with which the job was begun, found none of that name",
                    j->model);
}

int store_accept_mode(struct store *s, int64_t job, struct err *e)
{
    struct store_job j;
    const struct store_served *v = NULL;
    int rc = store_get_job(s, job, &j, e);
    if (rc != 1 || (rc = find_present(s, &j, &v, e)) != 0)
        return rc;
    int64_t max_len = v->is.limits.max_len;
    int64_t truncation;
    rc = store_touch_job(s, job, JOB_SAID, e); /* even when it is damaged */
    if (rc == 0)
        rc = store_accept_adapters(s, job, 1, e);
    if (rc == 0)
        rc = store_integer(
            s, 0, &truncation, e, "select truncation from job where job = ?", "i", job);
    if (rc != 0)
        return rc;
    int otherwise = truncates_otherwise(s, v->modes[0], truncation);
    return store_run(s, e,
        "update job set mode = ?1, truncation = iif(?2 > 0, -?2, truncation), "
        "model = ifnull(?3, model) where job = ?4",
        "iisi", v->modes[0], otherwise ? max_len : 0, v->is.name, job);
}

int store_set_model(struct store *s, int64_t job, uint32_t id, struct err *e)
{
    const struct store_served *v = NULL;
    for (int k = 0; !v && k < STORE_MODELS; k++)
        if (s->served[k].is_there && s->served[k].is.id == id)
            v = &s->served[k];
    return v ? store_run_job(s, job, JOB_SAID, e,
                   "update job set mode = ?, model = ? where job = ?", "isi", v->modes[0],
                   v->is.name, job)
             : err_set(e, ASSAY_EINTERNAL, "the model of number %u is not served", id);
}

int store_job_modes(
    struct store *s, int64_t job, store_mode_visitor *visit, void *arg, struct err *e)
{
    struct store_members m;
    int64_t modes[STORE_MODELS * 4];
    uint32_t n = 0;
    int rc;
    sqlite3_stmt *q = store_prepare(s,
        "select mode from job where job = ?1 union select value from job, "
        "json_each(" STORE_JSON("adapters") ") where job = ?1 and value is not null",
        "i", job);
    while ((rc = store_step(s, q, e)) == 1 && n < sizeof modes / sizeof *modes)
        modes[n++] = sqlite3_column_int64(q, 0);
    sqlite3_reset(q);
    rc = rc < 0 ? rc : 0;
    for (uint32_t i = 0; rc == 0 && i < n; i++) {
        rc = store_members_of(s, modes[i], &m, e);
        for (uint32_t k = 0; rc == 0 && k < m.n; k++)
            visit(arg, m.modes[k]);
    }
    return rc != 0 ? rc : n > 0;
}

int store_set_fresh(struct store *s, int64_t job, struct err *e)
{
    return store_run_job(s, job, JOB_SAID, e, "update job set fresh = 1 where job = ?", "i", job);
}

int store_set_rate(struct store *s, int64_t job, double rows_per_s, struct err *e)
{
    return store_run(s, e, "update job set rate = ? where job = ?", "di", rows_per_s, job);
}
