/* store.h - the database: everything that must outlive the broker. All of the broker's SQL is in
 * broker/store/.
 *
 * One process opens the database, in WAL mode and under a lock file, with one connection for all
 * but copying the log (store/checkpoint.c); others open it read-only. A client may be told of
 * something only once it is on disk: when store_commit returns, or, after store_begin_later, when
 * store_synced says so. When a commit fails with ASSAY_EIO, or a sync fails, the outcome is unknown
 * and the broker must exit.
 *
 * The tables are private; the plural views are public (SCHEMA.md). A row's input is written once,
 * apart from its small state, so a result does not rewrite the tokens. Counters are maintained, not
 * computed by queries. Rows that arrive together are stored together: one record holds their input
 * (schema/packed_rows.h), another the states of 64 neighbours (store/blocks.c). `running` is
 * advisory and reset at every start: a row stays queued until its result is committed, so a restart
 * requeues it by construction.
 *
 * Every function returns 0 (or 1 where noted), or a negative code with *e set: ASSAY_EFULL when the
 * disk is full, ASSAY_ELOCKED when another process is writing to the database, ASSAY_EIO otherwise.
 * After the first two nothing is kept once the transaction is rolled back, and it may be
 * retried. */
#ifndef ASSAY_STORE_H
#define ASSAY_STORE_H

#include <stdint.h>

#include "broker/batch.h"
#include "schema/adapters.h"
#include "schema/err.h"
#include "schema/msg.h"
#include "schema/packed_rows.h"

struct store;

/* Whether the code means that nothing was kept and a retry may succeed. */
static inline int store_may_pass(int code)
{
    return code == ASSAY_EFULL || code == ASSAY_ELOCKED;
}

enum job_state { JOB_OPEN, JOB_QUEUED, JOB_RUNNING, JOB_PAUSED, JOB_DONE, JOB_CANCELLED };

#define STORE_REASON_BYTES 900 /* room for two modes */

struct store_job {
    int64_t job;
    char key[201];
    int priority;
    int paused, cancelled,
        sealed;       /* every chunk up to the sealing one is there, so `total` is known */
    int64_t total;    /* -1 until known */
    int64_t accepted; /* rows stored, including those past a gap */
    int64_t placed;   /* rows with an index: their chunks have no gap before them */
    int64_t done;     /* finished rows, failed ones included */
    int64_t failed;
    int64_t copied;  /* rows done with the result of an equal row */
    int64_t cached;  /* rows done with a result from the score cache */
    int fresh;       /* the job takes nothing from the score cache */
    int64_t running; /* advisory */
    /* made under another mode or truncation than the broker's: not run until resumed with
     * accept_mode */
    int held;
    /* held because its record is not what was written, finished or not */
    int damaged;
    int made_otherwise; /* finished under a mode or truncation other than the broker's */
    /* made under another mode or truncation, whatever else is true of it: gets no more rows, whose
     * texts this broker would write otherwise */
    int otherwise;
    /* rows that asked for truncation were truncated otherwise than the broker would */
    int truncated_otherwise;
    char reason[STORE_REASON_BYTES]; /* why it is held or made_otherwise, else "" */
    char model[128]; /* the name of the one that it was begun with; "": from before version 14 */
    int64_t mode;    /* of its rows without a route */
    double rate;     /* recent rows/s, from store_set_rate; over the whole run once finished */
    int64_t created_ms, finished_ms; /* finished_ms 0: not finished */
    enum job_state state;
};

/* What a row must keep to be computed now. It was checked when the row came, but the broker may
 * have been started with another --max-len since, or its job moved to another checkpoint. 0: no
 * limit. */
struct store_limits {
    uint32_t max_len; /* of each sequence */
    uint32_t vocab_size, n_labels;
    const struct adapters *adapters; /* that are loaded, borrowed; NULL: none are */
};

struct store_options {
    /* size of each reserve file, which is given up so that results of accepted work can be
     * written */
    uint64_t reserve_bytes;
    uint64_t min_free_bytes; /* with less free disk than this, new work is refused */
    const char *mode;        /* of the first model: "device=cpu dtype=f32 tp=1 .." */
    const char *digest;      /* of its checkpoint */
    const char *name;        /* by which clients name it; NULL: none */
    int lock_fd;             /* from store_lock, taken over; 0: store_open takes the lock itself */
    struct store_limits limits;
};

/* ---- models ----
 * The broker serves some models, each with a checkpoint, and old ones until no job needs them any
 * more. A row may have a route, which says where it goes if not simply to its job's model:
 *     ADAPTER          the job's model, with an adapter
 *     MODEL/           another model
 *     MODEL/ADAPTER    the same, with an adapter
 *     several of the last two, with commas between: each of them (an ensemble) */
#define STORE_MODELS 16
#define STORE_MEMBERS 8
#define STORE_ROUTE_BYTES (STORE_MEMBERS * 2 * ADAPTERS_NAME_BYTES)

struct store_model {
    uint32_t id;    /* the broker's number for it, which no other gets */
    uint32_t rank;  /* the lowest of the current ones is the first, which rows without a name get */
    int is_current; /* new jobs get it; the others are there for the jobs that began with them */
    const char *name; /* by which clients name it; NULL: none. Strings are borrowed */
    const char *digest, *mode;
    struct store_limits limits;
};
/* Puts the model at this place of the list (0 to STORE_MODELS - 1), or takes away what is there
 * (NULL), and writes that, outside of any transaction. Jobs may be held by it, or be held no more.
 * The model of struct store_options is at place 0. */
int store_serve(struct store *s, int place, const struct store_model *m, struct err *e);
/* The same with a model that is current from now on, in place of the one at `before`, which stays
 * for its jobs: both, or neither. */
int store_exchange(
    struct store *s, int place, const struct store_model *m, int before, struct err *e);
/* Call it in a transaction when a list of adapters has changed; and the second, outside of one, if
 * that was rolled back, with the list as it was. Jobs may be held by it, or be held no more. */
int store_write_models(struct store *s, struct err *e);
int store_read_models(struct store *s, struct err *e);
/* The mode of rows of this model without an adapter; 0: it is not there, or nothing could be
 * written yet. */
int64_t store_mode_of_model(const struct store *s, uint32_t id);
/* The place of the model that rows of this mode go through (struct sequence); -1: it is not
 * there. */
int store_place_of(const struct store *s, int64_t mode);
int store_first_place(const struct store *s); /* of the first current model */
/* The number of the adapter that they go through; 0: none; ADAPTERS_UNKNOWN: it is not there. */
uint32_t store_adapter_of(const struct store *s, int64_t mode);

/* Locks the data directory. Returns the lock's descriptor (never 0), which the caller owns, or
 * negative: ASSAY_EBUSY names the directory and the holder. */
int store_lock(const char *data_dir, struct err *e);
/* The process that the directory's lock file names; 0: none. It may have ended. */
int store_lock_holder(const char *data_dir);
/* 1: the file holds a process id and nothing else, as a broker writes its lock. `path` may be
 * relative to the open directory `dir`. */
int store_is_lock(int dir, const char *path);

/* Opens or creates <data_dir>/assay.db; data_dir must exist, mode 0700. Takes the lock file first
 * (ASSAY_EBUSY names the directory and the holder's pid), brings the schema up to date, runs
 * wal_checkpoint(TRUNCATE), marks no row as running, and adds 1 to the epoch. On success the caller
 * owns *s and ends it with store_close. */
int store_open(
    struct store **s, const char *data_dir, const struct store_options *options, struct err *e);
void store_close(struct store **s); /* checkpoints, then frees *s; NULL-safe */
uint64_t store_epoch(const struct store *s);

/* Begins a transaction that is on disk once store_commit returns. */
int store_begin(struct store *s, struct err *e);
/* The same, but store_commit only writes the transaction: a thread syncs it once somebody wants it
 * on disk (store/sync.c). Readers see it before that. A later commit of the other kind syncs it
 * too. */
int store_begin_later(struct store *s, struct err *e);
/* Commits the transaction, or rolls it back on failure. */
int store_commit(struct store *s, struct err *e);
uint64_t store_written(
    const struct store *s); /* the number of the last commit that changed anything */
/* Sets *number to the last commit that is on disk with all before it. ASSAY_EIO: a sync failed;
 * ASSAY_EGONE: a database file was removed, replaced or cut. */
int store_synced(struct store *s, uint64_t *number, struct err *e);
void store_want_synced(struct store *s);               /* asks for a sync of all that is written */
int store_sync_fd(const struct store *s);              /* readable when store_synced has news */
int store_wait_synced(struct store *s, struct err *e); /* until all that is written is on disk */
void store_rollback(struct store *s);
/* Checks that the disk has room for `bytes` more above min_free_bytes. Returns 0, or
 * ASSAY_EQUEUEFULL with the numbers. */
int store_check_room(struct store *s, uint64_t bytes, struct err *e);
/* Whether nothing could be written since the start, for a reason that store_may_pass accepts. What
 * is there can still be read. Each transaction tries again, and so does store_idle. */
int store_is_late(const struct store *s);
/* Gives the reserve file's space back to the file system, so that a result can be written. Returns
 * 1 if there was such a file. */
int store_free_reserve(struct store *s);
/* The same, and also the reserve that results do not use: a purge needs room before it frees
 * any. */
void store_free_room_to_purge(struct store *s);
int store_is_out_of_room(const struct store *s);
uint64_t store_queued_bytes(
    const struct store *s); /* token bytes of unfinished rows, kept as a counter */
/* Has a thread copy the log into the database when much has been written (store/checkpoint.c). Call
 * it between transactions, and when store_sync_fd is readable. */
void store_tend(struct store *s);
/* Does idle work: once nothing was written since the last call, a passive checkpoint in the thread,
 * and then TRUNCATE; and makes the reserve files again. Call it about once a second. */
void store_idle(struct store *s);
/* Whether the log is being copied and has grown much, or nobody can write meanwhile: large writes
 * should wait until it is copied. Then store_sync_fd is readable. */
int store_large_waits(const struct store *s);
uint64_t store_wal_bytes(const struct store *s);
uint64_t store_db_bytes(const struct store *s);  /* of the database's file */
int64_t store_free_bytes(const struct store *s); /* of its disk, for this user; -1: not known */
/* Unfinished jobs, and their rows without a result; begins zeroed. Each step adds some jobs, outside
 * of transactions: 1: all are counted; 0: call it again; or negative. */
struct store_census {
    int64_t jobs, rows, after;
};
int store_census_step(struct store *s, struct store_census *c, struct err *e);

/* ---- jobs ---- */
/* Finds the job by its key: 1 with *job set, or 0 when there is none. */
int store_find_job(struct store *s, struct slice key, int64_t *job, struct err *e);
/* Reads the job: 1 with *out, or 0 when there is none. */
int store_get_job(struct store *s, int64_t job, struct store_job *out, struct err *e);
/* Creates a job under this key. *job: store_job_ahead's, or 0; set to its number. */
int store_new_job(struct store *s, struct slice key, int priority, struct slice meta, int64_t *job,
    struct err *e);
typedef int store_job_visitor(void *arg, const struct store_job *job); /* non-zero ends the walk */
/* JOBS_SEALED: unfinished jobs with all rows there. JOBS_HELD: unfinished jobs made under another
 * mode. JOBS_PAUSED: these, paused jobs and damaged ones. */
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
/* Returns the set that contains all jobs in this state. */
enum store_jobs store_jobs_of(enum job_state state);
/* The jobs of the set numbered above `after`, ascending, at most `limit`. */
struct store_job_page {
    enum store_jobs set;
    int64_t after;
    uint32_t limit;
};
/* Visits these jobs. The cost does not grow with the number of finished jobs outside the set. */
int store_each_job(struct store *s, const struct store_job_page *page, store_job_visitor *visit,
    void *arg, struct err *e);
/* Cancels the job if it is unfinished. */
int store_cancel(struct store *s, int64_t job, struct err *e);
int store_pause(struct store *s, int64_t job, int paused, struct err *e);
/* Moves the job to the broker's present mode, adapters and truncation, and accepts a damaged record
 * as it is. */
int store_accept_mode(struct store *s, int64_t job, struct err *e);
/* Queues failed rows again, and rows whose results were found damaged. Their old results are
 * deleted; the new ones get later cursors. Begins with *out all 0. Returns 0, or 1 at until_us (monotonic) when there
 * are more: call again with the same *out, in this transaction or a later one. */
struct store_retried {
    int64_t rows; /* queued again */
    int64_t kept; /* would fail again: they failed for their content, or their content is lost */
    int64_t next; /* where to go on */
};
int store_retry(
    struct store *s, int64_t job, long long until_us, struct store_retried *out, struct err *e);
int store_set_fresh(struct store *s, int64_t job, struct err *e); /* before the job has rows */
/* The job is of this model, not of the first one; before it has rows, too. */
int store_set_model(struct store *s, int64_t job, uint32_t id, struct err *e);
/* The modes that the job's rows are scored under: its model's, and those of routes. 1, or 0 when
 * there is no such job. */
typedef void store_mode_visitor(void *arg, int64_t mode);
struct store_mode {
    char digest[65]; /* of its checkpoint, "ensemble", or "": there is no such mode */
    char text[STORE_REASON_BYTES];
};
int store_read_mode(struct store *s, int64_t mode, struct store_mode *out, struct err *e);
int store_job_modes(
    struct store *s, int64_t job, store_mode_visitor *visit, void *arg, struct err *e);
int store_set_rate(struct store *s, int64_t job, double rows_per_s, struct err *e);

/* Mends one job that was found damaged while it was read, as store_open mends all unfinished ones
 * (store/mend.c). Returns 1 and *job, some of whose rows may be queued again, or 0 when there is
 * none. Runs its own transaction. */
int store_mend_suspect(struct store *s, int64_t *job, struct err *e);

/* ---- chunks ----
 * A chunk in order is placed at once: its rows get their index. A chunk past a gap is kept as its
 * encoded bytes and placed once the gap is filled (store/pending.c). */
struct store_chunk {
    int64_t job;
    uint32_t chunk;
    struct slice rows; /* encoded msgpack array (absent for a seal alone) */
    uint32_t n_rows;
    int seal;
    const uint8_t *digest; /* of rows, by store_digest_rows; NULL: it is taken when needed */
    int is_slow;           /* keep it even in order: its rows take long to place */
};
#define STORE_DIGEST_BYTES 16
#define STORE_MAX_DIGEST_BYTES 32 /* of chunks from before version 4 of the schema */
void store_digest_rows(struct slice rows, uint8_t digest[STORE_DIGEST_BYTES]);
enum store_chunk_outcome { CHUNK_SAME = 1, CHUNK_IN_ORDER = 2, CHUNK_KEPT = 3 };
/* Records the chunk with a digest of its encoded rows. Returns a positive outcome. CHUNK_SAME: it
 * was there with the same contents; do nothing. CHUNK_IN_ORDER: give its rows to store_add_rows,
 * then look for store_next_pending. ASSAY_EKEYREUSED: it was there with other contents or another
 * seal. ASSAY_ESTATE: the job is cancelled, or was made under another mode or truncation, or the
 * chunk is past the sealing one. */
int store_add_chunk(struct store *s, const struct store_chunk *chunk, struct err *e);
/* Returns 1 when a full queue must still take this chunk: either it is there already and adds
 * nothing, or it fills the gap that other chunks wait behind. 0 otherwise. */
int store_chunk_is_owed(struct store *s, struct slice key, uint32_t chunk, struct err *e);
struct store_rows;
/* A kept chunk that is the next of its job. */
struct store_pending {
    int64_t job;
    uint32_t chunk;
    uint32_t n_rows, n_placed; /* its rows, and how many of them are placed */
    uint32_t n_left;           /* still to be placed, as far as the job has accepted them */
    size_t bytes;              /* of its encoded rows */
    size_t n_read;             /* and how many of them are read */
    int64_t next_piece;
    uint8_t digest[STORE_MAX_DIGEST_BYTES];
    uint32_t digest_len;
};
/* Finds it: 1 and *p, or 0 when there is none, or nothing may be added to the job. */
int store_next_pending(struct store *s, int64_t job, struct store_pending *p, struct err *e);
/* Reads into bytes[p->bytes] until about until_us: 1, or 0 when all is read. Begin with *p as it
 * was found. */
int store_read_pending(
    struct store *s, struct store_pending *p, uint8_t *bytes, long long until_us, struct err *e);
/* Whether what was read is what arrived. In any thread. */
int store_pending_is_sound(const struct store_pending *p, const uint8_t *bytes);
/* Are the models and adapters that the rows name those that they were in the job's rows before? 0,
 * or ASSAY_ESTATE with the name that is another's now. */
int store_check_routes(struct store *s, int64_t job, const struct store_rows *rows, struct err *e);
/* So many rows to be placed, each born failed as damaged. */
struct store_rows *store_damaged_rows(uint32_t n);
/* How far rows are written or placed. */
struct store_written {
    uint32_t n_rows, n_packs;
    const void *pack; /* the next one */
};
/* Places rows of the chunk, the first of which are p->n_placed and following, until about until_us:
 * 1 when there are more, 0 when the chunk counts as placed, or is not the next any more. *w: zero
 * at first. When that fails, or the commit, find the chunk anew. rows NULL: none. */
int store_place_pending(struct store *s, struct store_pending *p, const struct store_rows *rows,
    struct store_written *w, long long until_us, struct err *e);
/* The chunk counts as placed. */
int store_end_pending(struct store *s, const struct store_pending *p, struct err *e);
/* Deletes bytes of a chunk that is not kept, until about until_us: 1, or 0 when none are there. */
int store_drop_pieces(
    struct store *s, int64_t job, uint32_t chunk, long long until_us, struct err *e);
/* Finds the first job above `after` with such a chunk: 1 and *job, or 0. */
int store_jobs_with_pending(struct store *s, int64_t after, int64_t *job, struct err *e);

struct store_row {
    struct slice client_id; /* raw msgpack integer or string; absent: none */
    int shape;              /* enum row_shape */
    const int32_t *ids;     /* little-endian, [n_tokens]: its sequences, end to end */
    uint32_t n_tokens;
    const uint32_t
        *ends; /* [n_parts] where each sequence ends in ids; may be NULL when n_parts is 1 */
    uint32_t n_parts;
    struct pooling pool;
    const int32_t *positions;
    uint32_t n_positions;
    uint32_t n_values;
    struct slice adapter;           /* its route, above; absent: none */
    uint32_t models[STORE_MEMBERS]; /* the model that it was written for, or those of its route */
    int truncates, is_cut;          /* it asked for truncation; and lost tokens by it */
    int error_code; /* an ASSAY_ code when the content is wrong (the row is born failed), else 0 */
    const char *error_message; /* with error_code */
};
/* struct store_rows: rows made ready to be stored, packed and hashed. That needs no store, so any
 * thread may do it. scratch: memory to pack in, borrowed until store_rows_end. */
struct store_rows *store_rows_new(struct packed_writer *scratch);
void store_rows_free(struct store_rows **r);            /* NULL-safe */
size_t store_rows_bytes(const struct store_rows *r);    /* of memory; NULL-safe */
uint32_t store_rows_failed(const struct store_rows *r); /* born failed; NULL-safe */
/* Adds a copy of the row, all but client_id, which is borrowed until the rows are stored. */
void store_rows_add(struct store_rows *r, const struct store_row *row);
void store_rows_end(struct store_rows *r); /* call it after the last row */
/* Adds all these rows to the job, under its next indices. On failure the caller must roll the
 * transaction back. */
int store_add_rows(struct store *s, int64_t job, const struct store_rows *rows, struct err *e);

/* ---- rows written ahead (store/ahead.c) ----
 * store_add_rows takes long for many rows. It finds those written that were written ahead, some in
 * each of several transactions. Nobody sees them before. So does store_add_chunk with the bytes of
 * a chunk that it keeps. */
struct store_ahead_of {
    struct slice key; /* of their job, which may not exist yet */
    uint32_t chunk, n_rows;
    const struct store_rows *rows; /* borrowed, until store_forget_ahead */
    struct slice encoded;          /* the same rows as they came */
    int is_slow;                   /* as in struct store_chunk */
};
/* Writes for about budget_us, in a transaction that the caller commits before the next call: 1 when
 * there is more to do, 0 when all are written, or nothing is to be written as the chunk is there,
 * or cannot be added. Meanwhile no other rows may be added to the job. After a failure, here or in
 * the commit, call store_forget_ahead. */
int store_write_ahead(
    struct store *s, const struct store_ahead_of *of, long long budget_us, struct err *e);
/* Call it once the chunk was added, or will not be. What was not placed is deleted in time. */
void store_forget_ahead(struct store *s);
/* The number for the job that is to be made for these rows, which are written; else 0. */
int64_t store_job_ahead(const struct store *s, const struct store_rows *rows);

/* Which rows or results of a job: those after this row number, or cursor; at most so many. */
struct store_page {
    int64_t job;
    uint64_t after;
    uint32_t limit;
};

/* ---- work ---- */
/* Visits the job's queued rows of the page, ascending. A row is given
 * as a new struct sequence, which `visit` then owns, or as one for each of its sequences (struct
 * row). One that is damaged, or beyond the store's limits, is given as one sequence whose error is
 * known (found_error). Does not check whether the job is paused, held or cancelled: that is up to
 * the caller. */
typedef void store_row_visitor(void *arg, struct sequence *row);
int store_queued_rows(struct store *s, const struct store_page *page, store_row_visitor *visit,
    void *arg, struct err *e);
#define STORE_BATCHES 10000 /* records of batches that are kept */
/* Records that the batch went to a group, with its rows running (advisory). Sets b->number. */
int store_batch_started(
    struct store *s, struct batch *b, int group, uint64_t incarnation, struct err *e);
/* ok 0: the group died while computing it. */
int store_batch_ended(struct store *s, const struct batch *b, int ok, struct err *e);
struct store_result {
    const float *values; /* NULL for a failure */
    uint32_t n_values;
    int error_code; /* 0, or ASSAY_ code */
    const char *error_message;
    enum row_origin origin;
};
/* Records the row's result; r is the row's only sequence, or the last of them to finish. If the row
 * is still queued and its job not cancelled, writes its state and the result with the job's next
 * cursor; the job's counters and throughput follow with the commit. Returns 1 when recorded, 0 when
 * the row was no longer queued (a second result is dropped). */
int store_finish_row(
    struct store *s, const struct sequence *r, const struct store_result *result, struct err *e);
int store_set_attempts(struct store *s, const struct sequence *r, struct err *e);

/* ---- equal rows (dedupe.h) ---- */
/* Visits the job's finished rows as store_queued_rows does the queued ones. Rows that were born
 * failed are skipped but count towards the limit. Advances page->after, and returns 1 when there
 * may be more. */
int store_finished_rows(
    struct store *s, struct store_page *page, store_row_visitor *visit, void *arg, struct err *e);
/* Of a reader: what a row must name so that it is scored as this sequence was: present names of that
 * checkpoint and adapter, or if they are not served, those that its row had. "": nothing. */
struct store_names {
    char model[128], adapter[ADAPTERS_NAME_BYTES];
};
int store_read_names(
    struct store *s, const struct sequence *r, struct store_names *names, struct err *e);
/* Visits this row, whatever its state. Does not visit a row that was born failed or is not
 * there. */
int store_one_row(struct store *s, int64_t row, store_row_visitor *visit, void *arg, struct err *e);
struct store_answer {
    uint32_t from, n; /* the caller's request: n of the row's values, starting at `from` */
    float *values;    /* [n] */
    uint32_t n_values;
    char error_code[32]; /* wire name, "" when the row has values */
    char error_message[256];
};
/* Reads the row's result under this mode: 1, or 0 when it has none, or a damaged one. */
int store_read_answer(
    struct store *s, int64_t row, int64_t mode, struct store_answer *answer, struct err *e);

/* ---- reading results ---- */
struct store_result_row {
    uint64_t cursor; /* pass it as `after` to continue behind this row */
    uint32_t i;
    int64_t finished_ms;
    int64_t mode;
    int is_other_mode; /* under a checkpoint, mode or adapter that is not served now */
    struct slice route;
    struct slice client_id; /* raw msgpack; absent: none */
    uint32_t n_tokens;
    int shape;
    struct pooling pool;
    const float *values;
    uint32_t n_values;
    const int32_t
        *pooled_at; /* pairs (position, token id), [2 * n_pooled]; n_pooled 0 for ALL and MEAN */
    uint32_t n_pooled;
    const char *error_code; /* wire name, NULL without an error */
    const char *error_message;
};
typedef int store_result_visitor(
    void *arg, const struct store_result_row *row); /* non-zero ends the walk before the next row */
/* Visits the results of the page in order of completion. Returns 1 when
 * there may be more, 0 when the last one was given and none is missing; ASSAY_EINTERNAL when
 * results are missing or cannot be read. Slices are valid while `visit` runs. */
int store_each_result(struct store *s, const struct store_page *page, store_result_visitor *visit,
    void *arg, struct err *e);
/* The same, in order of i and from there on (for `score`). Returns 1 when `visit` ended the walk,
 * 0, or negative. */
int store_each_result_by_index(struct store *s, int64_t job, uint32_t from,
    store_result_visitor *visit, void *arg, struct err *e);

/* Visits the result of this row as the record has it, damaged or not. Returns 1, or 0 when the row
 * has none, or an error. */
int store_result_as_kept(
    struct store *s, int64_t row, store_result_visitor *visit, void *arg, struct err *e);

/* ---- reading beside a broker (store/reader.c) ---- */
/* When the newest job of the database in data_dir was made, or the last one was over. 0 and *ms, or
 * negative if the database cannot be read. */
int store_last_time(const char *data_dir, int64_t *ms);
/* Opens the database in data_dir to read it only, whether or not a broker uses it. ASSAY_EIO when
 * it cannot be opened, ASSAY_EDAMAGED when that is because of damage, ASSAY_EFORMAT when its schema
 * has another version. On success the caller
 * owns *s and ends it with store_close_reader. Functions that read may be called. */
int store_open_reader(struct store **s, const char *data_dir, struct err *e);
void store_close_reader(struct store **s); /* NULL-safe */
typedef void store_number_visitor(void *arg, int64_t row);
/* Visits at most n of the job's rows that have a result without error: chosen at random,
 * ascending. */
int store_sample_rows(struct store *s, int64_t job, uint32_t n, store_number_visitor *visit,
    void *arg, struct err *e);

/* ---- purging (store/purge.c) ---- */
#define STORE_PURGE_JOBS 1000
struct store_purged {
    int64_t jobs, rows;
    int more; /* STORE_PURGE_JOBS were purged: there may be others */
};
/* Purges jobs that were done or cancelled by before_ms: only this one, or all of them when job is
 * 0. They are gone and their keys free at once. store_purge_step deletes their rows later, also
 * after a restart. */
int store_purge(
    struct store *s, int64_t job, int64_t before_ms, struct store_purged *out, struct err *e);
/* Whether nobody needs the job any more once it is over, from now on. */
int store_set_ephemeral(struct store *s, int64_t job, int is_ephemeral, struct err *e);
/* Finds jobs that were over by before_ms, the earliest first; or of the ephemeral ones those that
 * also were so by then. Returns how many, at most `most`, or negative. */
int store_over(
    struct store *s, int is_ephemeral, int64_t before_ms, int64_t *jobs, int most, struct err *e);
/* Returns what is left for store_purge_step: 2 rows of purged jobs, 1 only free pages, 0
 * nothing. */
int store_purge_waits(struct store *s, struct err *e);
/* Deletes rows of purged jobs, or gives free pages back to the file system, for about budget_ms.
 * Call it in a transaction. */
int store_purge_step(struct store *s, long long budget_ms, struct err *e);

/* ---- for those who look on (store/look.c) ---- */
typedef void store_minute_visitor(void *arg, int64_t minute, int64_t rows, int64_t tokens);
/* Visits the minutes (since 1970) in which rows finished, from this one on. */
int store_each_minute(
    struct store *s, int64_t from, store_minute_visitor *visit, void *arg, struct err *e);
/* The job with the largest number below this one: 1, or 0 when there is none. */
int store_job_below(struct store *s, int64_t job, struct store_job *out, struct err *e);
/* The job's first failed row from *i on: 1 with *i, or 0. As of the last commit. */
int store_next_failed(struct store *s, int64_t job, uint32_t *i, struct err *e);

/* ---- for the views ---- */
struct store_worker {
    int group, rank;
    uint64_t incarnation;
    int pid;
    const char *device, *state; /* "starting", "ready", "dead" */
    int64_t batches, restarts;
    int64_t busy_us, up_us; /* computing time, and time since it was ready */
    const char *model;      /* its name */
};
int store_set_worker(struct store *s, const struct store_worker *w, struct err *e);
int store_drop_workers(struct store *s, int group, struct err *e);

#endif
