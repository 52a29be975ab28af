/* pending.c - chunks that are kept: their encoded rows, and how they become rows of the job.
 *
 * A chunk is kept when it is past a gap, or when placing its rows takes long. It is accepted then:
 * its record is there, with the number of its bytes in column `pending`, and its bytes are in table
 * piece. When it is the next of its job, its rows are placed, in one transaction or in several. Its
 * record says how many are (n_placed), so a broker that was killed goes on behind them. With the
 * last of them it counts as placed: `pending` is null, and its pieces are nobody's. They are
 * deleted a few in each transaction, what a broker that was killed has left of them at the next
 * start.
 *
 * The pieces of a large chunk are written before it is accepted (store/ahead.c), and are nobody's
 * until then. */
#include <stdlib.h>
#include <string.h>

#include "broker/store/private.h"
#include "schema/clock.h"

#define PIECE_BYTES (256 << 10) /* takes half a millisecond to write */
#define PIECES 4                /* per step of deleting */

/* ---- pieces ---- */

int store_write_pieces(struct store *s, const struct store_chunk *c, size_t *n_written,
    long long until_us, struct err *e)
{
    int rc = 0;
    if (*n_written == 0) /* of an earlier chunk of this number, whose record was damaged */
        rc = store_run(
            s, e, "delete from piece where job = ? and chunk = ?", "ii", c->job, (int64_t)c->chunk);
    while (rc == 0 && *n_written < c->rows.len) {
        size_t left = c->rows.len - *n_written;
        struct slice piece = {c->rows.at + *n_written, left < PIECE_BYTES ? left : PIECE_BYTES};
        rc = store_run(s, e, "insert into piece(job, chunk, piece, bytes) values (?, ?, ?, ?)",
            "iiib", c->job, (int64_t)c->chunk, (int64_t)(*n_written / PIECE_BYTES), piece);
        *n_written += piece.len;
        if (rc == 0 && now_mono_us() >= until_us)
            break;
    }
    return rc < 0 ? rc : *n_written < c->rows.len;
}

int store_drop_pieces(
    struct store *s, int64_t job, uint32_t chunk, long long until_us, struct err *e)
{
    int rc, n;
    do {
        rc = store_run(s, e,
            "delete from piece where job = ?1 and chunk = ?2 and piece in "
            "(select piece from piece where job = ?1 and chunk = ?2 order by piece limit ?3) "
            "and not exists (select 1 from chunk where job = ?1 and chunk = ?2 "
            "and pending is not null)",
            "iii", job, (int64_t)chunk, (int64_t)PIECES);
        n = sqlite3_changes(s->db);
    } while (rc == 0 && n > 0 && now_mono_us() < until_us);
    return rc < 0 ? rc : n > 0;
}

int store_drop_lost_pieces(struct store *s, struct err *e)
{
    return store_run(s, e,
        "delete from piece where job not in (select job from purge) and not exists "
        "(select 1 from chunk where chunk.job = piece.job and chunk.chunk = piece.chunk "
        "and pending is not null)",
        "");
}

/* ---- the next chunk of a job ---- */

/* Whether rows may be added to the job: 1, or 0. */
static int is_open(struct store *s, int64_t job, struct err *e)
{
    struct store_job j;
    int rc = store_get_job(s, job, &j, e);
    return rc == 1 ? !j.cancelled && !j.otherwise : rc;
}

static int is_between(int64_t n, int64_t low, int64_t high)
{
    return n >= low && n <= high;
}

/* Bytes of all its pieces. */
static int count_bytes(struct store *s, struct store_pending *p, struct err *e)
{
    int64_t bytes;
    int rc = store_integer(s, 0, &bytes, e,
        "select sum(length(bytes)) from piece where job = ? and chunk = ?", "ii", p->job,
        (int64_t)p->chunk);
    p->bytes = is_between(bytes, 0, PTRDIFF_MAX - 1) ? (size_t)bytes : 0;
    return rc;
}

int store_pending_above(
    struct store *s, int64_t job, int64_t after, struct store_pending *p, struct err *e)
{
    sqlite3_stmt *q = store_prepare(s,
        "select chunk.chunk, n_rows, n_placed, digest, accepted - placed "
        "from chunk join job on job.job = chunk.job "
        "where chunk.job = ? and chunk.chunk > ? and chunk.chunk <= 4294967295 "
        "and pending is not null order by chunk.chunk limit 1",
        "ii", job, after);
    int rc = store_step(s, q, e);
    if (rc != 1)
        return rc;
    int64_t n_rows = sqlite3_column_int64(q, 1), n_placed = sqlite3_column_int64(q, 2),
            left = sqlite3_column_int64(q, 4);
    *p = (struct store_pending){.job = job,
        .chunk = (uint32_t)sqlite3_column_int64(q, 0),
        .n_rows = is_between(n_rows, 0, UINT32_MAX) ? (uint32_t)n_rows : 0,
        .digest_len = (uint32_t)sqlite3_column_bytes(q, 3)};
    p->n_placed = is_between(n_placed, 0, p->n_rows) ? (uint32_t)n_placed : p->n_rows;
    p->n_left = p->n_rows - p->n_placed;
    p->n_left = is_between(left, 0, p->n_left) ? (uint32_t)left : p->n_left;
    if (p->digest_len <= sizeof p->digest && p->digest_len > 0)
        memcpy(p->digest, sqlite3_column_blob(q, 3), p->digest_len);
    sqlite3_reset(q);
    rc = count_bytes(s, p, e);
    return rc == 0 ? 1 : rc;
}

int store_next_pending(struct store *s, int64_t job, struct store_pending *p, struct err *e)
{
    int64_t next;
    int rc = store_integer(s, -1, &next, e,
        "select next_chunk from job join chunk on chunk.job = job.job and "
        "chunk.chunk = job.next_chunk where job.job = ? and pending is not null",
        "i", job);
    if (rc != 0 || next < 0)
        return rc;
    rc = store_pending_above(s, job, next - 1, p, e);
    return rc == 1 ? is_open(s, job, e) : rc;
}

int store_read_pending(
    struct store *s, struct store_pending *p, uint8_t *bytes, long long until_us, struct err *e)
{
    sqlite3_stmt *q = store_prepare(s,
        "select piece, bytes from piece where job = ? and chunk = ? and piece >= ? order by piece",
        "iii", p->job, (int64_t)p->chunk, p->next_piece);
    int rc, more = 0;
    while (!more && (rc = store_step(s, q, e)) == 1) {
        size_t len = (size_t)sqlite3_column_bytes(q, 1), room = p->bytes - p->n_read;
        p->next_piece = sqlite3_column_int64(q, 0) + 1;
        if (len > 0)
            memcpy(bytes + p->n_read, sqlite3_column_blob(q, 1), len < room ? len : room);
        p->n_read += len < room ? len : room;
        more = now_mono_us() >= until_us;
    }
    sqlite3_reset(q);
    return more ? 1 : rc;
}

int store_pending_is_sound(const struct store_pending *p, const uint8_t *bytes)
{
    uint8_t now[STORE_DIGEST_BYTES];
    struct slice rows = {bytes, p->bytes};
    store_digest_rows(rows, now);
    return p->n_read == p->bytes && store_has_digest(rows, (struct slice){p->digest, p->digest_len},
                                        (struct slice){now, sizeof now});
}

/* ---- placed ---- */

int store_end_pending(struct store *s, const struct store_pending *p, struct err *e)
{
    int64_t bytes;
    int rc = store_integer(s, 0, &bytes, e, "select pending from chunk where job = ? and chunk = ?",
        "ii", p->job, (int64_t)p->chunk);
    if (rc == 0)
        rc = store_set_placed(s, p->job, p->chunk, 0, 1, e);
    if (rc == 0)
        rc = store_run_job(s, p->job, JOB_COUNTED, e,
            "update job set next_chunk = next_chunk + 1 where job = ?", "i", p->job);
    if (rc == 0)
        rc = store_count_pending(s, p->job, (size_t)bytes, -1, e);
    return rc == 0 ? store_set_finished(s, p->job, e) : rc;
}

/* Whether it is still as it was read: 1, or 0. */
static int is_next(struct store *s, const struct store_pending *p, struct err *e)
{
    int64_t is;
    int rc = store_integer(s, 0, &is, e,
        "select 1 from job join chunk on chunk.job = job.job and chunk.chunk = job.next_chunk "
        "where job.job = ? and chunk.chunk = ? and n_placed = ? and pending is not null",
        "iii", p->job, (int64_t)p->chunk, (int64_t)p->n_placed);
    return rc == 0 && is ? is_open(s, p->job, e) : rc;
}

int store_place_pending(struct store *s, struct store_pending *p, const struct store_rows *rows,
    struct store_written *w, long long until_us, struct err *e)
{
    uint32_t before = w->n_rows;
    int rc = is_next(s, p, e);
    if (rc != 1)
        return rc;
    rc = rows ? store_place_rows(s, p->job, rows, w, until_us, e) : 0;
    p->n_placed += w->n_rows - before;
    if (rc == 1 && (rc = store_set_placed(s, p->job, p->chunk, p->n_placed, 0, e)) == 0)
        return 1;
    return rc == 0 ? store_end_pending(s, p, e) : rc;
}

int store_jobs_with_pending(struct store *s, int64_t after, int64_t *job, struct err *e)
{
    int rc = store_integer(s, 0, job, e,
        "select min(job.job) from job indexed by job_unfinished join chunk on chunk.job = job.job "
        "and chunk.chunk = job.next_chunk where finished_ms is null and pending is not null "
        "and job.job > ? and job.job <= ?",
        "ii", after, (int64_t)STORE_LAST_JOB);
    return rc == 0 ? *job > after : rc;
}
