/* sums.c - checksums of records, so that what is read back is what was written, or known not to be.
 *
 * A disk loses writes, a copy is cut, a bit flips, and SQLite believes its pages. So each record
 * that decides what a row is, or what its answer was, carries XXH3-64 over its contents and its own
 * number, which also reveals a record in another's place. Checksums are no guard against anyone who
 * can write the file.
 *
 *     row           its columns except attempts, which counts tries and decides no score
 *     input         a row's ids, positions and ends: one checksum for each row of a record, so that
 *                   damage spares its neighbours
 *     result        everything except vector_json, which is for people
 *     block         the queued and failed bits; the running ones are reset at every start
 *     chunk         everything except pending: its digest is of that
 *     job           two halves of 32 bits: what client and operator set, and what is counted, which
 *                   can be counted again (store/mend.c)
 *
 * Records older than version 6 of the schema have none; they are in jobs below meta's sums_from. */
#include <string.h>

#include "broker/store/private.h"
#include "broker/xxh.h"
#include "schema/request.h"
#include "schema/utf8.h"

int store_read_sums_from(struct store *s, struct err *e)
{
    return store_integer(s, 0, &s->sums_from, e,
        "select value from meta where name = 'sums_from' and typeof(value) = 'integer'", "");
}

/* ---- rows ---- */

static uint64_t add_text(uint64_t h, struct slice text)
{
    return text.at ? XXH3_64bits_withSeed(text.at, text.len, h) : h;
}

int64_t store_sum_row(int64_t row, const struct row_record *r)
{
    int64_t head[] = {row, r->shape, r->n_tokens, r->pool.type, r->pool.activation,
        r->pool.step_token, r->n_values, r->id.type,
        r->id.type == SQLITE_INTEGER ? r->id.number : 0, (int64_t)r->id.text.len};
    return (int64_t)add_text(add_text(XXH3_64bits(head, sizeof head), r->id.text), r->adapter);
}

static struct client_id read_id(sqlite3_stmt *q, int at)
{
    struct client_id id = {.type = sqlite3_column_type(q, at)};
    if (id.type == SQLITE_INTEGER)
        id.number = sqlite3_column_int64(q, at);
    else if (id.type != SQLITE_NULL) /* text pointer first: it decides the bytes */
        id.text.at =
            id.type == SQLITE_BLOB ? sqlite3_column_blob(q, at) : sqlite3_column_text(q, at);
    if (id.text.at)
        id.text.len = (size_t)sqlite3_column_bytes(q, at);
    return id;
}

static int in_range(int64_t v, int64_t min, int64_t max)
{
    return v >= min && v <= max;
}

/* Reads three columns: 1, or 0 when they are not a pooling. */
static int read_pooling(sqlite3_stmt *q, int at, struct pooling *p)
{
    int64_t type = sqlite3_column_int64(q, at), activation = sqlite3_column_int64(q, at + 1),
            step_token = sqlite3_column_int64(q, at + 2);
    *p = (struct pooling){(int32_t)type, (int32_t)activation, (int32_t)step_token};
    return in_range(type, POOL_DEFAULT, POOL_POSITIONS) &&
           in_range(activation, ACTIVATION_DEFAULT, ACTIVATION_CLASS1) &&
           in_range(step_token, POOL_NO_STEP_TOKEN, INT32_MAX);
}

/* Whether it is what a route can be: names, with slashes and commas between. */
static int is_route(struct slice s)
{
    size_t from = 0;
    int is = s.len > 0 && s.len < STORE_ROUTE_BYTES;
    for (size_t i = 0; is && i <= s.len; i++) {
        int ends = i == s.len || s.at[i] == '/' || s.at[i] == ',';
        int may_be_empty = i > 0 && s.at[i - 1] == '/'; /* no adapter */
        if (!ends)
            continue;
        is = i == from ? may_be_empty : adapters_is_name((const char *)s.at + from, i - from);
        from = i + 1;
    }
    return is;
}

/* Limits that every row keeps, also one without a checksum. */
static int is_possible(const struct row_record *r)
{
    return in_range(r->shape, ROW_IDS, ROW_DOCUMENTS) && in_range(r->n_tokens, 0, INT32_MAX) &&
           in_range(r->n_values, 0, UINT32_MAX / sizeof(float)) &&
           (!r->adapter.at || is_route(r->adapter)) &&
           (r->id.type != SQLITE_TEXT ||
               utf8_valid(r->id.text.at, r->id.text.len) == r->id.text.len);
}

int store_read_record(
    const struct store *s, int64_t row, sqlite3_stmt *q, int at, struct row_record *r)
{
    *r = (struct row_record){.shape = sqlite3_column_int64(q, at),
        .n_tokens = sqlite3_column_int64(q, at + 1),
        .n_values = sqlite3_column_int64(q, at + 5),
        .id = read_id(q, at + 6)};
    r->adapter.at = sqlite3_column_text(q, at + 8);
    r->adapter.len = (size_t)sqlite3_column_bytes(q, at + 8);
    return read_pooling(q, at + 2, &r->pool) && is_possible(r) &&
           store_sum_fits(s, row_job(row), q, at + 7, store_sum_row(row, r));
}

static uint64_t hash_of(const void *numbers, uint32_t n)
{
    return n > 0 ? XXH3_64bits(numbers, (size_t)n * sizeof(uint32_t)) : 0;
}

struct input_hash store_hash_input(const struct row_input *in)
{
    return (struct input_hash){in->n_tokens, in->n_positions, in->n_ends,
        XXH3_64bits(in->ids, (size_t)in->n_tokens * sizeof(int32_t)),
        hash_of(in->positions, in->n_positions), hash_of(in->ends, in->n_ends)};
}

int64_t store_sum_input(int64_t row, const struct input_hash *h)
{
    uint64_t head[] = {
        (uint64_t)row, h->n_tokens, h->n_positions, h->n_ends, h->ids, h->positions, h->ends};
    return (int64_t)XXH3_64bits(head, sizeof head);
}

/* ---- results ---- */

int64_t store_sum_result(const struct result_record *r)
{
    int64_t head[] = {r->job, r->seq, r->row, r->mode, r->finished_ms, r->has_score, 0,
        (int64_t)r->vector.len, (int64_t)r->pooled.len, (int64_t)r->error_code.len,
        (int64_t)r->error_message.len};
    double score = r->has_score && r->score != 0 ? r->score : 0; /* SQLite keeps -0 as 0 */
    memcpy(&head[6], &score, sizeof score);
    uint64_t h = XXH3_64bits(head, sizeof head);
    h = add_text(add_text(h, r->vector), r->pooled);
    return (int64_t)add_text(add_text(h, r->error_code), r->error_message);
}

static struct slice blob_at(sqlite3_stmt *q, int at)
{
    return (struct slice){sqlite3_column_blob(q, at), (size_t)sqlite3_column_bytes(q, at)};
}

static struct slice text_at(sqlite3_stmt *q, int at)
{
    const uint8_t *text = sqlite3_column_text(q, at);
    return (struct slice){text, text ? (size_t)sqlite3_column_bytes(q, at) : 0};
}

int store_read_result(const struct store *s, sqlite3_stmt *q, int at, struct result_record *r)
{
    *r = (struct result_record){.job = sqlite3_column_int64(q, at),
        .seq = sqlite3_column_int64(q, at + 1),
        .row = sqlite3_column_int64(q, at + 2),
        .mode = sqlite3_column_int64(q, at + 3),
        .finished_ms = sqlite3_column_int64(q, at + 4),
        .has_score = sqlite3_column_type(q, at + 5) != SQLITE_NULL,
        .score = sqlite3_column_double(q, at + 5),
        .vector = blob_at(q, at + 6),
        .pooled = blob_at(q, at + 7),
        .error_code = text_at(q, at + 8),
        .error_message = text_at(q, at + 9)};
    int has_values = r->has_score ? !r->vector.at : r->vector.len >= sizeof(float);
    return row_job(r->row) == r->job && r->vector.len % sizeof(float) == 0 &&
           r->pooled.len % (2 * sizeof(int32_t)) == 0 && has_values == (r->error_code.at == NULL) &&
           store_sum_fits(s, r->job, q, at + 10, store_sum_result(r));
}

/* ---- blocks, and all ---- */

int64_t store_sum_block(int64_t block, uint64_t queued, uint64_t failed)
{
    uint64_t numbers[] = {(uint64_t)block, queued, failed};
    return (int64_t)XXH3_64bits(numbers, sizeof numbers);
}

int store_sum_fits(const struct store *s, int64_t job, sqlite3_stmt *q, int at, int64_t sum)
{
    if (sqlite3_column_type(q, at) == SQLITE_NULL)
        return job < s->sums_from;
    return sqlite3_column_type(q, at) == SQLITE_INTEGER && sqlite3_column_int64(q, at) == sum;
}

/* ---- jobs ---- */

static int64_t sum_said(sqlite3_stmt *q)
{
    int64_t numbers[] = {sqlite3_column_int64(q, 0), sqlite3_column_int64(q, 2),
        sqlite3_column_int64(q, 3), sqlite3_column_int64(q, 4),
        sqlite3_column_type(q, 5) == SQLITE_NULL ? -1 : sqlite3_column_int64(q, 5),
        sqlite3_column_int64(q, 15), sqlite3_column_int64(q, 18), sqlite3_column_int64(q, 13)};
    uint64_t h = XXH3_64bits(numbers, sizeof numbers);
    int64_t truncation = sqlite3_column_int64(q, 22);
    if (truncation != 0) /* 0 adds nothing: so it is in records of before version 8 */
        h = XXH3_64bits_withSeed(&truncation, sizeof truncation, h);
    h = add_text(add_text(h, text_at(q, 1)), text_at(q, 23));
    return (int64_t)(uint32_t)add_text(h, text_at(q, 24)); /* null adds nothing */
}

static int64_t sum_counted(sqlite3_stmt *q)
{
    static const int columns[] = {0, 6, 7, 8, 9, 10, 14, 16, 17, 19, 20};
    int64_t numbers[sizeof columns / sizeof *columns];
    for (size_t i = 0; i < sizeof columns / sizeof *columns; i++)
        numbers[i] = sqlite3_column_int64(q, columns[i]);
    return (int64_t)(uint32_t)XXH3_64bits(numbers, sizeof numbers);
}

/* The halves of the job's record that the open transaction has changed. */
static int touched(const struct store *s, int64_t job)
{
    for (int i = 0; i < s->n_touched; i++)
        if (s->touched[i].job == job)
            return s->touched[i].what;
    return 0;
}

int store_job_damage(const struct store *s, sqlite3_stmt *q)
{
    int64_t job = sqlite3_column_int64(q, 0), sum = sqlite3_column_int64(q, 21);
    int type = sqlite3_column_type(q, 21), damage = 0;
    if (type == SQLITE_NULL && job < s->sums_from)
        return 0;
    if (type != SQLITE_INTEGER || (sum >> 32 & UINT32_MAX) != sum_said(q))
        damage |= JOB_SAID;
    if (type != SQLITE_INTEGER || (sum & UINT32_MAX) != sum_counted(q))
        damage |= JOB_COUNTED;
    return damage & ~touched(s, job);
}

static int seal_job(struct store *s, const struct touched_job *t, struct err *e)
{
    sqlite3_stmt *q = store_prepare(s, STORE_JOB_COLUMNS "where job = ?", "i", t->job);
    int rc = store_step(s, q, e);
    if (rc != 1)
        return rc;
    int64_t old = sqlite3_column_int64(q, 21);
    int all = sqlite3_column_type(q, 21) != SQLITE_INTEGER;
    uint64_t said = t->what & JOB_SAID || all ? (uint64_t)sum_said(q) : (uint64_t)old >> 32;
    uint64_t counted = t->what & JOB_COUNTED || all ? (uint64_t)sum_counted(q) : (uint32_t)old;
    sqlite3_reset(q);
    return store_run(s, e, "update job set sum = ? where job = ?", "ii",
        (int64_t)(said << 32 | counted), t->job);
}

int store_seal_jobs(struct store *s, struct err *e)
{
    int rc = 0;
    for (; rc == 0 && s->n_touched > 0; s->n_touched -= rc == 0)
        rc = seal_job(s, &s->touched[s->n_touched - 1], e);
    return rc;
}

int store_touch_job(struct store *s, int64_t job, int what, struct err *e)
{
    int rc = 0;
    for (int i = 0; i < s->n_touched; i++)
        if (s->touched[i].job == job) {
            s->touched[i].what |= what;
            return 0;
        }
    if (s->n_touched == STORE_TOUCHED)
        rc = store_seal_jobs(s, e);
    if (rc == 0)
        s->touched[s->n_touched++] = (struct touched_job){job, what};
    return rc;
}

/* A damaged half stays damaged until somebody accepts it as it is. */
int store_touch_sound(struct store *s, int64_t job, struct err *e)
{
    sqlite3_stmt *q = store_prepare(s, STORE_JOB_COLUMNS "where job = ?", "i", job);
    int rc = store_step(s, q, e);
    if (rc != 1)
        return rc;
    int damage = store_job_damage(s, q);
    sqlite3_reset(q);
    return store_touch_job(s, job, JOB_SAID & ~damage, e);
}
