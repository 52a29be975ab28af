/* private.h - what the files of the store share: the connection, its prepared statements, and
 * how one is run. */
#ifndef ASSAY_STORE_PRIVATE_H
#define ASSAY_STORE_PRIVATE_H

#include <sqlite3.h>
#include <string.h>
#include <sys/types.h>

#include "broker/store/store.h"
#include "schema/packed_rows.h"

#define STORE_MAX_STATEMENTS 128
#define STORE_SCHEMA_VERSION 7
#define STORE_LAST_JOB INT32_MAX /* rows' numbers have 31 bits for it */
#define STORE_BLOCKS 64
#define STORE_GUARDED 4 /* files (store/guard.c) */

struct store_sync; /* store/sync.c */

/* What decides a row, in its record; and its client's id, as SQLite keeps it. */
struct client_id {
    int type; /* SQLITE_NULL, _INTEGER, _TEXT, or _BLOB: digits of what SQLite has no integer for */
    int64_t number;
    struct slice text;
};
struct row_record {
    int64_t shape, n_tokens, pool_type, activation, step_token, n_values;
    struct client_id id;
};

/* A result's record: a score, a vector, or an error. */
struct result_record {
    int64_t job, seq, row, mode, finished_ms;
    int has_score;
    double score;
    struct slice vector, pooled, error_code, error_message; /* absent: at is NULL */
};

/* Halves of a job's record: what client and operator said, and what was counted. */
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
    "tokens_left, next_seq, sum from job "

/* Rows of one job that the open transaction has finished: what the job is told of them once, when another
 * job's come or at the commit (store/work.c). */
struct store_tally {
    int64_t job; /* 0: none */
    int64_t next_seq;
    int64_t done, failed, copied, cached, tokens;
    int cancelled;
};

/* States of 64 rows, as the open transaction has them (store/blocks.c). */
struct store_block {
    int64_t number; /* 0: none */
    uint64_t queued, running, failed;
    int is_kept; /* the table has it */
    int changed; /* since it was read or written */
};

static inline int64_t block_number(int64_t row)
{
    return row >> 6;
}
static inline uint64_t row_bit(int64_t row)
{
    return 1ull << (row & 63);
}

/* How far the log has been synced (store/wal.c). */
struct wal_point {
    uint32_t salt[2];
    uint64_t frames; /* 0: nothing is known */
};
struct store_wal {
    int fd;      /* of the record, or -1 */
    int log_fd;  /* of the log, or -1 */
    int is_kept; /* the record says something */
    uint32_t page_bytes;
    struct wal_point synced; /* as last recorded */
};

struct store {
    sqlite3 *db;
    struct store_sync *sync;
    struct store_wal wal;
    int later; /* the open transaction is one of store_begin_later; and so is SQLite's setting */
    uint64_t room;                /* bytes that may be asked for until the disk is asked again */
    long long room_ms;            /* and when it is at the latest */
    int wal_pages, wal_pages_due; /* in the WAL; when it is time for a checkpoint */
    uint64_t wal_told_bytes;      /* that were warned of; 0: none since it was small */
    int wrote;                    /* its commit wrote frames: without any, SQLite syncs nothing */
    char dir[4096];
    int lock_fd;
    int late; /* this start has written nothing yet, for it could not */
    int locked; /* by another process, as of the last transaction: the next one does not wait for it */
    struct {
        dev_t device;
        ino_t inode;
    } guarded[STORE_GUARDED];
    off_t guarded_bytes; /* of assay.db, as last seen */
    struct store_options options;
    uint64_t epoch;
    int64_t mode;                 /* the broker's present one */
    int64_t queued_tokens;        /* of unfinished rows, as committed and in the open transaction */
    int64_t queued_tokens_before; /* as of the last commit */
    int64_t next_batch;
    int64_t sums_from; /* the first job all of whose records have checksums */
    struct touched_job touched[STORE_TOUCHED]; /* whose checksum the commit is to write */
    int n_touched;
    struct store_tally tally;
    struct store_block blocks[STORE_BLOCKS];
    struct packed_writer input; /* of rows that are being placed */
    int64_t input_sums[PACKED_ROWS];
    void *scratch; /* for an answer's values */
    size_t scratch_bytes;
    int64_t damaged[STORE_DAMAGED]; /* jobs among whose results a damaged one was found */
    unsigned n_damaged;
    int64_t *
        unsound; /* jobs whose records were found to be damaged, ascending; some may be sound again, or gone */
    size_t n_unsound;
    int64_t suspect; /* a job to look after when there is time (store/mend.c); 0: none */
    int changes;     /* since the last idle checkpoint */
    int free_pages;  /* some were left by purged rows, and are to be given back */
    struct {
        const char *sql;
        sqlite3_stmt *statement;
    } cache[STORE_MAX_STATEMENTS]; /* by the address of the SQL literal */
    int n_cached;
};

/* The prepared statement of this string literal, reset, arguments bound. types: one letter an
 * argument: i int64_t, d double, t struct slice as text (absent: null), b struct slice as blob
 * (absent: null), s const char * (NULL: null). */
sqlite3_stmt *store_prepare(struct store *s, const char *sql, const char *types, ...);
/* Run a statement that gives no rows. 0 or negative. */
int store_run(struct store *s, struct err *e, const char *sql, const char *types, ...);
/* One that changes these halves of this job's record (JOB_SAID, JOB_COUNTED). */
int store_run_job(
    struct store *s, int64_t job, int what, struct err *e, const char *sql, const char *types, ...);
/* Step: 1 a row, 0 done, negative with *e. The statement is reset unless a row was given. */
int store_step(struct store *s, sqlite3_stmt *statement, struct err *e);
/* First column of the first row as an integer; `fallback` when there is no row. */
int store_integer(struct store *s, int64_t fallback, int64_t *value, struct err *e, const char *sql,
    const char *types, ...);
/* s->scratch, at least so large; what was in it is gone. */
void *store_scratch(struct store *s, size_t bytes);
int store_failed(struct store *s, struct err *e, const char *what);

int store_end_tally(struct store *s, struct err *e);

/* store/open.c, store/schema.c */
int store_execute(struct store *s, const char *sql, struct err *e);
int store_make_schema(struct store *s, struct err *e);

/* store/blocks.c: the states of rows. */
#define STORE_BLOCK_COLUMNS "select block, queued, failed, sum"
/* q stands on STORE_BLOCK_COLUMNS: 0, or ASSAY_EIO when they are not what was written. */
int store_block_is_sound(struct store *s, sqlite3_stmt *q, struct err *e);
int store_keep_blocks(struct store *s, struct err *e); /* writes those that have changed */
void store_drop_blocks(struct store *s);               /* the transaction is over */
int store_row_is_placed(struct store *s, int64_t row, int failed, struct err *e); /* a new row */
int store_row_runs(struct store *s, int64_t row, int runs, struct err *e);
/* 1, or 0 when it was not queued. */
int store_row_is_over(struct store *s, int64_t row, int failed, struct err *e);
int store_row_is_queued_again(struct store *s, int64_t row, struct err *e);

/* store/guard.c: that the files are still where their names say; ASSAY_EGONE names the one that is not. */
int store_guard_begin(struct store *s, struct err *e); /* once all are there */
int store_guard_check(struct store *s, struct err *e);
/* After that: what is in a log without a name goes into the database, if that has its own; what was open is undone. */
void store_guard_rescue(struct store *s);

/* store/sums.c: checksums. Readers say 1 when the record is as it was written, and can be. */
int store_read_sums_from(struct store *s, struct err *e); /* before a record is read */
int64_t store_sum_row(int64_t row, const struct row_record *r);
int64_t store_sum_input(int64_t row, const void *ids, uint32_t n_tokens, const void *positions,
    uint32_t n_positions, const void *ends, uint32_t n_ends);
int64_t store_sum_result(const struct result_record *r);
int64_t store_sum_block(int64_t block, uint64_t queued, uint64_t failed);
/* Column `at` of a record of this job is its checksum: is it this one? */
int store_sum_fits(const struct store *s, int64_t job, sqlite3_stmt *q, int at, int64_t sum);
/* STORE_ROW_COLUMNS, from column `at` on. */
#define STORE_ROW_COLUMNS                                                                          \
    "shape, n_tokens, pool_type, activation, step_token, n_values, client_id, row.sum "
int store_read_record(
    const struct store *s, int64_t row, sqlite3_stmt *q, int at, struct row_record *r);
/* STORE_RESULT_COLUMNS, from column `at` on. */
#define STORE_RESULT_COLUMNS                                                                       \
    "result.job, seq, result.row, mode, finished_ms, score, vector, pooled, error_code, "          \
    "error_message, result.sum "
int store_read_result(const struct store *s, sqlite3_stmt *q, int at, struct result_record *r);
/* q stands on STORE_JOB_COLUMNS: which halves are not what was written. */
int store_job_damage(const struct store *s, sqlite3_stmt *q);
/* These halves of the job's record are changed: the commit writes their checksum. The first may come after
 * the change, the second, for what was said, comes before it. */
int store_touch_job(struct store *s, int64_t job, int what, struct err *e);
int store_touch_sound(struct store *s, int64_t job, struct err *e);
int store_seal_jobs(struct store *s, struct err *e); /* for the commit */

#define STORE_ROW_DAMAGED                                                                          \
    "expected the row as it was kept, found a record in the database that is damaged; send it "    \
    "again"
static inline struct slice store_text(const char *text)
{
    return (struct slice){(const uint8_t *)text, text ? strlen(text) : 0};
}
/* store/results.c */
int store_insert_result(
    struct store *s, const struct result_record *r, const char *vector_json, struct err *e);

/* Of which row a result is that is damaged: what the index says, or itself. */
int64_t store_row_of_result(struct store *s, const struct result_record *r);
/* The numbers as JSON, for people; the caller frees it. */
char *store_vector_json(const float *values, uint32_t n);
/* Rows from `first` to `last`, of one job, whatever their state; those that were born failed are passed over. */
int store_rows_between(struct store *s, int64_t first, int64_t last, store_row_visitor *visit,
    void *arg, struct err *e);
/* q stands on a chunk that is past a gap: are these columns its bytes, and their digest? */
int store_pending_is_sound(sqlite3_stmt *q, int pending, int digest);

/* store/mend.c: what can be made again from what is there. */
/* The states of the job's rows and its counters: 1 they agree, 0 they do not. */
int store_states_agree(struct store *s, int64_t job, struct err *e);
/* They are made anew from rows and results; a row without a result is queued. With `drop`, results that are
 * damaged are deleted. In a transaction. */
int store_mend_job(struct store *s, int64_t job, int drop, struct err *e);
int store_count_tokens(struct store *s, struct err *e); /* into s->queued_tokens */
/* Looks at the record of every job, so that those that are damaged are listed by the state that they show. */
int store_find_unsound(struct store *s, struct err *e);
int store_mend_all(struct store *s, struct err *e); /* at the start: unfinished jobs that need it */

/* store/wal.c: the record of how far the log is on the disk. */
/* Before SQLite opens the log. *p: the record; ASSAY_EFORMAT: the log has less; ASSAY_EDAMAGED: the record is
 * damaged, and nothing known. */
int store_wal_check(const char *dir, struct wal_point *p, struct err *e);
int store_wal_begin(struct store *s, const struct wal_point *p, struct err *e);
int store_wal_open(struct store *s, struct err *e); /* once the log is there */
void store_wal_close(struct store *s);
void store_wal_point(const struct store *s, struct wal_point *p); /* of the commit just made */
/* While nobody else is at the record (store_sync_hold): so far it is synced; and before and after a checkpoint that
 * may empty the log. */
void store_wal_synced(struct store *s, const struct wal_point *p);
void store_wal_forget(struct store *s);
void store_wal_recall(struct store *s);

/* store/sync.c: the thread, and that a commit is written (synced: with all before it, on the disk). */
int store_sync_start(struct store *s, struct err *e);
void store_sync_stop(struct store *s); /* NULL-safe */
void store_sync_wrote(struct store *s, int synced);
void store_sync_hold(struct store *s); /* the thread does not touch the record meanwhile */
void store_sync_let(struct store *s);

#endif
