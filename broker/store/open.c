/* open.c - the database file: opening, transactions.
 *
 * Its rules:
 *
 *   - The lock file comes first (store/lock.c): two brokers that write and checkpoint one WAL
 *     database can corrupt it, and an ipc bind silently takes the endpoint from its owner.
 *   - The WAL is synced and wal_checkpoint(TRUNCATE) runs before anything is acknowledged: the WAL
 *     of a broker that was killed may hold frames that were written but never synced; a row
 *     recovered from them must be synced before a client is told that it is a duplicate.
 *   - synchronous=FULL: a commit is on disk when it returns. NORMAL for commits that a thread syncs
 *     later (store/sync.c). The outcome of a commit that fails is unknown.
 *   - The -wal and -shm files stay (PERSIST_WAL), so that read-only readers always work. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "broker/store/private.h"
#include "schema/alloc.h"
#include "schema/log.h"

/* For a new database; an existing one keeps its own. Seven rows of 512 tokens fill a page (ids.h);
 * three would fill 4 kB, with a quarter left over. Larger pages cost small commits more than they
 * save: a commit writes whole pages, and 32 jobs that get a row each touch a hundred of them. */
#define PAGE_BYTES "8192"
/* How long to wait for another process's lock, at the start. */
#define START_BUSY_MS 30000

/* ---- opening ---- */

static int take_lock(struct store *s, struct err *e)
{
    s->lock_fd = s->options.lock_fd ? s->options.lock_fd : store_lock(s->dir, e);
    return s->lock_fd < 0 ? s->lock_fd : 0;
}

int store_execute(struct store *s, const char *sql, struct err *e)
{
    return sqlite3_exec(s->db, sql, NULL, NULL, NULL) == SQLITE_OK
               ? 0
               : store_failed(s, e, "cannot set up");
}

/* A commit wrote frames; the WAL now has n_pages, fewer than before if it was restarted. */
static int note_frames(void *arg, sqlite3 *db, const char *name, int n_pages)
{
    struct store *s = arg;
    (void)db;
    (void)name;
    s->wrote = 1;
    store_log_has(s, n_pages);
    return SQLITE_OK;
}

static int open_file(struct store *s, struct err *e)
{
    struct stat st;
    char path[4200];
    int on = 1;
    snprintf(path, sizeof path, "%s/assay.db", s->dir);
    sqlite3_config(SQLITE_CONFIG_MEMSTATUS, 0); /* or each allocation takes a lock to be counted */
    int flags =
        SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_PRIVATECACHE;
    int is_new = stat(path, &st) != 0 || st.st_size == 0;
    if (sqlite3_open_v2(path, &s->db, flags, NULL) != SQLITE_OK)
        return store_failed(s, e, "cannot open");
    sqlite3_extended_result_codes(s->db, 1);
    sqlite3_busy_timeout(s->db, START_BUSY_MS);
    sqlite3_file_control(s->db, "main", SQLITE_FCNTL_PERSIST_WAL, &on);
    int rc = 0;
    if (is_new) /* an existing file would be written to, even if it need not be */
        rc = store_execute(s, "pragma page_size=" PAGE_BYTES "; pragma auto_vacuum=incremental", e);
    if (rc == 0) /* secure_delete, on in some builds of SQLite, writes each freed page once more */
        rc = store_execute(s,
            "pragma journal_mode=wal; pragma synchronous=full; pragma wal_autocheckpoint=0;"
            "pragma temp_store=memory; pragma cache_size=-65536;"
            "pragma journal_size_limit=117440512; pragma foreign_keys=off;"
            "pragma trusted_schema=off; pragma secure_delete=fast;",
            e);
    sqlite3_wal_hook(s->db, note_frames, s); /* after wal_autocheckpoint, which sets it too */
    return rc;
}

/* A broker that was killed may have left frames in the WAL that were written but never synced. The
 * first checkpoint syncs them, but a reader can prevent it. Runs before SQLite opens the file:
 * closing the file later would drop SQLite's locks. */
static int sync_wal(const struct store *s, struct err *e)
{
    char path[4200], db[4200];
    struct stat st, wal;
    snprintf(path, sizeof path, "%s/assay.db-wal", s->dir);
    snprintf(db, sizeof db, "%s/assay.db", s->dir);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return errno == ENOENT ? 0 : err_errno(e, ASSAY_EIO, "%s", path);
    if ((stat(db, &st) != 0 || st.st_size == 0) && fstat(fd, &wal) == 0 && wal.st_size > 0) {
        close(fd); /* SQLite would delete the WAL */
        return err_set(e, ASSAY_EFORMAT,
            "%s is missing or empty, and %s holds what was last written to it: put assay.db back, "
            "or "
            "remove assay.db-wal too to begin anew",
            db, path);
    }
    int rc = fsync(fd) == 0 ? 0 : err_errno(e, ASSAY_EIO, "%s: cannot sync", path);
    close(fd);
    return rc;
}

/* Checks that the log holds all that was ever recorded as synced. */
static int check_wal(struct store *s, struct err *e)
{
    struct wal_point p;
    int rc = store_wal_check(s->dir, &p, e);
    if (rc == ASSAY_EDAMAGED) {
        log_warn("event=record_of_syncs_damaged error=\"%s\"", e ? e->msg : "");
        rc = 0;
    }
    return rc == 0 ? store_wal_begin(s, &p, e) : rc;
}

/* Reads what is known before anything is written; the modes' numbers only if they were used
 * before. */
static int read_state(struct store *s, struct err *e)
{
    int rc = store_read_models(s, e);
    if (rc == 0)
        rc = store_integer(
            s, 0, &s->next_batch, e, "select max(batch) from batch where batch < 1 << 60", "");
    if (rc == 0)
        rc = store_count_tokens(s, e);
    s->next_batch++;
    return rc;
}

/* Writes this start's epoch and mode, and resets what was only true of the last run. */
static int write_state(struct store *s, struct err *e)
{
    int64_t epoch;
    int rc = store_integer(s, 0, &epoch, e,
        "select value from meta where name = 'epoch' and value between 0 and 1 << 48", "");
    if (rc != 0)
        return rc;
    s->epoch = (uint64_t)epoch + 1;
    rc = store_run(s, e, "insert or replace into meta values ('epoch', ?)", "i", (int64_t)s->epoch);
    if (rc == 0)
        rc = store_write_models(s, e);
    if (rc == 0)
        rc = read_state(s, e);
    if (rc == 0)
        rc = store_run(
            s, e, "update block indexed by block_running set running = 0 where running <> 0", "");
    if (rc == 0)
        rc = store_run(s, e, "delete from worker", "");
    if (rc == 0)
        rc = store_run(s, e, "update job set running = 0 where running <> 0", "");
    if (rc == 0)
        rc = store_run(
            s, e, "update batch indexed by batch_running set ms = 0, ok = 0 where ms is null", "");
    return rc;
}

static int begin_epoch(struct store *s, struct err *e)
{
    int rc = store_begin(s, e);
    if (rc == 0)
        rc = write_state(s, e);
    if (rc == 0)
        return store_commit(s, e);
    store_rollback(s);
    return rc;
}

static int write_first(struct store *s, struct err *e)
{
    int rc = store_mend_all(s, e);
    return rc == 0 ? begin_epoch(s, e) : rc;
}

/* Writes the start's state, on a full disk by giving up the reserve. If nothing can be written even
 * so, the database can still be read and purged. */
static int start(struct store *s, struct err *e)
{
    int rc = write_first(s, e);
    if (rc == ASSAY_EFULL && store_free_reserve(s))
        rc = write_first(s, e);
    if (!store_may_pass(rc))
        return rc;
    s->late = 1;
    log_warn(
        "event=nothing_can_be_written error=\"%s\" action=\"what is there is served; work waits\"",
        e ? e->msg : "");
    return read_state(s, e);
}

int store_is_late(const struct store *s)
{
    return s->late;
}

int store_open(
    struct store **out, const char *data_dir, const struct store_options *options, struct err *e)
{
    struct store *s = xcalloc(1, sizeof *s);
    s->lock_fd = s->wal.fd = s->wal.log_fd = -1;
    s->free_pages = 1; /* perhaps: a broker may have been killed while it gave them back */
    s->options = *options;
    s->served[0] = (struct store_served){.is_there = 1,
        .is = {.is_current = 1,
            .name = options->name,
            .digest = options->digest,
            .mode = options->mode,
            .limits = options->limits}};
    *out = s;
    int rc = snprintf(s->dir, sizeof s->dir, "%s", data_dir) < (int)sizeof s->dir
                 ? take_lock(s, e)
                 : err_set(e, ASSAY_EIO, "data directory: path too long");
    if (rc == 0)
        rc = sync_wal(s, e);
    if (rc == 0)
        rc = check_wal(s, e);
    if (rc == 0)
        rc = open_file(s, e);
    if (rc == 0)
        rc = store_make_schema(s, e);
    if (rc == 0)
        rc = store_wal_open(s, e);
    if (rc == 0) {
        store_checkpoint_whole(s, 4 * STORE_BUSY_MS);
        rc = store_sync_start(s, e);
    }
    if (rc == 0)
        rc = store_copier_start(s, e);
    if (rc == 0)
        rc = store_guard_begin(s, e);
    if (rc == 0)
        rc = store_read_sums_from(s, e);
    if (rc == 0)
        rc = start(s, e);
    if (rc == 0)
        rc = store_find_unsound(s, e);
    if (rc != 0) {
        store_close(out);
        return rc;
    }
    store_idle(s);
    store_copier_wait(s);
    return rc;
}

void store_close(struct store **out)
{
    struct store *s = *out;
    if (!s)
        return;
    store_copier_stop(s);
    store_sync_stop(s);
    for (int i = 0; i < s->n_cached; i++)
        sqlite3_finalize(s->cache[i].statement);
    if (s->db) {
        store_checkpoint(s, SQLITE_CHECKPOINT_TRUNCATE, 0);
        store_wal_forget(s); /* closing may empty the log as well */
        sqlite3_close(s->db);
        store_wal_recall(s);
    }
    store_wal_close(s);
    if (s->lock_fd >= 0)
        close(s->lock_fd);
    store_release_models(s);
    free(s->scratch);
    free(s->unsound);
    free(s);
    *out = NULL;
}

uint64_t store_epoch(const struct store *s)
{
    return s->epoch;
}

/* ---- transactions ---- */

/* Writes the start's state once that is possible. */
int store_begin_late(struct store *s, struct err *e)
{
    s->late = 0;
    int rc = write_first(s, e);
    s->late = rc != 0;
    if (rc != 0 && !store_may_pass(rc))
        return rc;
    if (rc == 0)
        log_info("event=database_can_be_written epoch=%llu", (unsigned long long)s->epoch);
    else
        read_state(s, NULL);
    return rc;
}

/* After a wait for the lock that failed, later ones hardly wait until the lock is taken again. */
static int begin_immediate(struct store *s, struct err *e)
{
    store_wait_to_write(s);
    int rc = store_run(s, e, "begin immediate", "");
    int locked = rc == ASSAY_ELOCKED;
    if (locked != s->locked)
        sqlite3_busy_timeout(s->db, locked ? STORE_LOCKED_MS : STORE_BUSY_MS);
    s->locked = locked;
    return rc;
}

/* SQLite changes the setting only between transactions, and when the statement is prepared. */
static int begin(struct store *s, int later, struct err *e)
{
    int rc = s->late ? store_begin_late(s, e) : 0;
    if (rc == 0 && later != s->later)
        rc = store_execute(s, later ? "pragma synchronous=normal" : "pragma synchronous=full", e);
    if (rc != 0)
        return rc;
    s->later = later;
    s->queued_tokens_before = s->queued_tokens;
    return begin_immediate(s, e);
}

int store_begin(struct store *s, struct err *e)
{
    return begin(s, 0, e);
}

int store_begin_later(struct store *s, struct err *e)
{
    return begin(s, 1, e);
}

int store_commit(struct store *s, struct err *e)
{
    int rc = store_end_tally(s, e);
    if (rc == 0)
        rc = store_keep_blocks(s, e);
    if (rc == 0)
        rc = store_seal_jobs(s, e);
    s->wrote = 0;
    if (rc == 0)
        rc = store_run(s, e, "commit", "");
    if (rc != 0)
        store_rollback(s);
    store_drop_blocks(s); /* between transactions, reads see the table */
    if (rc == 0)
        s->made_mode = 0;
    if (rc == 0)
        store_end_ahead(s, 1);
    if (rc == 0 && s->wrote)
        store_sync_wrote(s, !s->later);
    return rc;
}

void store_rollback(struct store *s)
{
    s->queued_tokens = s->queued_tokens_before;
    s->tally = (struct store_tally){0};
    s->n_touched = 0;
    store_drop_blocks(s);
    store_end_ahead(s, 0);
    if (!sqlite3_get_autocommit(s->db))
        store_execute(s, "rollback", NULL);
    if (s->made_mode)
        store_read_models(s, NULL);
}

/* ---- when there is time ---- */

uint64_t store_queued_bytes(const struct store *s)
{
    return (uint64_t)s->queued_tokens * sizeof(int32_t);
}

uint64_t store_wal_bytes(const struct store *s)
{
    char path[4200];
    struct stat st;
    snprintf(path, sizeof path, "%s/assay.db-wal", s->dir);
    return stat(path, &st) == 0 ? (uint64_t)st.st_size : 0;
}
