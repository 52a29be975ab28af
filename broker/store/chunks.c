/* chunks.c - takes in chunks, and keeps those past a gap until it is closed. */
#include <sodium.h>
#include <stdlib.h>
#include <string.h>

#include "broker/store/private.h"
#include "broker/xxh.h"
#include "schema/log.h"
#include "schema/request.h"

#define OLD_DIGEST_BYTES 32

int store_set_finished(struct store *s, int64_t job, struct err *e)
{
    return store_run_job(s, job, JOB_COUNTED, e,
        "update job set finished_ms = ?, running = 0 where job = ? and finished_ms is null and "
        "seal_chunk is not null and next_chunk > seal_chunk and done = placed",
        "ii", (int64_t)now_wall_ms(), job);
}

/* The digest, XXH3-128, that shows whether a chunk that is sent again is the same. It guards
 * against no attacker: a client that makes two chunks with one digest under its own key and number
 * loses only its own rows. */
void store_digest_rows(struct slice rows, uint8_t digest[STORE_DIGEST_BYTES])
{
    XXH128_canonical_t canonical;
    XXH128_canonicalFromHash(&canonical, XXH3_128bits(rows.at, rows.len));
    memcpy(digest, canonical.digest, STORE_DIGEST_BYTES);
}

/* Chunks kept before version 4 of the schema have BLAKE2b-256, which its length shows. */
static int has_digest(struct slice rows, struct slice kept, struct slice digest)
{
    uint8_t old[OLD_DIGEST_BYTES];
    if (kept.len == sizeof old) {
        crypto_generichash(old, sizeof old, rows.at, rows.len, NULL, 0);
        digest = (struct slice){old, sizeof old};
    }
    return kept.len == digest.len && memcmp(kept.at, digest.at, kept.len) == 0;
}

static int64_t sum_chunk(const int64_t numbers[4], struct slice digest)
{
    uint64_t h = XXH3_64bits(numbers, 4 * sizeof *numbers);
    return (int64_t)XXH3_64bits_withSeed(digest.at, digest.len, h);
}

int store_chunk_is_sound(sqlite3_stmt *q, int64_t job, int at)
{
    int64_t numbers[] = {job, sqlite3_column_int64(q, at), sqlite3_column_int64(q, at + 1),
        sqlite3_column_int64(q, at + 2)};
    struct slice digest = {sqlite3_column_blob(q, at + 3), (size_t)sqlite3_column_bytes(q, at + 3)};
    int type = sqlite3_column_type(q, at + 4);
    return digest.at && (type == SQLITE_NULL || /* from before version 9 */
                            (type == SQLITE_INTEGER &&
                                sqlite3_column_int64(q, at + 4) == sum_chunk(numbers, digest)));
}

/* The chunk is there already: compares digest and seal. */
static int compare_chunk(
    sqlite3_stmt *q, const struct store_chunk *c, struct slice digest, struct err *e)
{
    struct slice kept = {sqlite3_column_blob(q, 3), (size_t)sqlite3_column_bytes(q, 3)};
    int same = has_digest(c->rows, kept, digest) && sqlite3_column_int(q, 2) == c->seal;
    int sound = store_chunk_is_sound(q, c->job, 0);
    sqlite3_reset(q);
    if (!sound)
        return err_field(e, ASSAY_EDAMAGED, "chunk",
            "the record of chunk %u in the database is damaged (`assay scrub`): whether this is "
            "the same chunk is not known; expected another key",
            c->chunk);
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
    if (j->truncated_otherwise) /* or it would have rows of both kinds */
        return err_field(e, ASSAY_ESTATE, "key",
            "the job is held: %s; expected resume with accept_mode first, or another key",
            j->reason);
    /* The sealing chunk itself is missing where damage took its record. */
    if (x->seal >= 0 && (c->chunk > x->seal || c->seal != ((int64_t)c->chunk == x->seal)))
        return err_field(e, ASSAY_ESTATE, "chunk", "the job is sealed at chunk %lld, found %u%s",
            (long long)x->seal, c->chunk, c->seal ? " with seal" : "");
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
    int64_t numbers[] = {c->job, c->chunk, c->n_rows, c->seal};
    int rc = store_run(s, e,
        "insert into chunk(job, chunk, n_rows, seal, digest, pending, sum) "
        "values (?, ?, ?, ?, ?, ?, ?)",
        "iiiibbi", numbers[0], numbers[1], numbers[2], numbers[3], digest, pending,
        sum_chunk(numbers, digest));
    if (rc == 0 && c->seal)
        rc = store_run_job(s, c->job, JOB_SAID, e, "update job set seal_chunk = ? where job = ?",
            "ii", (int64_t)c->chunk, c->job);
    if (rc == 0)
        rc = store_run_job(s, c->job, JOB_COUNTED, e,
            "update job set accepted = accepted + ?, next_chunk = next_chunk + ? where job = ?",
            "iii", (int64_t)c->n_rows, (int64_t)in_order, c->job);
    if (rc == 0 && !in_order)
        rc = add_pending(s, c->job, pending.len, 1, e);
    return rc == 0 && in_order && c->n_rows == 0 ? store_set_finished(s, c->job, e) : rc;
}

int store_add_chunk(struct store *s, const struct store_chunk *c, struct err *e)
{
    uint8_t bytes[STORE_DIGEST_BYTES];
    struct slice digest = {c->digest ? c->digest : bytes, sizeof bytes};
    struct store_job j;
    struct extent x;
    if (!c->digest)
        store_digest_rows(c->rows, bytes);
    sqlite3_stmt *q =
        store_prepare(s, "select " STORE_CHUNK_COLUMNS "from chunk where job = ? and chunk = ?",
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

/* ---- chunks that were past a gap ---- */

int store_chunks_agree(struct store *s, int64_t job, int64_t accepted, struct err *e)
{
    sqlite3_stmt *q =
        store_prepare(s, "select " STORE_CHUNK_COLUMNS "from chunk where job = ?", "i", job);
    int64_t n_rows = 0;
    int rc, sound = 1;
    while ((rc = store_step(s, q, e)) == 1) {
        int64_t n = sqlite3_column_int64(q, 1);
        n_rows += n >= 0 && n <= UINT32_MAX ? n : 0;
        sound &= store_chunk_is_sound(q, job, 0);
    }
    return rc < 0 ? rc : sound && n_rows == accepted;
}

/* Finds the first chunk past a gap with a damaged record; *chunk is -1 if there is none. */
static int find_damaged(struct store *s, int64_t job, int64_t *chunk, struct err *e)
{
    sqlite3_stmt *q = store_prepare(s,
        "select " STORE_CHUNK_COLUMNS "from chunk where job = ? and pending is not null", "i", job);
    int rc;
    *chunk = -1;
    while ((rc = store_step(s, q, e)) == 1)
        if (!store_chunk_is_sound(q, job, 0)) {
            *chunk = sqlite3_column_int64(q, 0);
            break;
        }
    sqlite3_reset(q);
    return rc < 0 ? rc : 0;
}

int store_drop_damaged_chunks(struct store *s, int64_t job, struct err *e)
{
    int64_t chunk, last = -1;
    int rc;
    while ((rc = find_damaged(s, job, &chunk, e)) == 0 && chunk > last) {
        last = chunk;
        rc = store_run(s, e, "delete from chunk where job = ? and chunk = ?", "ii", job, chunk);
        if (rc != 0)
            return rc;
        log_warn("event=chunk_damaged job=%lld chunk=%lld reason=\"the record of a chunk that "
                 "waited for those before it is damaged: it has to be sent again\"",
            (long long)job, (long long)chunk);
    }
    return rc;
}

/* The next chunk in order: its bytes, its number of rows, and whether the bytes are what
 * arrived. */
struct pending {
    struct slice rows;
    int64_t n_rows, chunk;
    int sound;
};

int store_pending_is_sound(sqlite3_stmt *q, int pending, int digest)
{
    uint8_t bytes[STORE_DIGEST_BYTES];
    struct slice rows = {sqlite3_column_blob(q, pending), 0};
    rows.len = (size_t)sqlite3_column_bytes(q, pending);
    struct slice kept = {sqlite3_column_blob(q, digest), (size_t)sqlite3_column_bytes(q, digest)};
    store_digest_rows(rows, bytes);
    return kept.at && has_digest(rows, kept, (struct slice){bytes, sizeof bytes});
}

static int read_pending(struct store *s, int64_t job, struct pending *p, struct err *e)
{
    sqlite3_stmt *q = store_prepare(s,
        "select pending, n_rows, digest, chunk from chunk where job = ?1 and "
        "chunk = (select next_chunk from job where job = ?1) and pending is not null",
        "i", job);
    int rc = store_step(s, q, e);
    if (rc != 1)
        return rc;
    p->rows = (struct slice){sqlite3_column_blob(q, 0), (size_t)sqlite3_column_bytes(q, 0)};
    p->n_rows = sqlite3_column_int64(q, 1);
    p->chunk = sqlite3_column_int64(q, 3);
    p->sound = store_pending_is_sound(q, 0, 2);
    /* q stays on its row, so the blob stays valid; it is reset at its next use. */
    return 1;
}

/* Places the chunk's rows, each born failed: at most as many as the job has accepted and not
 * placed. */
static int place_damaged(struct store *s, int64_t job, int64_t n_rows, struct err *e)
{
    static const struct store_row damaged = {
        .pool = {POOL_LAST, ACTIVATION_NONE, POOL_NO_STEP_TOKEN},
        .error_code = ASSAY_EDAMAGED,
        .error_message = STORE_ROW_DAMAGED};
    int64_t left;
    int rc =
        store_integer(s, 0, &left, e, "select accepted - placed from job where job = ?", "i", job);
    if (rc != 0)
        return rc;
    struct packed_writer scratch = {0};
    struct store_rows *rows = store_rows_new(&scratch);
    for (int64_t i = 0; i < n_rows && i < left; i++)
        store_rows_add(rows, &damaged);
    store_rows_end(rows);
    packed_writer_release(&scratch);
    rc = store_add_rows(s, job, rows, e);
    store_rows_free(&rows);
    return rc;
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
    struct store *s, int64_t job, struct slice *rows, uint32_t *chunk, struct err *e)
{
    struct pending p;
    int rc;
    while ((rc = end_pending(s, job, e)) == 0 && (rc = read_pending(s, job, &p, e)) == 1) {
        *rows = p.rows;
        *chunk = (uint32_t)p.chunk;
        rc = store_run_job(s, job, JOB_COUNTED, e,
            "update job set next_chunk = next_chunk + 1 where job = ?", "i", job);
        if (rc == 0)
            rc = add_pending(s, job, rows->len, -1, e);
        if (rc == 0 && !p.sound)
            rc = place_damaged(s, job, p.n_rows, e);
        if (rc == 0 && (p.n_rows == 0 || !p.sound))
            rc = store_set_finished(s, job, e);
        if (rc != 0 || p.sound)
            return rc == 0 ? 1 : rc;
    }
    return rc;
}

int store_find_pending(struct store *s, struct slice key, uint32_t missing, size_t max_bytes,
    struct store_chunk *c, struct err *e)
{
    sqlite3_stmt *q = store_prepare(s,
        "select job, n_rows, pending from chunk where pending is not null and chunk = ?3 and "
        "job = (select job from job where key = ?1 and next_chunk = ?2)",
        "tii", key, (int64_t)missing, (int64_t)c->chunk);
    int rc = store_step(s, q, e);
    if (rc != 1)
        return rc;
    size_t len = (size_t)sqlite3_column_bytes(q, 2);
    uint8_t *copy = len <= max_bytes ? malloc(len + 1) : NULL;
    c->job = sqlite3_column_int64(q, 0);
    c->n_rows = (uint32_t)sqlite3_column_int64(q, 1);
    c->rows = (struct slice){copy, copy ? len : 0};
    if (copy && len > 0)
        memcpy(copy, sqlite3_column_blob(q, 2), len);
    sqlite3_reset(q);
    return 1;
}
