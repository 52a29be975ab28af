/* store_private.h - what the files of the store share: the connection, its prepared statements, and
 * how one is run. */
#ifndef ASSAY_STORE_PRIVATE_H
#define ASSAY_STORE_PRIVATE_H

#include <sqlite3.h>
#include <sys/types.h>

#include "broker/store.h"
#include "schema/bundle.h"

#define STORE_MAX_STATEMENTS 96
#define STORE_BLOCKS 64
#define STORE_GUARDED 4 /* files (store_guard.c) */

struct store_sync; /* store_sync.c */

/* Rows of one job that the open transaction has finished: what the job is told of them once, when another
 * job's come or at the commit (store_work.c). */
struct store_tally {
    int64_t job; /* 0: none */
    int64_t next_seq;
    int64_t done, failed, copied, cached, tokens;
    int cancelled;
};

/* States of 64 rows, as the open transaction has them (store_blocks.c). */
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

struct store {
    sqlite3 *db;
    struct store_sync *sync;
    int later; /* the open transaction is one of store_begin_later; and so is SQLite's setting */
    uint64_t room;                /* bytes that may be asked for until the disk is asked again */
    long long room_ms;            /* and when it is at the latest */
    int wal_pages, wal_pages_due; /* in the WAL; when it is time for a checkpoint */
    int wrote;                    /* its commit wrote frames: without any, SQLite syncs nothing */
    char dir[4096];
    int lock_fd;
    struct {
        dev_t device;
        ino_t inode;
    } guarded[STORE_GUARDED];
    struct store_options options;
    uint64_t epoch;
    int64_t mode;                 /* the broker's present one */
    int64_t queued_tokens;        /* of unfinished rows, as committed and in the open transaction */
    int64_t queued_tokens_before; /* as of the last commit */
    int64_t next_batch;
    struct store_tally tally;
    struct store_block blocks[STORE_BLOCKS];
    struct bundle_writer input; /* of rows that are being placed */
    void *scratch;              /* for an answer's values */
    size_t scratch_bytes;
    int changes;    /* since the last idle checkpoint */
    int free_pages; /* some were left by purged rows, and are to be given back */
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
/* Step: 1 a row, 0 done, negative with *e. The statement is reset unless a row was given. */
int store_step(struct store *s, sqlite3_stmt *statement, struct err *e);
/* First column of the first row as an integer; `fallback` when there is no row. */
int store_integer(struct store *s, int64_t fallback, int64_t *value, struct err *e, const char *sql,
    const char *types, ...);
/* s->scratch, at least so large; what was in it is gone. */
void *store_scratch(struct store *s, size_t bytes);
int store_failed(struct store *s, struct err *e, const char *what);

int store_end_tally(struct store *s, struct err *e);

/* store_blocks.c: the states of rows. */
int store_keep_blocks(struct store *s, struct err *e); /* writes those that have changed */
void store_drop_blocks(struct store *s);               /* the transaction is over */
int store_row_is_placed(struct store *s, int64_t row, int failed, struct err *e); /* a new row */
int store_row_runs(struct store *s, int64_t row, int runs, struct err *e);
/* 1, or 0 when it was not queued. */
int store_row_is_over(struct store *s, int64_t row, int failed, struct err *e);
int store_row_is_queued_again(struct store *s, int64_t row, struct err *e);

/* store_guard.c: that the files are still where their names say; ASSAY_EGONE names the one that is not. */
int store_guard_begin(struct store *s, struct err *e); /* once all are there */
int store_guard_check(const struct store *s, struct err *e);
/* After that: what is in a log without a name goes into the database, if that has its own; what was open is undone. */
void store_guard_rescue(const struct store *s);

/* store_sync.c: the thread, and that a commit is written (synced: with all before it, on the disk). */
int store_sync_start(struct store *s, struct err *e);
void store_sync_stop(struct store *s); /* NULL-safe */
void store_sync_wrote(struct store *s, int synced);

#endif
