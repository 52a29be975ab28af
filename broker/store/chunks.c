/* chunks.c - takes in chunks. Those past a gap are kept until it is closed (store/pending.c). */
#include <sodium.h>
#include <string.h>

#include "broker/store/private.h"
#include "broker/xxh.h"
#include "schema/clock.h"
#include "schema/log.h"
#include "schema/request.h"

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

int store_has_digest(struct slice rows, struct slice kept, struct slice digest)
{
    uint8_t old[STORE_MAX_DIGEST_BYTES];
    if (kept.len == sizeof old) {
        crypto_generichash(old, sizeof old, rows.at, rows.len, NULL, 0);
        digest = (struct slice){old, sizeof old};
    }
    return kept.len == digest.len && memcmp(kept.at, digest.at, kept.len) == 0;
}

static int64_t sum_chunk(const int64_t numbers[4], struct slice digest, int64_t n_placed)
{
    uint64_t h = XXH3_64bits(numbers, 4 * sizeof *numbers);
    if (n_placed != 0) /* 0 adds nothing: so it is in records of before version 10 */
        h = XXH3_64bits_withSeed(&n_placed, sizeof n_placed, h);
    return (int64_t)XXH3_64bits_withSeed(digest.at, digest.len, h);
}

/* Of the record that q is at, with another n_placed. */
static int64_t sum_of(sqlite3_stmt *q, int64_t job, int at, int64_t n_placed)
{
    int64_t numbers[] = {job, sqlite3_column_int64(q, at), sqlite3_column_int64(q, at + 1),
        sqlite3_column_int64(q, at + 2)};
    struct slice digest = {sqlite3_column_blob(q, at + 3), (size_t)sqlite3_column_bytes(q, at + 3)};
    return sum_chunk(numbers, digest, n_placed);
}

int store_chunk_is_sound(sqlite3_stmt *q, int64_t job, int at)
{
    int type = sqlite3_column_type(q, at + 4);
    if (sqlite3_column_bytes(q, at + 3) == 0)
        return 0;
    return type == SQLITE_NULL || /* from before version 9 */
           (type == SQLITE_INTEGER && sqlite3_column_int64(q, at + 4) ==
                                          sum_of(q, job, at, sqlite3_column_int64(q, at + 5)));
}

int store_set_placed(
    struct store *s, int64_t job, uint32_t chunk, uint32_t n_placed, int is_over, struct err *e)
{
    sqlite3_stmt *q =
        store_prepare(s, "select " STORE_CHUNK_COLUMNS "from chunk where job = ? and chunk = ?",
            "ii", job, (int64_t)chunk);
    int64_t n = is_over ? 0 : n_placed;
    int rc = store_step(s, q, e);
    if (rc != 1)
        return rc;
    int64_t sum = sum_of(q, job, 0, n);
    sqlite3_reset(q);
    return store_run(s, e,
        "update chunk set pending = iif(?1, null, pending), n_placed = ?2, sum = ?3 "
        "where job = ?4 and chunk = ?5",
        "iiiii", (int64_t)is_over, n, sum, job, (int64_t)chunk);
}

/* The chunk is there already: compares digest and seal. */
static int compare_chunk(
    sqlite3_stmt *q, const struct store_chunk *c, struct slice digest, struct err *e)
{
    struct slice kept = {sqlite3_column_blob(q, 3), (size_t)sqlite3_column_bytes(q, 3)};
    int same = store_has_digest(c->rows, kept, digest) && sqlite3_column_int(q, 2) == c->seal;
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
    if (j->otherwise) /* or it would have rows of both kinds */
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

int store_count_pending(struct store *s, int64_t job, size_t bytes, int sign, struct err *e)
{
    int64_t tokens = sign * (int64_t)(bytes / sizeof(int32_t));
    s->queued_tokens += tokens;
    return store_run_job(s, job, JOB_COUNTED, e,
        "update job set tokens_left = tokens_left + ? where job = ?", "ii", tokens, job);
}

static int insert_chunk(
    struct store *s, const struct store_chunk *c, struct slice digest, int is_kept, struct err *e)
{
    int64_t numbers[] = {c->job, c->chunk, c->n_rows, c->seal};
    int rc = store_run(s, e,
        "insert into chunk(job, chunk, n_rows, seal, digest, pending, sum) "
        "values (?1, ?2, ?3, ?4, ?5, iif(?6, ?7, null), ?8)",
        "iiiibiii", numbers[0], numbers[1], numbers[2], numbers[3], digest, (int64_t)is_kept,
        (int64_t)c->rows.len, sum_chunk(numbers, digest, 0));
    if (rc == 0 && c->seal)
        rc = store_run_job(s, c->job, JOB_SAID, e, "update job set seal_chunk = ? where job = ?",
            "ii", (int64_t)c->chunk, c->job);
    if (rc == 0)
        rc = store_run_job(s, c->job, JOB_COUNTED, e,
            "update job set accepted = accepted + ?, next_chunk = next_chunk + ? where job = ?",
            "iii", (int64_t)c->n_rows, (int64_t)!is_kept, c->job);
    if (rc == 0 && is_kept)
        rc = store_take_pieces(s, c, e);
    if (rc == 0 && is_kept)
        rc = store_count_pending(s, c->job, c->rows.len, 1, e);
    return rc == 0 && !is_kept && c->n_rows == 0 ? store_set_finished(s, c->job, e) : rc;
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
    int is_kept = rc == 0 && (c->is_slow || x.next != (int64_t)c->chunk);
    if (rc == 0)
        rc = insert_chunk(s, c, digest, is_kept, e);
    if (rc != 0)
        return rc;
    return is_kept ? CHUNK_KEPT : CHUNK_IN_ORDER;
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

/* ---- damage ---- */

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

/* Finds the first kept chunk with a damaged record; *chunk is -1 if there is none. */
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

int store_drop_damaged_chunks(
    struct store *s, int64_t job, int64_t next, int *was_next, struct err *e)
{
    int64_t chunk, last = -1;
    int rc;
    while ((rc = find_damaged(s, job, &chunk, e)) == 0 && chunk > last) {
        last = chunk;
        *was_next |= chunk == next;
        rc = store_run(s, e, "delete from chunk where job = ? and chunk = ?", "ii", job, chunk);
        if (rc != 0)
            return rc;
        log_warn("event=chunk_damaged job=%lld chunk=%lld reason=\"the record of a chunk that "
                 "waited for those before it is damaged: it has to be sent again\"",
            (long long)job, (long long)chunk);
    }
    return rc;
}
