/* chunks.c - takes in chunks, and the rows of those with no gap before them. */
#include <sodium.h>
#include <stdio.h>
#include <string.h>

#include "broker/store/private.h"
#include "broker/xxh.h"
#include "schema/log.h"
#include "schema/request.h"

#define OLD_DIGEST_BYTES 32

/* A job is finished when it is sealed and all its rows are. Called after any change that can make
 * it so. */
static int set_finished(struct store *s, int64_t job, struct err *e)
{
    return store_run_job(s, job, JOB_COUNTED, e,
        "update job set finished_ms = ?, running = 0 where job = ? and finished_ms is null and "
        "seal_chunk is not null and next_chunk > seal_chunk and done = placed",
        "ii", (int64_t)now_wall_ms(), job);
}

/* The digest, XXH3-128, that shows whether a chunk that is sent again is the same. It guards
 * against no attacker: a client that makes two chunks with one digest under its own key and number
 * loses only its own rows. */
static struct slice digest_chunk(const struct store_chunk *c, XXH128_canonical_t *digest)
{
    XXH128_canonicalFromHash(digest, XXH3_128bits(c->rows.at, c->rows.len));
    return (struct slice){digest->digest, sizeof digest->digest};
}

/* Chunks kept before version 4 of the schema have BLAKE2b-256, which its length shows. */
static int has_digest(const struct store_chunk *c, struct slice kept, struct slice digest)
{
    uint8_t old[OLD_DIGEST_BYTES];
    if (kept.len == sizeof old) {
        crypto_generichash(old, sizeof old, c->rows.at, c->rows.len, NULL, 0);
        digest = (struct slice){old, sizeof old};
    }
    return kept.len == digest.len && memcmp(kept.at, digest.at, kept.len) == 0;
}

/* The chunk is there already: compares digest and seal. */
static int compare_chunk(
    sqlite3_stmt *q, const struct store_chunk *c, struct slice digest, struct err *e)
{
    struct slice kept = {sqlite3_column_blob(q, 0), (size_t)sqlite3_column_bytes(q, 0)};
    int same = has_digest(c, kept, digest) && sqlite3_column_int(q, 1) == c->seal;
    sqlite3_reset(q);
    if (same)
        return CHUNK_SAME;
    return err_field(e, ASSAY_EKEYREUSED, "chunk",
        "chunk %u of this key is there already with other contents; expected the same bytes and "
        "seal again, "
        "or another key",
        c->chunk);
}

/* The job's chunks so far. */
struct extent {
    int64_t seal, last,
        next; /* sealing chunk (-1: none), highest chunk (-1: none), first not placed */
};

static int read_extent(struct store *s, int64_t job, struct extent *x, struct err *e)
{
    int rc = store_integer(
        s, -1, &x->seal, e, "select coalesce(seal_chunk, -1) from job where job = ?", "i", job);
    if (rc == 0)
        rc = store_integer(s, -1, &x->last, e,
            "select coalesce(max(chunk), -1) from chunk where job = ?", "i", job);
    if (rc == 0)
        rc = store_integer(s, 0, &x->next, e, "select next_chunk from job where job = ?", "i", job);
    return rc;
}

/* Whether this new chunk may be added to the job as it is. */
static int check_chunk(
    const struct store_chunk *c, const struct store_job *j, const struct extent *x, struct err *e)
{
    if (j->cancelled)
        return err_field(e, ASSAY_ESTATE, "key", "the job is cancelled");
    if (x->seal >= 0 && (c->chunk > x->seal || c->seal))
        return err_field(e, ASSAY_ESTATE, "chunk", "the job is sealed at chunk %lld, found %u",
            (long long)x->seal, c->chunk);
    if (c->seal && x->last > (int64_t)c->chunk)
        return err_field(e, ASSAY_ESTATE, "seal",
            "chunk %lld is there, after the one that is to seal, %u", (long long)x->last, c->chunk);
    if (j->accepted + c->n_rows > UINT32_MAX)
        return err_field(
            e, ASSAY_ETOOLARGE, "rows", "expected at most %u rows in a job", UINT32_MAX);
    return 0;
}

/* Bytes kept past a gap count as queued tokens until their rows are placed. */
static int add_pending(struct store *s, int64_t job, size_t bytes, int sign, struct err *e)
{
    int64_t tokens = sign * (int64_t)(bytes / sizeof(int32_t));
    s->queued_tokens += tokens;
    return store_run_job(s, job, JOB_COUNTED, e,
        "update job set tokens_left = tokens_left + ? where job = ?", "ii", tokens, job);
}

static int insert_chunk(
    struct store *s, const struct store_chunk *c, struct slice digest, int in_order, struct err *e)
{
    static const uint8_t nothing;
    struct slice pending = {0};
    if (!in_order)
        pending = c->rows.at ? c->rows : (struct slice){&nothing, 0};
    int rc = store_run(s, e, "insert into chunk values (?, ?, ?, ?, ?, ?)", "iibiib", c->job,
        (int64_t)c->chunk, digest, (int64_t)c->n_rows, (int64_t)c->seal, pending);
    if (rc == 0 && c->seal)
        rc = store_run_job(s, c->job, JOB_SAID, e, "update job set seal_chunk = ? where job = ?",
            "ii", (int64_t)c->chunk, c->job);
    if (rc == 0)
        rc = store_run_job(s, c->job, JOB_COUNTED, e,
            "update job set accepted = accepted + ?, next_chunk = next_chunk + ? where job = ?",
            "iii", (int64_t)c->n_rows, (int64_t)in_order, c->job);
    if (rc == 0 && !in_order)
        rc = add_pending(s, c->job, pending.len, 1, e);
    return rc == 0 && in_order && c->n_rows == 0 ? set_finished(s, c->job, e) : rc;
}

int store_add_chunk(struct store *s, const struct store_chunk *c, struct err *e)
{
    XXH128_canonical_t bytes;
    struct slice digest = digest_chunk(c, &bytes);
    struct store_job j;
    struct extent x;
    sqlite3_stmt *q = store_prepare(s, "select digest, seal from chunk where job = ? and chunk = ?",
        "ii", c->job, (int64_t)c->chunk);
    int rc = store_step(s, q, e);
    if (rc != 0)
        return rc == 1 ? compare_chunk(q, c, digest, e) : rc;
    if ((rc = store_get_job(s, c->job, &j, e)) != 1)
        return rc < 0 ? rc : err_set(e, ASSAY_EUNKNOWNJOB, "no job %lld", (long long)c->job);
    rc = read_extent(s, c->job, &x, e);
    if (rc == 0)
        rc = check_chunk(c, &j, &x, e);
    if (rc == 0)
        rc = insert_chunk(s, c, digest, x.next == (int64_t)c->chunk, e);
    if (rc != 0)
        return rc;
    return x.next == (int64_t)c->chunk ? CHUNK_IN_ORDER : CHUNK_PAST_GAP;
}

int store_chunk_is_owed(struct store *s, struct slice key, uint32_t chunk, struct err *e)
{
    int64_t owed;
    int rc = store_integer(s, 0, &owed, e,
        "select 1 from job where key = ?1 and (next_chunk = ?2 and accepted > placed or "
        "exists (select 1 from chunk where chunk.job = job.job and chunk.chunk = ?2))",
        "ti", key, (int64_t)chunk);
    return rc != 0 ? rc : owed == 1;
}

/* ---- rows ---- */

#define DIGITS 24

/* Decodes the client's id, an integer or a text, from msgpack. An integer too large for SQLite
 * becomes a blob of its digits, written into `digits`. */
static struct client_id decode_id(struct slice id, char digits[DIGITS])
{
    struct msg_reader r;
    struct client_id out = {.type = SQLITE_NULL};
    uint64_t large;
    msg_reader_init(&r, id.at, id.len);
    struct msg_reader again = r;
    if (!id.at)
        return out;
    if (msg_peek(&r) == MSG_INT &&
        msg_read_int(&r, "id", INT64_MIN, INT64_MAX, &out.number, NULL) == 0) {
        out.type = SQLITE_INTEGER;
    } else if (msg_peek(&again) == MSG_INT && msg_read_uint64(&again, "id", &large, NULL) == 0) {
        int n = snprintf(digits, DIGITS, "%llu", (unsigned long long)large);
        out = (struct client_id){SQLITE_BLOB, 0, {(const uint8_t *)digits, (size_t)n}};
    } else if (msg_peek(&r) == MSG_STR && msg_read_str(&r, "id", &out.text, NULL) == 0) {
        out.type = SQLITE_TEXT;
    }
    return out;
}

static void bind_id(sqlite3_stmt *q, int at, const struct client_id *id)
{
    if (id->type == SQLITE_INTEGER)
        sqlite3_bind_int64(q, at, id->number);
    else if (id->type == SQLITE_BLOB)
        sqlite3_bind_blob64(q, at, id->text.at, id->text.len, SQLITE_STATIC);
    else if (id->type == SQLITE_TEXT)
        sqlite3_bind_text64(
            q, at, (const char *)id->text.at, id->text.len, SQLITE_STATIC, SQLITE_UTF8);
    else
        sqlite3_bind_null(q, at); /* not the previous row's value */
}

/* Rows being placed into a job, and what to add to its counters once all are there. */
struct placing {
    int64_t job;
    int64_t next_row, next_seq; /* the next row's number, the next result's cursor */
    int64_t first_row;          /* of the pack in s->input */
    int64_t placed, failed, tokens;
};

/* A row that is born failed gets its result at once. */
static int add_failed(
    struct store *s, const struct placing *p, const struct store_row *r, struct err *e)
{
    struct result_record record = {.job = p->job,
        .seq = p->next_seq,
        .row = p->next_row,
        .mode = s->mode,
        .finished_ms = now_wall_ms(),
        .error_code = store_text(err_name(r->error_code)),
        .error_message = store_text(r->error_message)};
    return store_insert_result(s, &record, NULL, e);
}

/* Whether rows of this shape have a list of sequences, even if only one. */
static int is_list_shape(int shape)
{
    return shape == ROW_RESPONSES || shape == ROW_PAIR;
}

/* Writes the pack of rows so far. */
static int end_packed(struct store *s, const struct placing *p, struct err *e)
{
    if (s->input.n_rows == 0)
        return 0;
    struct packed_columns c = packed_encode(&s->input);
    struct slice sums = {(const uint8_t *)s->input_sums, s->input.n_rows * sizeof s->input_sums[0]};
    packed_clear(&s->input);
    return store_run(s, e,
        "insert into row_input(row, rows, ids, positions, ends, sums) values (?, ?, ?, ?, ?, ?)",
        "ibbbbb", p->first_row, c.rows, c.ids, c.positions, c.ends, sums);
}

/* A row that is born failed has no input: it is empty within a pack, and no pack begins with it. */
static int add_input(struct store *s, struct placing *p, const struct store_row *r, struct err *e)
{
    int failed = r->error_code != 0;
    uint32_t n_ends = !failed && (r->n_parts > 1 || is_list_shape(r->shape)) ? r->n_parts : 0;
    uint32_t n_tokens = failed ? 0 : r->n_tokens, n_positions = failed ? 0 : r->n_positions;
    int rc = packed_has_room(&s->input, n_tokens) ? 0 : end_packed(s, p, e);
    if (failed && s->input.n_rows == 0)
        return rc;
    if (s->input.n_rows == 0)
        p->first_row = p->next_row;
    if (rc != 0)
        return rc;
    s->input_sums[s->input.n_rows] =
        store_sum_input(p->next_row, r->ids, n_tokens, r->positions, n_positions, r->ends, n_ends);
    packed_add(&s->input, r->ids, n_tokens, r->positions, n_positions, r->ends, n_ends);
    return 0;
}

static int insert_row(struct store *s, int64_t row, const struct store_row *r, struct err *e)
{
    char digits[DIGITS];
    struct row_record c = {r->shape, r->n_tokens, r->error_code ? 0 : r->n_values, r->pool,
        decode_id(r->client_id, digits)};
    sqlite3_stmt *q = store_prepare(s,
        "insert into row(row, shape, n_tokens, pool_type, activation, step_token, n_values, sum, "
        "client_id) values (?, ?, ?, ?, ?, ?, ?, ?, ?9)",
        "iiiiiiii", row, c.shape, c.n_tokens, (int64_t)c.pool.type, (int64_t)c.pool.activation,
        (int64_t)c.pool.step_token, c.n_values, store_sum_row(row, &c));
    bind_id(q, 9, &c.id);
    return store_step(s, q, e);
}

static int add_row(struct store *s, struct placing *p, const struct store_row *r, struct err *e)
{
    int failed = r->error_code != 0;
    int rc = insert_row(s, p->next_row, r, e);
    if (rc == 0 && failed)
        rc = add_failed(s, p, r, e);
    if (rc == 0)
        rc = add_input(s, p, r, e);
    if (rc == 0)
        rc = store_row_is_placed(s, p->next_row, failed, e);
    p->next_row++;
    p->next_seq += failed;
    p->placed++;
    p->failed += failed;
    p->tokens += failed ? 0 : r->n_tokens;
    return rc;
}

static int begin_placing(struct store *s, int64_t job, struct placing *p, struct err *e)
{
    *p = (struct placing){.job = job};
    packed_clear(&s->input);
    sqlite3_stmt *q = store_prepare(s, "select placed, next_seq from job where job = ?", "i", job);
    int rc = store_step(s, q, e);
    if (rc != 1)
        return rc < 0 ? rc : err_set(e, ASSAY_EUNKNOWNJOB, "no job %lld", (long long)job);
    p->next_row = row_id_of(job, (uint32_t)sqlite3_column_int64(q, 0));
    p->next_seq = sqlite3_column_int64(q, 1);
    sqlite3_reset(q);
    return 0;
}

static int end_placing(struct store *s, const struct placing *p, struct err *e)
{
    s->queued_tokens += p->tokens;
    int rc = end_packed(s, p, e);
    if (rc != 0)
        return rc;
    rc = store_run_job(s, p->job, JOB_COUNTED, e,
        "update job set placed = placed + ?1, tokens_left = tokens_left + ?2, "
        "next_seq = next_seq + ?3, done = done + ?3, failed = failed + ?3 where job = ?4",
        "iiii", p->placed, p->tokens, p->failed, p->job);
    return rc == 0 && p->failed > 0 ? set_finished(s, p->job, e) : rc;
}

int store_add_rows(struct store *s, int64_t job, store_row_source *next, void *arg, struct err *e)
{
    struct placing p;
    struct store_row row;
    int rc = begin_placing(s, job, &p, e);
    if (rc != 0)
        return rc;
    while ((rc = next(arg, &row, e)) == 1)
        if ((rc = add_row(s, &p, &row, e)) != 0)
            return rc;
    return rc == 0 ? end_placing(s, &p, e) : rc;
}

/* ---- chunks that were past a gap ---- */

/* Gives the rows of a damaged chunk, each born failed. */
static int next_damaged(void *arg, struct store_row *row, struct err *e)
{
    uint32_t *left = arg;
    (void)e;
    *row = (struct store_row){.pool = {POOL_LAST, ACTIVATION_NONE, POOL_NO_STEP_TOKEN},
        .error_code = ASSAY_EDAMAGED,
        .error_message = STORE_ROW_DAMAGED};
    return *left > 0 ? (--*left, 1) : 0;
}

/* The next chunk in order: its bytes, its number of rows, and whether the bytes are what
 * arrived. */
struct pending {
    struct slice rows;
    int64_t n_rows;
    int sound;
};

int store_pending_is_sound(sqlite3_stmt *q, int pending, int digest)
{
    struct store_chunk c = {.rows = {sqlite3_column_blob(q, pending), 0}};
    XXH128_canonical_t bytes;
    c.rows.len = (size_t)sqlite3_column_bytes(q, pending);
    struct slice kept = {sqlite3_column_blob(q, digest), (size_t)sqlite3_column_bytes(q, digest)};
    return kept.at && has_digest(&c, kept, digest_chunk(&c, &bytes));
}

static int read_pending(struct store *s, int64_t job, struct pending *p, struct err *e)
{
    sqlite3_stmt *q = store_prepare(s,
        "select pending, n_rows, digest from chunk where job = ?1 and "
        "chunk = (select next_chunk from job where job = ?1) and pending is not null",
        "i", job);
    int rc = store_step(s, q, e);
    if (rc != 1)
        return rc;
    p->rows = (struct slice){sqlite3_column_blob(q, 0), (size_t)sqlite3_column_bytes(q, 0)};
    p->n_rows = sqlite3_column_int64(q, 1);
    p->sound = store_pending_is_sound(q, 0, 2);
    /* q stays on its row, so the blob stays valid; it is reset at its next use. */
    return 1;
}

/* At most as many rows as the job has accepted and not placed. */
static int place_damaged(struct store *s, int64_t job, int64_t n_rows, struct err *e)
{
    int64_t left;
    int rc =
        store_integer(s, 0, &left, e, "select accepted - placed from job where job = ?", "i", job);
    uint32_t n = n_rows < 0 || left < 0 ? 0 : (uint32_t)(n_rows < left ? n_rows : left);
    return rc == 0 ? store_add_rows(s, job, next_damaged, &n, e) : rc;
}

/* The rows of the chunk that the last call lent are placed now. */
static int end_pending(struct store *s, int64_t job, struct err *e)
{
    return store_run(s, e,
        "update chunk set pending = null where job = ?1 and pending is not null and "
        "chunk = (select next_chunk - 1 from job where job = ?1)",
        "i", job);
}

int store_next_pending(
    struct store *s, int64_t job, struct slice *rows, uint32_t *n_rows, struct err *e)
{
    struct pending p;
    int rc;
    while ((rc = end_pending(s, job, e)) == 0 && (rc = read_pending(s, job, &p, e)) == 1) {
        *rows = p.rows;
        *n_rows = (uint32_t)p.n_rows;
        rc = store_run_job(s, job, JOB_COUNTED, e,
            "update job set next_chunk = next_chunk + 1 where job = ?", "i", job);
        if (rc == 0)
            rc = add_pending(s, job, rows->len, -1, e);
        if (rc == 0 && !p.sound)
            rc = place_damaged(s, job, p.n_rows, e);
        if (rc == 0 && (p.n_rows == 0 || !p.sound))
            rc = set_finished(s, job, e);
        if (rc != 0 || p.sound)
            return rc == 0 ? 1 : rc;
    }
    return rc;
}
