/* dedupe.c - see dedupe.h.
 *
 * The index uses XXH3-64 with a secret seed; only hints depend on it. An entry of the score cache
 * is proven by its key: the first 128 bits of BLAKE2b over the following, in this order, each
 * number as little-endian int32:
 *     model      32 bytes: BLAKE2b-256 of program version, checkpoint digest and mode, each ended
 *                by 0; an adapter's digest would follow
 *     numbers    n_tokens, n_positions, n_values, pooling, activation, step token (-1 unless STEP)
 *     ids        [n_tokens]
 *     positions  [n_positions]
 * Each length precedes what it measures, so no two rows have the same encoding. The hash is
 * cryptographic, because a client that could make two rows collide could give its score to another
 * client's row.
 *
 * Primaries are kept in a hash table of pointers. A row enters its job's index when it is sent to a
 * worker, so before it can finish. A new index is empty; if the job has finished rows (after a
 * restart, or because the index was closed), it is first filled from the database, some
 * milliseconds at a time, and the job waits for that, for at most wait_ms.
 *
 * Only rows of one job are compared, so that a job submitted twice on purpose is computed twice;
 * the score cache works across jobs. */
#include "broker/sched/dedupe.h"

#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "broker/sched/dedupe_index.h"
#include "broker/xxh.h"
#include "schema/log.h"
#include "schema/version.h"

#define MODEL_BYTES 32
#define SCAN_MS 10
#define SCAN_ROWS 64
#define SCANNED INT64_MAX
#define IDLE_TABLES 512

struct dedupe {
    struct dedupe_options options;
    uint8_t model[MODEL_BYTES];
    struct sequence **primaries; /* open addressing; NULL is free; a removal moves entries back */
    size_t n_primaries, room;
    struct dedupe_index **tables; /* sorted by job; room for max_tables */
    uint32_t n_tables, idle_at;
    size_t
        small_bytes; /* memory of the small ones: when last counted, plus those added since then */
    struct dedupe_index *current; /* the last one used; NULL: none */
    struct sequence *read;        /* the last row read from the database: a list of its sequences */
    int64_t read_row;
    uint64_t seed;            /* hash seed of new tables */
    const struct table *rows; /* in flight; NULL: none */
    long long scan_end_ms;    /* end of this pass's time for scanning; 0: it has not begun */
    int later;
    int added; /* added to the score cache since the last flush */
};

/* ---- tables of jobs ---- */

/* Removes a table whose index is already closed. */
static void remove_table(struct dedupe *t, uint32_t at)
{
    t->n_tables--;
    memmove(t->tables + at, t->tables + at + 1, (t->n_tables - at) * sizeof(struct dedupe_index *));
    t->current = NULL;
}

static void count_bytes(struct dedupe *t)
{
    t->small_bytes = 0;
    for (uint32_t i = 0; i < t->n_tables; i++)
        t->small_bytes += dedupe_index_small_bytes(t->tables[i]);
}

/* Picks a table to close at random: jobs take turns, so with any fixed order the next one to close
 * would be the next one needed. Prefers a small one, which is quickly filled again. */
static uint32_t one_to_close(const struct dedupe *t)
{
    uint32_t first = randombytes_uniform(t->n_tables);
    for (uint32_t k = 0; k < t->n_tables; k++) {
        uint32_t at = (first + k) % t->n_tables;
        if (dedupe_index_small_bytes(t->tables[at]) > 0)
            return at;
    }
    return first;
}

/* Closes tables while there are too many, or the small ones take too much memory. */
static void limit_tables(struct dedupe *t)
{
    while (t->n_tables == t->options.max_tables ||
           (t->n_tables > 0 && t->small_bytes > DEDUPE_BYTES)) {
        uint32_t at = one_to_close(t);
        size_t bytes = dedupe_index_small_bytes(t->tables[at]); /* it may have grown since */
        t->small_bytes -= bytes < t->small_bytes ? bytes : t->small_bytes;
        dedupe_index_close(&t->tables[at]);
        remove_table(t, at);
    }
}

/* 1: this job still has work. Negative: the store failed. */
static int is_unfinished(struct dedupe *t, int64_t job, struct err *e)
{
    struct store_job j;
    int rc = store_get_job(t->options.store, job, &j, e);
    return rc != 1 ? rc : !j.cancelled && j.finished_ms == 0;
}

/* Returns where the job's table is in the list, or would be. */
static uint32_t place_of(const struct dedupe *t, int64_t job)
{
    uint32_t low = 0, high = t->n_tables;
    while (low < high) {
        uint32_t middle = (low + high) / 2;
        if (dedupe_index_job(t->tables[middle]) < job)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* Returns the job's table; NULL: it is not open. */
static struct dedupe_index *table_of(const struct dedupe *t, int64_t job)
{
    if (t->current && dedupe_index_job(t->current) == job)
        return t->current;
    uint32_t at = place_of(t, job);
    return at < t->n_tables && dedupe_index_job(t->tables[at]) == job ? t->tables[at] : NULL;
}

static void open_table(struct dedupe *t, int64_t job, const char *dir)
{
    limit_tables(t);
    uint32_t at = place_of(t, job);
    memmove(t->tables + at + 1, t->tables + at, (t->n_tables - at) * sizeof(struct dedupe_index *));
    t->tables[at] = dedupe_index_open(&(struct dedupe_index_options){
        dir, job, t->seed, t->options.min_free_bytes, t->options.now_ms()});
    t->n_tables++;
    t->small_bytes += dedupe_index_small_bytes(t->tables[at]);
    for (size_t i = 0; i < t->room; i++) /* under way, so not in the database yet */
        if (t->primaries[i] && row_job(t->primaries[i]->row_id) == job)
            dedupe_index_add(
                t->tables[at], t->primaries[i]->hash, row_index(t->primaries[i]->row_id));
}

static void close_lying(struct dedupe *t, int64_t job)
{
    uint32_t at = place_of(t, job);
    log_warn("event=dedupe_damaged job=%lld action=\"made again in memory\"", (long long)job);
    dedupe_index_close(&t->tables[at]);
    remove_table(t, at);
}

/* Makes the job's table the current one: 1, or 0 when this pass has no time left to fill one
 * more. */
static int choose_table(struct dedupe *t, int64_t job)
{
    struct dedupe_index *table = table_of(t, job);
    int lies = table && dedupe_index_lies(table);
    if ((!table || lies) && t->scan_end_ms != 0 && t->options.now_ms() >= t->scan_end_ms)
        return 0;
    if (lies)
        close_lying(t, job);
    if (!table || lies)
        open_table(t, job, lies ? NULL : t->options.data_dir);
    t->current = table_of(t, job);
    return 1;
}

int dedupe_idle(struct dedupe *t, struct err *e)
{
    count_bytes(t);
    limit_tables(t);
    for (int k = 0; k < IDLE_TABLES && t->idle_at < t->n_tables; k++) {
        int rc = is_unfinished(t, dedupe_index_job(t->tables[t->idle_at]), e);
        if (rc < 0)
            return rc;
        if (rc == 1) {
            t->idle_at++;
            continue;
        }
        dedupe_index_close(&t->tables[t->idle_at]);
        remove_table(t, t->idle_at);
    }
    if (t->idle_at >= t->n_tables)
        t->idle_at = 0;
    return 0;
}

/* ---- content ---- */

/* What equal sequences have in common apart from ids and positions. */
struct numbers {
    int32_t n_tokens, n_positions, n_values;
    struct pooling pool; /* the step token only where it counts */
};

static struct numbers numbers_of(const struct sequence *r)
{
    struct numbers n = {
        (int32_t)r->n_tokens, (int32_t)r->n_positions, (int32_t)r->n_values, r->pool};
    if (r->pool.type != POOL_STEP)
        n.pool.step_token = POOL_NO_STEP_TOKEN;
    return n;
}

static void make_key(const struct dedupe *t, struct sequence *r)
{
    struct numbers numbers = numbers_of(r);
    crypto_generichash_state h;
    crypto_generichash_init(&h, NULL, 0, ROW_KEY_BYTES);
    crypto_generichash_update(&h, t->model, sizeof t->model);
    crypto_generichash_update(&h, (const uint8_t *)&numbers, sizeof numbers);
    crypto_generichash_update(&h, (const uint8_t *)r->ids, r->n_tokens * sizeof *r->ids);
    crypto_generichash_update(
        &h, (const uint8_t *)r->positions, r->n_positions * sizeof *r->positions);
    crypto_generichash_final(&h, r->key, sizeof r->key);
    r->has_key = 1;
}

static void hash_row(const struct dedupe_index *table, struct sequence *r)
{
    struct numbers numbers = numbers_of(r);
    uint64_t h = XXH3_64bits_withSeed(&numbers, sizeof numbers, dedupe_index_seed(table));
    h = XXH3_64bits_withSeed(r->ids, r->n_tokens * sizeof *r->ids, h);
    if (r->n_positions > 0)
        h = XXH3_64bits_withSeed(r->positions, r->n_positions * sizeof *r->positions, h);
    r->hash = h;
    r->hash_seed = dedupe_index_seed(table);
}

static int is_same(const struct sequence *a, const struct sequence *b)
{
    struct numbers n = numbers_of(a), m = numbers_of(b);
    return memcmp(&n, &m, sizeof n) == 0 &&
           memcmp(a->ids, b->ids, a->n_tokens * sizeof *a->ids) == 0 &&
           memcmp(a->positions, b->positions, a->n_positions * sizeof *a->positions) == 0;
}

/* ---- rows under way ---- */

static int is_primary_of(const struct sequence *primary, const struct sequence *r)
{
    return primary->hash == r->hash && row_job(primary->row_id) == row_job(r->row_id) &&
           is_same(primary, r);
}

/* Returns the slot where the row's primary is, or would be. */
static size_t primary_slot(const struct dedupe *t, const struct sequence *r)
{
    size_t at = r->hash & (t->room - 1);
    while (t->primaries[at] && !is_primary_of(t->primaries[at], r))
        at = (at + 1) & (t->room - 1);
    return at;
}

static void grow(struct dedupe *t)
{
    struct sequence **old = t->primaries;
    size_t n = t->room;
    t->room *= 2;
    t->primaries = xcalloc(t->room, sizeof(struct sequence *));
    for (size_t i = 0; i < n; i++)
        if (old[i])
            t->primaries[primary_slot(t, old[i])] = old[i];
    free(old);
}

void dedupe_add_lone(struct dedupe *t, struct sequence *r)
{
    struct dedupe_index *table = table_of(t, row_job(r->row_id));
    if (!table)
        return;
    if (r->hash_seed != dedupe_index_seed(table))
        hash_row(table, r);
    dedupe_index_add(table, r->hash, row_index(r->row_id));
}

void dedupe_add_primary(struct dedupe *t, struct sequence *r)
{
    if (2 * (t->n_primaries + 1) > t->room)
        grow(t);
    t->primaries[primary_slot(t, r)] = r;
    t->n_primaries++;
    r->is_primary = 1;
    dedupe_add_lone(t, r);
}

static void stop_leading(struct dedupe *t, struct sequence *r)
{
    size_t hole = primary_slot(t, r);
    t->primaries[hole] = NULL;
    t->n_primaries--;
    r->is_primary = 0;
    for (size_t at = (hole + 1) & (t->room - 1); t->primaries[at]; at = (at + 1) & (t->room - 1)) {
        struct sequence *moved = t->primaries[at];
        t->primaries[at] = NULL;
        t->primaries[primary_slot(t, moved)] = moved;
    }
}

/* ---- rows that were answered ---- */

static void forget_read(struct dedupe *t)
{
    for (struct sequence *r = t->read, *next; r; r = next) {
        next = r->next;
        sequence_free(&r);
    }
    t->read = NULL;
    t->read_row = 0;
}

static void keep_read(void *arg, struct sequence *r)
{
    struct dedupe *t = arg;
    r->next = t->read;
    t->read = r;
}

/* Reads this row into t->read. A row's content never changes, so one read is enough. */
static int read_row(struct dedupe *t, int64_t row, struct err *e)
{
    if (t->read_row == row)
        return 0;
    forget_read(t);
    int rc = store_one_row(t->options.store, row, keep_read, t, e);
    t->read_row = rc == 0 ? row : 0;
    return rc;
}

/* Allocates room for a result of this origin. */
static void make_room(struct sequence *r, enum row_origin origin)
{
    free(r->found_values);
    r->found_values = xcalloc(r->n_values + 1, sizeof *r->found_values);
    r->origin = origin;
    free(r->found_message);
    r->found_message = NULL;
    r->found_error = 0;
}

/* Takes an error that any equal row would get too. */
static int take_error(struct sequence *r, const struct store_answer *answer)
{
    static const int codes[] = {ASSAY_ENONFINITE, ASSAY_EKILLED};
    for (size_t i = 0; i < sizeof codes / sizeof codes[0]; i++)
        if (strcmp(answer->error_code, err_name(codes[i])) == 0) {
            r->found_error = codes[i];
            r->found_message = strdup(answer->error_message);
            return 1;
        }
    return 0;
}

/* Takes the answer of `same`, a sequence of the row in t->read that equals r: 1 if it has one. */
static int take_answer(
    struct dedupe *t, const struct sequence *same, struct sequence *r, struct err *e)
{
    const struct row *line = same->of && t->rows ? table_find(t->rows, same->row_id) : NULL;
    if (line && line->done[same->part] && line->error_code == 0) {
        make_room(r, ROW_COPIED);
        r->found_values[0] = line->values[same->part];
        return 1;
    }
    make_room(r, ROW_COPIED);
    struct store_answer answer = {.from = same->part, .n = r->n_values, .values = r->found_values};
    int rc = store_read_answer(t->options.store, same->row_id, &answer, e);
    if (rc != 1)
        return rc;
    if (answer.error_code[0])
        return same->of ? 0 : take_error(r, &answer);
    if (answer.n_values != (same->of ? same->of->n_parts : same->n_values))
        return 0;
    /* SQLite stores -0.0 as 0, which would show in a list. */
    return !r->of || same->of || r->found_values[0] != 0;
}

/* Takes the answer from t->read, the row that the table names for r: 1 when it equals r and has an
 * answer. */
static int take_from_read(struct dedupe *t, int64_t row, struct sequence *r, struct err *e)
{
    int rc = 0, is_so = 0;
    for (struct sequence *same = t->read; rc == 0 && same; same = same->next) {
        if (is_same(same, r) && (row != r->row_id || same->part != r->part))
            rc = take_answer(t, same, r, e);
        else if (!is_so)
            hash_row(t->current, same);
        is_so |= is_same(same, r) || dedupe_index_is_same(same->hash, r->hash);
    }
    if (rc == 0 && !is_so) /* the table is wrong: a row's content never changes */
        dedupe_index_distrust(t->current);
    return rc;
}

/* Looks for an answer in the current table's rows: 1: found; 0: not; or negative. */
static int find_answered(struct dedupe *t, struct sequence *r, struct err *e)
{
    uint32_t found[DEDUPE_INDEX_SAME], n = dedupe_index_find(t->current, r->hash, found);
    int rc = 0;
    for (uint32_t k = 0; rc == 0 && k < n; k++) {
        int64_t row = row_id_of(row_job(r->row_id), found[k]);
        if (row == r->row_id && !r->of)
            continue;
        rc = read_row(t, row, e);
        if (rc == 0)
            rc = take_from_read(t, row, r, e);
    }
    return rc;
}

/* ---- rows that were answered before the table was made ---- */

struct scan {
    struct sequence *first, **end;
};

static void note_finished(void *arg, struct sequence *r)
{
    struct scan *scan = arg;
    *scan->end = r;
    scan->end = &r->next;
}

/* Adds a finished row to the table, unless an equal one is there. */
static int add_finished(struct dedupe *t, struct sequence *r, struct err *e)
{
    hash_row(t->current, r);
    int rc = find_answered(t, r, e);
    if (rc == 0)
        dedupe_index_add(t->current, r->hash, row_index(r->row_id));
    return rc < 0 ? rc : 0;
}

/* Scans the next few finished rows: 1 when those were the last. */
static int scan_some(struct dedupe *t, struct err *e)
{
    int64_t job = dedupe_index_job(t->current);
    int64_t after = row_id_of(job, 0) + dedupe_index_scanned(t->current) - 1;
    struct scan scan = {.end = &scan.first};
    int rc = store_finished_rows(t->options.store, job, &after, SCAN_ROWS, note_finished, &scan, e);
    int more = rc == 1;
    for (struct sequence *r = scan.first, *next; r; r = next) {
        next = r->next;
        if (rc >= 0)
            rc = add_finished(t, r, e);
        sequence_free(&r);
    }
    if (rc < 0)
        return rc;
    dedupe_index_set_scanned(t->current, more ? (int64_t)row_index(after) + 1 : SCANNED);
    return !more;
}

/* Fills the current table: 1 when it is complete, 0 when that takes longer than half of the time
 * that this pass has left. The other half is for other jobs: most have little to read. The first
 * table of a pass always gets some rows; if this process is held up between two readings of the
 * clock, no pass would make progress otherwise. */
static int fill_table(struct dedupe *t, struct err *e)
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

/* Makes the job's table the current one. 1: it may be searched, though it may lack rows after
 * wait_ms; 0: not yet. */
static int use_table(struct dedupe *t, int64_t job, struct err *e)
{
    int is_chosen = choose_table(t, job), rc = is_chosen ? fill_table(t, e) : 0;
    t->later |= rc == 0;
    return rc == 0 && is_chosen ? has_waited(t) : rc;
}

/* ---- beginning and end ---- */

struct dedupe *dedupe_new(const struct dedupe_options *options)
{
    struct dedupe *t = xcalloc(1, sizeof *t);
    const char *parts[] = {ASSAY_VERSION, options->digest, options->mode};
    crypto_generichash_state h;
    t->options = *options;
    if (t->options.max_tables == 0)
        t->options.max_tables = DEDUPE_TABLES;
    if (!t->options.now_ms)
        t->options.now_ms = now_mono_ms;
    t->tables = xcalloc(t->options.max_tables, sizeof(struct dedupe_index *));
    randombytes_buf(&t->seed, sizeof t->seed);
    t->room = 1024;
    t->primaries = xcalloc(t->room, sizeof(struct sequence *));
    crypto_generichash_init(&h, NULL, 0, MODEL_BYTES);
    for (int i = 0; i < 3; i++)
        crypto_generichash_update(&h, (const uint8_t *)parts[i], strlen(parts[i]) + 1);
    crypto_generichash_final(&h, t->model, MODEL_BYTES);
    if (options->data_dir)
        dedupe_index_sweep(options->data_dir);
    return t;
}

void dedupe_free(struct dedupe **t)
{
    if (!*t)
        return;
    while ((*t)->n_tables > 0)
        dedupe_index_close(&(*t)->tables[--(*t)->n_tables]);
    free((*t)->tables);
    forget_read(*t);
    free((*t)->primaries);
    free(*t);
    *t = NULL;
}

void dedupe_use_rows(struct dedupe *t, const struct table *rows)
{
    t->rows = rows;
}

/* ---- all of it ---- */

static struct score_cache *cache_of(const struct dedupe *t)
{
    return t->options.cache ? *t->options.cache : NULL;
}

static int find_cached(struct dedupe *t, struct sequence *r)
{
    if (!cache_of(t) || r->fresh || r->not_cached)
        return 0;
    if (!r->has_key)
        make_key(t, r);
    make_room(r, ROW_CACHED);
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
    const struct dedupe_index *table = table_of(t, row_job(r->row_id));
    if (!table)
        return;
    if (r->hash_seed != dedupe_index_seed(table))
        hash_row(table, r);
    dedupe_index_expect(table, r->hash);
}

void dedupe_reset_budget(struct dedupe *t)
{
    t->scan_end_ms = 0;
}

int dedupe_find(struct dedupe *t, struct sequence *r, struct sequence **primary, struct err *e)
{
    *primary = NULL;
    int rc = use_table(t, row_job(r->row_id), e);
    if (rc != 1)
        return rc < 0 ? rc : DEDUPE_LATER;
    if (r->hash_seed != dedupe_index_seed(t->current))
        hash_row(t->current, r);
    *primary = t->primaries[primary_slot(t, r)];
    if (*primary)
        return DEDUPE_UNDER_WAY;
    rc = find_answered(t, r, e);
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
    if (!led || !values || !cache_of(t))
        return;
    if (!r->has_key)
        make_key(t, r);
    score_cache_add(t->options.cache, r->key, values, r->n_values);
    t->added = 1;
}

void dedupe_flush(struct dedupe *t)
{
    if (t->added && cache_of(t))
        score_cache_flush(t->options.cache);
    t->added = 0;
}
