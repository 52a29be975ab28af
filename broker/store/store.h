/* store.h - the database: everything that must outlive the broker. All SQLite lives in
 * broker/store*.c.
 *
 * WAL, one connection in one process (lock file); readers open read-only. Nothing may be told to a
 * client before what holds it is on the disk: when store_commit has returned, or, after
 * store_begin_later, when store_synced says so. A commit or a sync that fails has an unknown
 * outcome: the broker must exit.
 *
 * Tables are private, the plural views are public (SCHEMA.md). A row's input is written once and
 * its small state apart, so that a result does not rewrite the tokens. Counters are kept, never
 * counted. Rows that come together are kept together: one record has their input (schema/packed_rows.h), one the
 * states of 64 neighbours (store/blocks.c). `running` is advisory, forgotten at every start: a row is queued until its
 * result is committed, so a restart re-queues by construction.
 *
 * Every function returns 0 (or 1 where said) or a negative code with *e: ASSAY_EFULL when the disk
 * is full, or ASSAY_ELOCKED when another process writes to the database (the transaction is rolled back and
 * nothing was kept: it may be tried again later), ASSAY_EIO otherwise. */
#ifndef ASSAY_STORE_H
#define ASSAY_STORE_H

#include <stdint.h>

#include "broker/batch.h"
#include "schema/err.h"
#include "schema/msg.h"

struct store;

/* Nothing was kept, and later it may go. */
static inline int store_may_pass(int code)
{
    return code == ASSAY_EFULL || code == ASSAY_ELOCKED;
}

enum job_state { JOB_OPEN, JOB_QUEUED, JOB_RUNNING, JOB_PAUSED, JOB_DONE, JOB_CANCELLED };

struct store_job {
    int64_t job;
    char key[201];
    int priority;
    int paused, cancelled,
        sealed;       /* sealed: every chunk up to the sealed one is there, so `total` is known */
    int64_t total;    /* -1 until known */
    int64_t accepted; /* rows stored, those past a gap too */
    int64_t placed;   /* rows with an index: chunks without a gap before them */
    int64_t done;     /* finished, failed ones included */
    int64_t failed;
    int64_t copied;  /* done with the result of a row that is the same */
    int64_t cached;  /* done with a result out of the score cache */
    int fresh;       /* takes nothing from the score cache */
    int64_t running; /* advisory */
    int held;        /* made under another mode than the broker's: not dispatched until resumed with
                        accept_mode */
    int damaged; /* held because its record is not what was written, whether or not it is over */
    int made_otherwise;              /* finished, under another mode than the broker's */
    char reason[256];                /* of held or made_otherwise, else "" */
    double rate;                     /* rows/s lately, as last told by store_set_rate */
    int64_t created_ms, finished_ms; /* finished_ms 0: not finished */
    enum job_state state;
};

struct store_options {
    uint64_t reserve_bytes;  /* size of the reserve file, given up so that results of accepted work
                                can be written */
    uint64_t min_free_bytes; /* below this much free disk new work is refused */
    const char *mode;        /* numerics mode: "device=cpu dtype=f32 tp=1 .." */
    const char *digest;      /* checkpoint digest */
    int lock_fd;             /* of store_lock, taken over; 0: store_open locks for itself */
};

/* The data directory's lock: its descriptor (never 0), or negative; ASSAY_EBUSY names directory and holder. */
int store_lock(const char *data_dir, struct err *e);

/* Opens or makes <data_dir>/assay.db: lock file first (ASSAY_EBUSY naming directory and holder's
 * pid), schema, wal_checkpoint(TRUNCATE), no row running, epoch + 1. data_dir exists, 0700. */
int store_open(
    struct store **s, const char *data_dir, const struct store_options *options, struct err *e);
void store_close(struct store **s); /* checkpoints; NULL-safe */
uint64_t store_epoch(const struct store *s);

int store_begin(struct store *s, struct err *e);
/* The same, for a transaction that store_commit only writes: a thread brings it to the disk when it is
 * wanted there (store/sync.c).
 * Readers see it before. A later commit of the other kind brings it there too. */
int store_begin_later(struct store *s, struct err *e);
int store_commit(struct store *s, struct err *e);
uint64_t store_written(
    const struct store *s); /* the number of the last commit that changed anything */
/* *number: of the last commit that is on the disk with all before it. ASSAY_EIO: a sync failed. */
int store_synced(struct store *s, uint64_t *number, struct err *e);
void store_want_synced(struct store *s);  /* somebody waits for what is written now */
int store_sync_fd(const struct store *s); /* readable when store_synced has news */
int store_wait_synced(
    struct store *s, struct err *e); /* until all that is written is on the disk */
void store_rollback(struct store *s);
/* Disk has room for `bytes` more above min_free_bytes: 0, or ASSAY_EQUEUEFULL with the numbers. */
int store_check_room(struct store *s, uint64_t bytes, struct err *e);
/* Nothing can be written since the start, for one of these reasons: what is there can be read. Each transaction
 * tries again, and store_idle does. */
int store_is_late(const struct store *s);
/* Give the reserve file's space back to the file system, so that a result can be written. 1 if
 * there was one. */
int store_free_reserve(struct store *s);
/* The same, and a part that results do not get: for a purge, which needs room before it makes any. */
void store_free_room_to_purge(struct store *s);
int store_is_out_of_room(const struct store *s);
uint64_t store_queued_bytes(
    const struct store *s); /* token bytes of unfinished rows, kept as a counter */
/* A passive checkpoint where much has been written since the last one. Call it between transactions, when
 * nobody waits. */
void store_tend(struct store *s);
/* Idle work: passive checkpoint, TRUNCATE when nothing happened, reserve file made again. Call
 * about once a second. */
void store_idle(struct store *s);
uint64_t store_wal_bytes(const struct store *s);

/* ---- jobs ---- */
/* 1 found, 0 not. */
int store_find_job(struct store *s, struct slice key, int64_t *job, struct err *e);
int store_get_job(struct store *s, int64_t job, struct store_job *out, struct err *e);
int store_new_job(struct store *s, struct slice key, int priority, struct slice meta, int64_t *job,
    struct err *e);
typedef int store_job_visitor(void *arg, const struct store_job *job); /* non-zero ends the walk */
/* SEALED: unfinished, and all rows are there. HELD: unfinished ones that are, but for those that are damaged. PAUSED has
 * those too. */
enum store_jobs {
    JOBS_ALL,
    JOBS_UNFINISHED,
    JOBS_OPEN,
    JOBS_SEALED,
    JOBS_RUNNING,
    JOBS_HELD,
    JOBS_PAUSED,
    JOBS_DONE,
    JOBS_CANCELLED
};
/* The set that has all jobs of this state. */
enum store_jobs store_jobs_of(enum job_state state);
/* Jobs of the set numbered above `after`, ascending, at most limit. What it costs does not grow with the jobs that
 * are over and not in the set. */
int store_each_job(struct store *s, int64_t after, uint32_t limit, enum store_jobs set,
    store_job_visitor *visit, void *arg, struct err *e);
int store_cancel(struct store *s, int64_t job, struct err *e);
int store_pause(struct store *s, int64_t job, int paused, struct err *e);
int store_accept_mode(struct store *s, int64_t job, struct err *e);
/* Failed rows are queued again, their results forgotten (they come back at a later cursor); and rows whose
 * results were found to be damaged. */
struct store_retried {
    int64_t rows; /* that are queued again */
    int64_t kept; /* that failed for their content, or have no content any more, and would again */
};
int store_retry(struct store *s, int64_t job, struct store_retried *out, struct err *e);
int store_set_fresh(struct store *s, int64_t job, struct err *e); /* before it has rows */
int store_set_rate(struct store *s, int64_t job, double rows_per_s, struct err *e);

/* A job that was found to be damaged while it was read is mended, as all that are unfinished are by store_open
 * (store/mend.c): 1 and *job, which may have queued rows again; 0 there is none. In a transaction of its own. */
int store_mend_suspect(struct store *s, int64_t *job, struct err *e);

/* ---- chunks ----
 * A chunk in order is placed at once: its rows get their index. A chunk past a gap is kept as its
 * encoded bytes and placed when the gap fills. */
struct store_chunk {
    int64_t job;
    uint32_t chunk;
    struct slice rows; /* encoded msgpack array (may be absent: seal only) */
    uint32_t n_rows;
    int seal;
};
enum store_chunk_outcome { CHUNK_SAME = 1, CHUNK_IN_ORDER = 2, CHUNK_PAST_GAP = 3 };
/* Records the chunk with a digest of its encoded rows. Positive: an outcome. CHUNK_SAME: was
 * there with the same contents, do nothing. CHUNK_IN_ORDER: now give its rows to store_add_rows,
 * then ask store_next_pending. ASSAY_EKEYREUSED: other contents, or another seal. ASSAY_ESTATE: the
 * job is cancelled, or the chunk is past the sealed one. */
int store_add_chunk(struct store *s, const struct store_chunk *chunk, struct err *e);
/* 1 when this chunk is to be taken even by a full queue: it is there already, so that nothing is
 * added, or it fills the gap that other chunks wait behind. 0 otherwise. */
int store_chunk_is_owed(struct store *s, struct slice key, uint32_t chunk, struct err *e);
/* The kept chunk that is next in order, if any: 1 and *rows (borrowed until the next store call
 * that is not store_add_rows), now counted as placed. */
int store_next_pending(
    struct store *s, int64_t job, struct slice *rows, uint32_t *n_rows, struct err *e);

struct store_row {
    struct slice client_id; /* raw msgpack integer or string; absent: none */
    int shape;              /* enum row_shape */
    const int32_t *ids;     /* little-endian, [n_tokens]: its sequences, end to end */
    uint32_t n_tokens;
    const uint32_t
        *ends; /* [n_parts] where each sequence ends in ids; may be NULL when n_parts is 1 */
    uint32_t n_parts;
    int pool_type, activation;
    int32_t step_token;
    const int32_t *positions;
    uint32_t n_positions;
    uint32_t n_values;
    int error_code; /* a row whose content is wrong is born failed: ASSAY_ code, else 0 */
    const char *error_message; /* with error_code */
};
/* The next row: 1, 0 when there is none any more, or negative. What it points to stays until the next call. */
typedef int store_row_source(void *arg, struct store_row *row, struct err *e);
/* Give the job's next indices to these rows, as many as the source has. When it fails, the transaction is to be
 * undone. */
int store_add_rows(struct store *s, int64_t job, store_row_source *next, void *arg, struct err *e);

/* ---- work ---- */
/* Queued rows of the job with a number above `after`, ascending, at most limit; each is a new
 * struct sequence given to visit, which owns it, or one for each of its sequences (struct row). Not for paused, held or cancelled jobs: the caller
 * knows. */
typedef void store_row_visitor(void *arg, struct sequence *row);
int store_queued_rows(struct store *s, int64_t job, int64_t after, uint32_t limit,
    store_row_visitor *visit, void *arg, struct err *e);
/* The batch has gone to a group: batch record, its rows running (advisory). Sets b->number. */
int store_batch_started(
    struct store *s, struct batch *b, int group, uint64_t incarnation, struct err *e);
/* ok 0: the group died under it. */
int store_batch_ended(struct store *s, const struct batch *b, int ok, struct err *e);
struct store_result {
    const float *values; /* NULL for a failure */
    uint32_t n_values;
    int error_code; /* 0, or ASSAY_ code */
    const char *error_message;
    enum row_origin origin;
};
/* r is the whole row, or the last of its sequences to be finished: the result is the row's. Where
 * the row is still queued (and its job not cancelled): state, result with the job's next
 * cursor; the job's counters and throughput with the commit. 1 recorded, 0 was not queued any more (a
 * second result is dropped).
 */
int store_finish_row(
    struct store *s, const struct sequence *r, const struct store_result *result, struct err *e);
int store_set_attempts(struct store *s, const struct sequence *r, struct err *e);

/* ---- rows that are the same (dedupe.h) ---- */
/* The job's finished rows, as store_queued_rows gives those that are queued, but for those that were born
 * failed, which are passed over and count. 1 when there may be more, after *after. */
int store_finished_rows(struct store *s, int64_t job, int64_t *after, uint32_t limit,
    store_row_visitor *visit, void *arg, struct err *e);
/* This row, in whatever state: not visited when there is none, or it was born failed. */
int store_one_row(struct store *s, int64_t row, store_row_visitor *visit, void *arg, struct err *e);
struct store_answer {
    uint32_t from, n; /* asked for: these of its values, when it has them */
    float *values;    /* [n] */
    uint32_t n_values;
    char error_code[32]; /* wire name, "" when it has values */
    char error_message[256];
};
/* What a row has been answered under the broker's present mode: 1, or 0 when nothing. */
int store_read_answer(struct store *s, int64_t row, struct store_answer *answer, struct err *e);

/* ---- reading results ---- */
struct store_result_row {
    uint64_t cursor; /* of this row: pass as `after` to go on */
    uint32_t i;
    struct slice client_id; /* raw msgpack, absent: none */
    uint32_t n_tokens;
    int shape, pool_type, activation;
    const float *values;
    uint32_t n_values;
    const int32_t
        *pooled_at; /* pairs (position, token id), [2 * n_pooled]; n_pooled 0 for ALL and MEAN */
    uint32_t n_pooled;
    const char *error_code; /* wire name, NULL when fine */
    const char *error_message;
};
typedef int store_result_visitor(
    void *arg, const struct store_result_row *row); /* non-zero ends the walk before the next */
/* In order of completion, cursors above `after`. 1: there may be more, 0: the last one that there is was given, and
 * none is missing. Slices are valid during the call of visit. */
int store_each_result(struct store *s, int64_t job, uint64_t after, uint32_t limit,
    store_result_visitor *visit, void *arg, struct err *e);
/* The same in order of i (for `score`). */
int store_each_result_by_index(
    struct store *s, int64_t job, store_result_visitor *visit, void *arg, struct err *e);

/* ---- purging (store/purge.c) ---- */
#define STORE_PURGE_JOBS 1000
struct store_purged {
    int64_t jobs, rows;
    int more; /* STORE_PURGE_JOBS were taken: there may be others */
};
/* Jobs that were done or cancelled at before_ms are gone, their keys free; one of them, or any of
 * them when job is 0. Their rows follow in store_purge_step, also after a restart. */
int store_purge(
    struct store *s, int64_t job, int64_t before_ms, struct store_purged *out, struct err *e);
/* Is there anything for store_purge_step? 2 rows of purged jobs, 1 only free pages, 0 nothing. */
int store_purge_waits(struct store *s, struct err *e);
/* Delete rows of purged jobs, or give free pages back to the file system, for about budget_ms. In a
 * transaction. */
int store_purge_step(struct store *s, long long budget_ms, struct err *e);

/* ---- for the views ---- */
struct store_worker {
    int group, rank;
    uint64_t incarnation;
    int pid;
    const char *device, *state; /* "starting", "ready", "dead" */
    int64_t batches, restarts;
    int64_t busy_us, up_us; /* computing, of the time since it was ready */
};
int store_set_worker(struct store *s, const struct store_worker *w, struct err *e);

#endif
