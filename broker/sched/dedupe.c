/* dedupe.c - searches for equal rows in all three places, and fills the indexes (dedupe.h).
 *
 * A row enters its job's index when it is sent to a worker, so before it can finish. A new index is
 * empty; if the job has finished rows (after a restart, or because the index was closed), it is
 * first filled from the database, some milliseconds at a time, and the job waits for that, for at
 * most wait_ms.
 *
 * Only rows of one job are compared, so that a job submitted twice on purpose is computed twice;
 * the score cache works across jobs. */
#include "broker/sched/dedupe.h"

#include <sodium.h>
#include <stdlib.h>

#include "broker/sched/answered.h"
#include "broker/sched/content.h"
#include "broker/sched/dedupe_indexes.h"
#include "schema/alloc.h"
#include "schema/clock.h"
#include "schema/log.h"

#define SCAN_MS 10
#define SCAN_ROWS 64
#define SCANNED INT64_MAX

struct dedupe {
    struct dedupe_options options;
    uint8_t model[CONTENT_MODEL_BYTES]; /* of rows of the mode */
    int64_t mode;                       /* 0: none yet */
    uint64_t seed;                      /* of hashes */
    struct table primaries;             /* lists of those with one key, linked by next_alike */
    struct dedupe_indexes indexes;
    struct dedupe_index *current; /* of the job of the row that is searched for */
    struct answered answered;
    long long scan_end_ms; /* end of this pass's time for scanning; 0: it has not begun */
    int later;
    int added; /* added to the score cache since the last flush */
};

/* ---- rows under way ---- */

static int is_primary_of(const struct sequence *primary, const struct sequence *r)
{
    return primary->hash == r->hash && row_job(primary->row_id) == row_job(r->row_id) &&
           content_is_same(primary, r);
}

static int64_t primary_key(const struct sequence *r)
{
    return (int64_t)((r->hash + (uint64_t)row_job(r->row_id)) | 1); /* not 0 */
}

/* Returns the row's primary; NULL: none is under way. */
static struct sequence *find_primary(const struct dedupe *t, const struct sequence *r)
{
    struct sequence *primary = table_find(&t->primaries, primary_key(r));
    while (primary && !is_primary_of(primary, r))
        primary = primary->next_alike;
    return primary;
}

void dedupe_add_lone(struct dedupe *t, struct sequence *r)
{
    struct dedupe_index *index = dedupe_indexes_find(&t->indexes, row_job(r->row_id));
    if (!index)
        return;
    content_hash(r, t->seed);
    dedupe_index_add(index, r->hash, row_index(r->row_id));
}

void dedupe_add_primary(struct dedupe *t, struct sequence *r)
{
    r->next_alike = table_find(&t->primaries, primary_key(r));
    table_set(&t->primaries, primary_key(r), r);
    r->is_primary = 1;
    dedupe_add_lone(t, r);
}

static void stop_leading(struct dedupe *t, struct sequence *r)
{
    struct sequence *first = table_find(&t->primaries, primary_key(r)), **place = &first;
    while (*place != r)
        place = &(*place)->next_alike;
    *place = r->next_alike;
    r->next_alike = NULL;
    r->is_primary = 0;
    if (first)
        table_set(&t->primaries, primary_key(r), first);
    else
        table_remove(&t->primaries, primary_key(r));
}

/* ---- rows that were answered before the index was made ---- */

struct scan {
    struct sequence *first, **end;
};

static void note_finished(void *arg, struct sequence *r)
{
    struct scan *scan = arg;
    *scan->end = r;
    scan->end = &r->next;
}

/* Adds a finished row to the index, unless an equal one is there. */
static int add_finished(struct dedupe *t, struct sequence *r, struct err *e)
{
    content_hash(r, t->seed);
    int rc = answered_find(&t->answered, t->current, r, e);
    if (rc == 0)
        dedupe_index_add(t->current, r->hash, row_index(r->row_id));
    return rc < 0 ? rc : 0;
}

/* Scans the next few finished rows: 1 when those were the last. */
static int scan_some(struct dedupe *t, struct err *e)
{
    int64_t job = dedupe_index_job(t->current);
    int64_t after = row_id_of(job, 0) + dedupe_index_scanned(t->current) - 1;
    struct store_page page = {job, (uint64_t)after, SCAN_ROWS};
    struct scan scan = {.end = &scan.first};
    int rc = store_finished_rows(t->options.store, &page, note_finished, &scan, e);
    int more = rc == 1;
    for (struct sequence *r = scan.first, *next; r; r = next) {
        next = r->next;
        if (rc >= 0)
            rc = add_finished(t, r, e);
        sequence_free(&r);
    }
    if (rc < 0)
        return rc;
    dedupe_index_set_scanned(
        t->current, more ? (int64_t)row_index((int64_t)page.after) + 1 : SCANNED);
    return !more;
}

/* Adds the job's rows that are under way to its new index: the database has no answer for them. */
static void add_primaries(struct dedupe *t, struct dedupe_index *index)
{
    for (size_t i = 0; i < t->primaries.room; i++)
        for (const struct sequence *r = t->primaries.at[i].value; r; r = r->next_alike)
            if (row_job(r->row_id) == dedupe_index_job(index))
                dedupe_index_add(index, r->hash, row_index(r->row_id));
}

/* Makes the job's index the current one: 1, or 0 when this pass has no time left to fill one
 * more. */
static int choose_index(struct dedupe *t, int64_t job)
{
    struct dedupe_index_options o = {
        t->options.data_dir, job, t->options.min_free_bytes, t->options.now_ms()};
    t->current = dedupe_indexes_find(&t->indexes, job);
    if (t->current && !dedupe_index_lies(t->current))
        return 1;
    if (t->scan_end_ms != 0 && o.opened_ms >= t->scan_end_ms)
        return 0;
    if (t->current) {
        log_warn("event=dedupe_damaged job=%lld action=\"made again in memory\"", (long long)job);
        dedupe_indexes_close(&t->indexes, job);
        o.dir = NULL;
    }
    t->current = dedupe_indexes_open(&t->indexes, &o);
    add_primaries(t, t->current);
    return 1;
}

/* Fills the current index: 1 when it is complete, 0 when that takes longer than half of the time
 * that this pass has left. The other half is for other jobs: most have little to read. The first
 * index of a pass always gets some rows; if this process is held up between two readings of the
 * clock, no pass would make progress otherwise. */
static int fill_index(struct dedupe *t, struct err *e)
{
    int rc = dedupe_index_scanned(t->current) == SCANNED;
    if (rc == 0 && t->scan_end_ms == 0) {
        t->scan_end_ms = t->options.now_ms() + SCAN_MS;
        rc = scan_some(t, e);
    }
    long long end_ms = rc == 0 ? (t->options.now_ms() + t->scan_end_ms + 1) / 2 : 0;
    while (rc == 0 && t->options.now_ms() < end_ms)
        rc = scan_some(t, e);
    return rc;
}

static int has_waited(const struct dedupe *t)
{
    return t->options.wait_ms > 0 &&
           t->options.now_ms() - dedupe_index_opened_ms(t->current) >= t->options.wait_ms;
}

/* Makes the job's index the current one. 1: it may be searched, though it may lack rows after
 * wait_ms; 0: not yet. */
static int use_index(struct dedupe *t, int64_t job, struct err *e)
{
    int is_chosen = choose_index(t, job), rc = is_chosen ? fill_index(t, e) : 0;
    t->later |= rc == 0;
    return rc == 0 && is_chosen ? has_waited(t) : rc;
}

/* ---- beginning and end ---- */

struct dedupe *dedupe_new(const struct dedupe_options *options)
{
    struct dedupe *t = xcalloc(1, sizeof *t);
    t->options = *options;
    t->indexes.most = options->max_tables > 0 ? options->max_tables : DEDUPE_TABLES;
    if (!t->options.now_ms)
        t->options.now_ms = now_mono_ms;
    randombytes_buf(&t->seed, sizeof t->seed);
    t->answered = (struct answered){.store = options->store, .seed = t->seed};
    if (options->data_dir)
        dedupe_index_sweep(options->data_dir);
    return t;
}

void dedupe_free(struct dedupe **t)
{
    if (!*t)
        return;
    dedupe_indexes_release(&(*t)->indexes);
    answered_release(&(*t)->answered);
    table_release(&(*t)->primaries);
    free(*t);
    *t = NULL;
}

void dedupe_use_rows(struct dedupe *t, const struct table *rows)
{
    t->answered.rows = rows;
}

/* ---- all of it ---- */

static struct score_cache *cache_of(const struct dedupe *t)
{
    return t->options.cache ? *t->options.cache : NULL;
}

/* Sets r->key: 1, or 0 when the row's model or adapter is gone. */
static int make_key(struct dedupe *t, struct sequence *r)
{
    const struct dedupe_options *o = &t->options;
    struct dedupe_model model = {o->digest, o->mode, NULL};
    if (r->has_key)
        return 1;
    if (t->mode != r->mode) {
        if (o->describe && o->describe(o->arg, r->mode, &model) != 0)
            return 0;
        content_model(t->model, model.digest, model.mode, model.adapter);
        t->mode = r->mode;
    }
    content_key(r, t->model);
    return 1;
}

static int find_cached(struct dedupe *t, struct sequence *r)
{
    if (!cache_of(t) || r->fresh || r->not_cached || !make_key(t, r))
        return 0;
    answered_make_room(r, ROW_CACHED);
    int found = score_cache_find(t->options.cache, r->key, r->found_values, r->n_values);
    r->not_cached = !found;
    if (found)
        dedupe_index_add(t->current, r->hash, row_index(r->row_id));
    return found;
}

/* Clears what was found: the result has to be computed. */
static void know_nothing(struct sequence *r)
{
    free(r->found_values);
    r->found_values = NULL;
    r->found_error = 0;
    r->origin = ROW_COMPUTED;
}

void dedupe_prefetch(struct dedupe *t, struct sequence *r)
{
    const struct dedupe_index *index = dedupe_indexes_find(&t->indexes, row_job(r->row_id));
    if (!index)
        return;
    content_hash(r, t->seed);
    dedupe_index_expect(index, r->hash);
}

void dedupe_reset_budget(struct dedupe *t)
{
    t->scan_end_ms = 0;
}

int dedupe_find(struct dedupe *t, struct sequence *r, struct sequence **primary, struct err *e)
{
    *primary = NULL;
    int rc = use_index(t, row_job(r->row_id), e);
    if (rc != 1)
        return rc < 0 ? rc : DEDUPE_LATER;
    content_hash(r, t->seed);
    *primary = find_primary(t, r);
    if (*primary)
        return DEDUPE_UNDER_WAY;
    rc = answered_find(&t->answered, t->current, r, e);
    if (rc == 0 && dedupe_index_lies(t->current)) {
        t->later = 1;
        return DEDUPE_LATER;
    }
    if (rc == 0)
        rc = find_cached(t, r);
    if (rc == 1)
        return DEDUPE_KNOWN;
    know_nothing(r);
    return rc;
}

int dedupe_is_behind(struct dedupe *t)
{
    int later = t->later;
    t->later = 0;
    return later;
}

void dedupe_remove_primary(struct dedupe *t, struct sequence *r, const float *values)
{
    int led = r->is_primary;
    if (led)
        stop_leading(t, r);
    if (!led || !values || !cache_of(t) || !make_key(t, r))
        return;
    score_cache_add(t->options.cache, r->key, values, r->n_values);
    t->added = 1;
}

int dedupe_idle(struct dedupe *t, struct err *e)
{
    return dedupe_indexes_idle(&t->indexes, t->options.store, e);
}

void dedupe_flush(struct dedupe *t)
{
    if (t->added && cache_of(t))
        score_cache_flush(t->options.cache);
    t->added = 0;
}
