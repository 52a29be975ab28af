/* private.h - what the files of the store share: the connection, its prepared statements, and how
 * to run one. */
#ifndef ASSAY_STORE_PRIVATE_H
#define ASSAY_STORE_PRIVATE_H

#include <pthread.h>
#include <sqlite3.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>

#include "broker/store/store.h"

#define STORE_MAX_STATEMENTS 128
#define STORE_SCHEMA_VERSION 17
#define STORE_LAST_JOB INT32_MAX /* a row's number has 31 bits for its job */
#define STORE_BLOCKS 64
#define STORE_MAX_PAGE_BYTES 65536 /* SQLite's */
/* There was a write since the last look of store_idle, or one before that. */
enum { STORE_CHANGED_NOW = 1, STORE_CHANGED_BEFORE };
#define STORE_GUARDED 4 /* files that store/guard.c watches */

/* How long to wait for another process's lock: usually, and while it stays locked. */
#define STORE_BUSY_MS 500
#define STORE_LOCKED_MS 10

struct store_sync;   /* store/sync.c */
struct store_copier; /* store/checkpoint.c */

/* The part of a row's record that decides its result, and the client's id as SQLite stores it. */
struct client_id {
    int type; /* SQLITE_NULL, _INTEGER, _TEXT, or _BLOB: digits of an integer too large for it */
    int64_t number;
    struct slice text;
};
struct row_record {
    int64_t shape, n_tokens, n_values;
    struct pooling pool;
    struct client_id id;
    struct slice adapter; /* its route (store.h); absent: none */
};

/* A result's record: it has a score, a vector or an error. */
struct result_record {
    int64_t job, seq, row, mode, finished_ms;
    int has_score;
    double score;
    struct slice vector, pooled, error_code, error_message; /* `at` is NULL when absent */
};

/* Halves of a job's record: what client and operator set, and what is counted. */
enum { JOB_SAID = 1, JOB_COUNTED = 2 };
#define STORE_TOUCHED 64
#define STORE_DAMAGED 32
struct touched_job {
    int64_t job;
    int what;
};
#define STORE_JOB_COLUMNS                                                                          \
    "select job, key, priority, paused, cancelled, seal_chunk, next_chunk, accepted, placed, "     \
    "done, failed, running, rate, created_ms, finished_ms, mode, copied, cached, fresh, "          \
    "tokens_left, next_seq, sum, truncation, adapters, model from job "

/* What the open transaction has finished of one job. Its counters are updated once: when rows of
 * another job follow, or at the commit (store/finish.c). */
struct store_tally {
    int64_t job; /* 0: none */
    int64_t next_seq;
    int64_t done, failed, copied, cached, tokens;
    int cancelled;
};

/* States of 64 rows as the open transaction sees them (store/blocks.c). */
struct store_block {
    int64_t number; /* 0: none */
    uint64_t queued, running, failed;
    int is_kept; /* it is in the table */
    int changed; /* since it was last read or written */
};

static inline int64_t block_number(int64_t row)
{
    return row >> 6;
}
static inline uint64_t row_bit(int64_t row)
{
    return 1ull << (row & 63);
}

/* Rows that are written before they are placed, or pieces of a chunk that is to be kept
 * (store/ahead.c). */
struct store_ahead {
    const struct store_rows *rows; /* borrowed; NULL: none are to be written or placed */
    int64_t job, first;            /* 0: none are there; the number of the first */
    int in_pieces;
    uint32_t chunk; /* of the pieces, with the bytes that are written */
    size_t n_bytes;
    int is_new;   /* the job is made when they are placed */
    int is_whole; /* all are written */
    int is_taken; /* the open transaction places them */
    struct store_written written;
};

/* A page as the database holds it once the log is copied into it. */
struct wal_page {
    uint32_t number; /* from 1 on; 0: not known */
    uint32_t bytes;
    uint64_t hash;
};
/* How far the log is synced (store/wal.c). */
struct wal_point {
    uint32_t salt[2];
    uint64_t frames;         /* 0: nothing is known */
    struct wal_page last;    /* of the last of them */
    struct wal_page written; /* of the last frame of all */
};
struct store_wal {
    int fd;      /* the record's, or -1 */
    int log_fd;  /* the log's, or -1 */
    int is_kept; /* the record on disk is not empty */
    uint32_t page_bytes;
    struct wal_point synced; /* as last recorded */
};

/* A model that is served. */
struct store_served {
    int is_there;
    struct store_model is;
    int64_t modes[1 + ADAPTERS_MOST]; /* its own, and of rows with an adapter, by its number */
};

struct store {
    sqlite3 *db;
    struct store_sync *sync;
    struct store_copier *copier;
    struct store_wal wal;
    /* the open transaction (and SQLite's setting) is store_begin_later's */
    int later;
    uint64_t room;     /* bytes that may be granted before asking the file system again */
    long long room_ms; /* and when to ask at the latest */
    int wal_pages, wal_pages_due; /* pages in the WAL; at how many to checkpoint */
    int wal_copied;               /* of them in the database, as far as is known */
    int wal_is_new;               /* it was begun anew since the thread began to copy */
    int has_no_room;              /* the last checkpoint lacked room */
    uint64_t wal_told_bytes;      /* size last warned of; 0: none since it was small */
    int wrote; /* the last commit wrote frames: without any, SQLite syncs nothing */
    char dir[4096];
    int lock_fd;
    int late; /* this start could not write anything yet */
    /* another process had the database locked at the last transaction: the next one hardly waits */
    int locked;
    struct stat guarded[STORE_GUARDED]; /* as they were opened */
    off_t guarded_bytes;                /* size of assay.db, as last seen */
    struct store_options options;
    uint64_t epoch;
    struct store_served served[STORE_MODELS];
    int64_t *present; /* [n_present] the modes that are served, those of ensembles too */
    size_t n_present;
    char *present_json;           /* the same */
    char *names, *lengths;        /* JSON, as in table meta (store/models.c) */
    int made_mode;                /* the open transaction made one */
    int64_t n_models;             /* of a reader: that the broker serves */
    int64_t queued_tokens;        /* of unfinished rows, including the open transaction */
    int64_t queued_tokens_before; /* as of the last commit */
    int64_t next_batch;
    int64_t sums_from;                         /* the first job whose records all have checksums */
    struct touched_job touched[STORE_TOUCHED]; /* whose checksums the commit must write */
    int n_touched;
    struct store_tally tally;
    long long minutes_due_ms; /* when old minutes are looked for (minutes.c); monotonic */
    struct store_ahead ahead;
    struct store_block blocks[STORE_BLOCKS];
    void *scratch; /* for an answer's values */
    size_t scratch_bytes;
    int64_t damaged[STORE_DAMAGED]; /* jobs with a damaged result */
    unsigned n_damaged;
    /* jobs whose records were found damaged, ascending; some may be sound again, or gone */
    int64_t *unsound;
    size_t n_unsound;
    int64_t suspect; /* a job to mend when there is time (store/mend.c); 0: none */
    int changes;     /* STORE_CHANGED_..; 0: for longer, nothing */
    int free_pages;  /* purged rows may have left some to give back */
    struct {
        const char *sql;
        sqlite3_stmt *statement;
    } cache[STORE_MAX_STATEMENTS]; /* keyed by the address of the SQL literal */
    int n_cached;
};

/* Returns the prepared statement of this string literal, reset and with its arguments bound; NULL
 * when it cannot be prepared, which store_step reports. types has one letter per argument: i
 * int64_t, d double, t struct slice as text (absent: null), b struct slice as blob (absent: null),
 * s const char * (NULL: null). The store owns the statement. */
sqlite3_stmt *store_prepare(struct store *s, const char *sql, const char *types, ...);
/* Runs a statement that gives no rows: 0 or negative. */
int store_run(struct store *s, struct err *e, const char *sql, const char *types, ...);
/* The same for one that changes these halves of this job's record (JOB_SAID, JOB_COUNTED). */
int store_run_job(
    struct store *s, int64_t job, int what, struct err *e, const char *sql, const char *types, ...);
/* Steps the statement: 1 a row, 0 done, negative with *e. Resets it unless there is a row. */
int store_step(struct store *s, sqlite3_stmt *statement, struct err *e);
/* Reads the first column of the first row as an integer; `fallback` when there is no row. */
int store_integer(struct store *s, int64_t fallback, int64_t *value, struct err *e, const char *sql,
    const char *types, ...);
/* Returns s->scratch with at least this size; its old contents are lost. */
void *store_scratch(struct store *s, size_t bytes);
/* Sets *e from SQLite's last error while doing `what`, and returns the code. */
int store_failed(struct store *s, struct err *e, const char *what);

/* store/chunks.c: a job is finished when it is sealed and all its rows are. Call it after any
 * change that can make it so. */
int store_set_finished(struct store *s, int64_t job, struct err *e);

/* store/open.c, store/schema.c */
int store_execute(struct store *s, const char *sql, struct err *e);
int store_make_schema(struct store *s, struct err *e);
/* 0: a new file; else 1 to STORE_SCHEMA_VERSION, or ASSAY_EFORMAT. */
int store_read_version(struct store *s, int64_t *version, struct err *e);

/* store/models.c: what is served, and the modes of it. */
/* The first of the current ones, which rows without a name are for; NULL: there is none. */
const struct store_served *store_first(const struct store *s);
/* The current one of that name; NULL: there is none. */
const struct store_served *store_current_of(const struct store *s, struct slice name);
/* The one that has this mode, alone or with an adapter, whose number is set; NULL: none has. */
const struct store_served *store_served_of(const struct store *s, int64_t mode, uint32_t *adapter);
int store_mode_is_present(const struct store *s, int64_t mode); /* that of an ensemble, too */
/* The modes of an ensemble's members; of any other mode, that alone. n = 0: it is damaged. */
struct store_members {
    int64_t modes[STORE_MEMBERS];
    uint32_t n;
    int has_none; /* a member that is not there */
};
int store_members_of(struct store *s, int64_t mode, struct store_members *m, struct err *e);
/* Where a row goes. */
struct store_route {
    struct slice text;           /* store.h; absent: to the model */
    uint32_t ids[STORE_MEMBERS]; /* of the models that the row was written for */
    int is_by_name;              /* instead of these, what has the names now */
};
/* Sets its mode; 0: nothing of the kind is there. An ensemble's is made. */
int store_mode_of_route(struct store *s, const struct store_route *r, int64_t *mode, struct err *e);
/* 1: this is the mode of the route's models and adapters as they are now; 0: it is not; negative. */
int store_route_is(struct store *s, const struct store_route *r, int64_t mode, struct err *e);
/* Of a reader: what new rows may have, as a broker has written it. */
int store_read_present(struct store *s, struct err *e);
void store_release_models(struct store *s);

/* store/adapters.c: what a job's rows name. */
/* What a job was begun with that is not there now. */
struct missing_route {
    char route[STORE_ROUTE_BYTES]; /* "": all are there */
    int64_t mode, present;         /* the job's, and what the broker has; 0: nothing of the name */
};
/* The object, also where it is null, or damaged and no JSON any more. */
#define STORE_JSON(object) "iif(json_valid(" object "), " object ", '{}')"
#define STORE_IS_MISSING(present)                                                                  \
    "value is not null and value not in (select value from json_each(" present "))"
void store_find_missing(struct store *s, struct slice adapters, struct missing_route *m);
void store_name_missing(struct store *s, const struct missing_route *m, char *text, size_t size);
/* The mode under which the job's rows of this route are scored; 0: none, they fail. */
int store_wanted_mode(
    struct store *s, int64_t job, struct slice name, int64_t *mode, struct err *e);
int store_note_route(struct store *s, int64_t job, const struct store_route *r, struct err *e);
/* The job goes on with what is there now; all = 0: only where it had nothing. */
int store_accept_adapters(struct store *s, int64_t job, int all, struct err *e);

/* store/reserve.c: the reserve files: 0 for results of accepted work, 1 for a purge. */
#define STORE_RESERVES 2
void store_reserve_make(struct store *s, int which, uint64_t least); /* if so much is free */
int store_reserve_remove(struct store *s, int which);                /* 1: it was there */
int store_has_much_room(const struct store *s); /* the log may grow, and be copied later */

/* store/blocks.c: the states of rows. */
#define STORE_BLOCK_COLUMNS "select block, queued, failed, sum"
/* q is at STORE_BLOCK_COLUMNS. Returns 0, or ASSAY_EIO when they are not what was written. */
int store_block_is_sound(struct store *s, sqlite3_stmt *q, struct err *e);
int store_keep_blocks(struct store *s, struct err *e); /* writes the changed ones */
void store_drop_blocks(struct store *s);               /* forgets all: the transaction is over */
int store_row_is_placed(struct store *s, int64_t row, int failed, struct err *e); /* a new row */
int store_row_runs(struct store *s, int64_t row, int runs, struct err *e);
/* Returns 1, or 0 when the row was not queued. */
int store_row_is_over(struct store *s, int64_t row, int failed, struct err *e);
int store_row_is_queued_again(struct store *s, int64_t row, struct err *e);

/* store/ahead.c: rows written ahead. */
/* Places these rows, the first of which gets the number `first`: 1 when they are written, else 0,
 * and nothing is in the way of writing them. */
int store_take_ahead(
    struct store *s, int64_t job, int64_t first, const struct store_rows *rows, struct err *e);
void store_end_ahead(struct store *s, int kept); /* call it after a commit or rollback */
/* The job whose rows are being written or placed: it may be in table purge meanwhile; 0: none. */
int64_t store_ahead_number(const struct store *s);
int store_drop_unplaced(struct store *s, int64_t job, int64_t placed, struct err *e);
/* Writes the pieces of a chunk that is kept, if they are not written. */
int store_take_pieces(struct store *s, const struct store_chunk *c, struct err *e);
/* store/placing.c: writes some of them, until about `until_us`: 1, or 0 when all are written. */
int store_write_rows(struct store *s, int64_t first, const struct store_rows *rows,
    struct store_written *w, long long until_us, struct err *e);
/* store/jobs.c: a new job's number: above every number ever given, also where damage took a job's
 * record and left its rows, which would be the new job's. */
int store_next_number(struct store *s, int64_t *job, struct err *e);

/* store/guard.c: checks that the files are still where their names say; ASSAY_EGONE names the one
 * that is not. */
int store_guard_begin(struct store *s, struct err *e); /* call it once all are there */
int store_guard_check(struct store *s, struct err *e);
/* Call it after that. Rolls back what is open, and copies a log that has lost its name into the
 * database if that still has its own. */
void store_guard_rescue(struct store *s);

/* store/sums.c: checksums. Readers return 1 when the record is possible and as it was written. */
int store_read_sums_from(struct store *s, struct err *e); /* call it before any record is read */
int64_t store_sum_row(int64_t row, const struct row_record *r);
/* A row's input: its lengths and hashes, which need no number. */
struct input_hash {
    uint32_t n_tokens, n_positions, n_ends;
    uint64_t ids, positions, ends;
};
struct input_hash store_hash_input(const struct row_input *in);
int64_t store_sum_input(int64_t row, const struct input_hash *h);
int64_t store_sum_result(const struct result_record *r);
int64_t store_sum_block(int64_t block, uint64_t queued, uint64_t failed);
/* Whether column `at`, the checksum in a record of this job, is this one. */
int store_sum_fits(const struct store *s, int64_t job, sqlite3_stmt *q, int at, int64_t sum);
/* Reads STORE_ROW_COLUMNS from column `at` on. */
#define STORE_ROW_COLUMNS                                                                          \
    "shape, n_tokens, pool_type, activation, step_token, n_values, client_id, row.sum, adapter "
int store_read_record(
    const struct store *s, int64_t row, sqlite3_stmt *q, int at, struct row_record *r);
/* Reads STORE_RESULT_COLUMNS from column `at` on. */
#define STORE_RESULT_COLUMNS                                                                       \
    "result.job, seq, result.row, mode, finished_ms, score, vector, pooled, error_code, "          \
    "error_message, result.sum "
int store_read_result(const struct store *s, sqlite3_stmt *q, int at, struct result_record *r);
/* q is at STORE_JOB_COLUMNS. Returns the halves that are not what was written. */
int store_job_damage(const struct store *s, sqlite3_stmt *q);
/* Notes that these halves of the job's record change, so the commit writes their checksums.
 * store_touch_job may come after the change; store_touch_sound, for JOB_SAID, must come before it,
 * and leaves that half alone if it is damaged. */
int store_touch_job(struct store *s, int64_t job, int what, struct err *e);
int store_touch_sound(struct store *s, int64_t job, struct err *e);
int store_seal_jobs(struct store *s, struct err *e); /* call it before a commit */

#define STORE_ROW_DAMAGED                                                                          \
    "expected the row as it was kept, found a record in the database that is damaged; send it "    \
    "again"
static inline struct slice store_text(const char *text)
{
    return (struct slice){(const uint8_t *)text, text ? strlen(text) : 0};
}

/* store/finish.c */
int store_insert_result(
    struct store *s, const struct result_record *r, const char *vector_json, struct err *e);
/* Writes the values as JSON, for people; the caller frees it. */
char *store_vector_json(const float *values, uint32_t n);
/* Adds to the minute of now_ms (wall clock), and sums old minutes by hours now and then. */
int store_note_minute(
    struct store *s, int64_t now_ms, int64_t n_rows, int64_t n_tokens, struct err *e);
/* Adds s->tally to its job's counters, and clears it. */
int store_end_tally(struct store *s, struct err *e);

/* store/jobs.c: how rows that asked for truncation were truncated: n the longest has n tokens, and
 * none was cut; -n some were cut to n; 0 there are none. */
int64_t store_join_truncation(int64_t a, int64_t b);

/* store/results.c */
/* Returns the row of a damaged result: the one that the index gives, else the one in the record. */
int64_t store_row_of_result(struct store *s, const struct result_record *r);
/* store/rows.c */
/* Visits rows `first` to `last` of one job, whatever their state, except those that were born
 * failed. */
int store_rows_between(struct store *s, int64_t first, int64_t last, store_row_visitor *visit,
    void *arg, struct err *e);
/* store/chunks.c */
/* q has the columns STORE_CHUNK_COLUMNS from `at` on. Whether they are as they were written. */
#define STORE_CHUNK_COLUMNS "chunk, n_rows, seal, digest, sum, n_placed "
int store_chunk_is_sound(sqlite3_stmt *q, int64_t job, int at);
/* Whether the records of the job's chunks are sound, with so many rows: 1, or 0. */
int store_chunks_agree(struct store *s, int64_t job, int64_t accepted, struct err *e);
/* Notes that so many rows of a kept chunk are placed; is_over: all are, and it is not kept any
 * more. */
int store_set_placed(
    struct store *s, int64_t job, uint32_t chunk, uint32_t n_placed, int is_over, struct err *e);
/* Bytes that are kept count as queued tokens until their rows are placed: adds them, or takes them
 * off. */
int store_count_pending(struct store *s, int64_t job, size_t bytes, int sign, struct err *e);
/* Whether `kept` is the digest of these rows; `digest` is the one that is taken now. Chunks from
 * before version 4 of the schema have BLAKE2b-256, which its length shows. */
int store_has_digest(struct slice rows, struct slice kept, struct slice digest);
/* Deletes kept chunks whose record is damaged: which they are is not known. Sets *was_next if one
 * was chunk `next`. */
int store_drop_damaged_chunks(
    struct store *s, int64_t job, int64_t next, int *was_next, struct err *e);
/* store/pending.c */
/* Finds the first kept chunk of the job above `after`, whatever is before it: 1 and *p, or 0. */
int store_pending_above(
    struct store *s, int64_t job, int64_t after, struct store_pending *p, struct err *e);
/* Writes pieces of the chunk from *n_written on, until about until_us: 1, or 0 when all are
 * written. */
int store_write_pieces(struct store *s, const struct store_chunk *c, size_t *n_written,
    long long until_us, struct err *e);
int store_drop_lost_pieces(struct store *s, struct err *e); /* at the start: those of no chunk */
/* store/placing.c: places rows from w->n_rows on, until about until_us: 1, or 0 when all are
 * placed. */
int store_place_rows(struct store *s, int64_t job, const struct store_rows *rows,
    struct store_written *w, long long until_us, struct err *e);

/* store/mend.c: makes again what can be derived from the rest. */
/* Compares the states of the job's rows with its counters: 1 they agree, 0 they do not. */
int store_states_agree(struct store *s, int64_t job, struct err *e);
/* Rebuilds both from rows and results, and queues each row without a result. With `drop`, deletes
 * damaged results. Call it in a transaction. */
int store_mend_job(struct store *s, int64_t job, int drop, struct err *e);
int store_count_tokens(struct store *s, struct err *e); /* into s->queued_tokens */
/* Checks the record of every job, so that damaged ones are listed under the state that they
 * show. */
int store_find_unsound(struct store *s, struct err *e);
int store_mend_all(struct store *s, struct err *e); /* at the start: unfinished jobs */

/* store/wal.c: the record of how far the log is on disk. */
/* Reads the record into *p and checks the log against it; call it before SQLite opens the log.
 * ASSAY_EFORMAT: the log has less. ASSAY_EDAMAGED: the record is damaged, and nothing is known. */
int store_wal_check(const char *dir, struct wal_point *p, struct err *e);
int store_wal_begin(struct store *s, const struct wal_point *p, struct err *e);
int store_wal_open(struct store *s, struct err *e); /* call it once the log is there */
void store_wal_close(struct store *s);
void store_wal_point(const struct store *s, struct wal_point *p); /* the end of the last commit */
/* For these hold the record (store_sync_hold). The first records that the log is synced up to *p,
 * the second that it was written up to there; the others go before and after a checkpoint that may
 * empty the log. */
void store_wal_synced(struct store *s, const struct wal_point *p);
void store_wal_wrote(struct store *s, const struct wal_point *p);
void store_wal_forget(struct store *s);
void store_wal_recall(struct store *s);
void store_wal_emptied(struct store *s); /* instead, if it is empty, though its file may not be */

/* store/checkpoint.c: copies the log into the database; in a thread, as a rule. */
int store_copier_start(struct store *s, struct err *e); /* call it once the sync thread is there */
void store_copier_stop(struct store *s);                /* NULL-safe */
void store_copier_wait(struct store *s);                /* until the thread is not copying */
void store_wait_to_write(struct store *s); /* until it needs no more that nobody writes */
/* In this thread: SQLITE_CHECKPOINT_PASSIVE or _TRUNCATE; returns SQLite's code. */
int store_checkpoint(struct store *s, int mode, int wait_ms);
/* Empties the log. On a full disk the database may lack room for the log's contents, which then
 * only grows: a reserve lends it space until the log has given back as much. */
void store_checkpoint_whole(struct store *s, int wait_ms);
void store_log_has(struct store *s, int n_pages); /* after a commit */
/* store/open.c: writes the start's state once that is possible. */
int store_begin_late(struct store *s, struct err *e);

/* store/sync.c: starts a thread with all signals blocked: they are the broker's. 0 or an errno. */
int store_start_thread(pthread_t *thread, void *(*run)(void *), void *arg);
/* store/sync.c: the thread that syncs. store_sync_wrote tells it of a commit; `synced` says that
 * the commit is on disk with all before it. */
int store_sync_start(struct store *s, struct err *e);
void store_sync_stop(struct store *s); /* NULL-safe */
void store_sync_wrote(struct store *s, int synced);
void store_sync_hold(struct store *s); /* keeps the thread off the record */
void store_sync_let(struct store *s);
void store_sync_tell(const struct store *s); /* makes store_sync_fd readable; in any thread */
/* A sync of that file failed: nothing is told as synced any more. From any thread. */
void store_sync_failed(struct store *s, const char *file, int error);

#endif
