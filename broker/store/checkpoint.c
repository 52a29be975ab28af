/* checkpoint.c - copies the log into the database (checkpoints), beside the broker's work.
 *
 * Copying 48 MB and syncing them takes 80 ms on an idle machine and much longer on a busy disk. So
 * a thread does it, with a connection of its own that does nothing else: SQLite lets one connection
 * copy while another one writes. But a log begins anew only once all of it is copied, and a busy
 * broker writes on meanwhile. So the thread goes on with what was written while it copied; when
 * that is few pages, nobody writes until it has them too. If it cannot keep up at all, the loop
 * waits for it (MOST_PAGES), as large writes do before (store_large_waits).
 *
 * SQLite syncs the database only after all of the log was copied: that would be left to the last
 * few pages, and take long. So the thread syncs what it has copied, each time.
 *
 * A pass begins only while pages are left: where all is copied a commit may begin the log anew, and
 * SQLite before 3.51.3 would then count pages of the new log as copied that this pass never saw.
 *
 * A commit that begins the log anew syncs its header, on the loop: what of the new log reaches the
 * disk before that would otherwise stand in the old one. So a log is copied only once it is long,
 * or nothing happens, or the disk has little room: what is in the log needs some in the database.
 *
 * When nothing happens the thread first copies the log and then empties it (TRUNCATE). Nobody can
 * write meanwhile either: a transaction that begins waits for the thread. But cutting a file of 60
 * MB takes 10 ms, and 100 ms where the file system tells the disk of each free block. So SQLite's
 * truncation only overwrites the log's header: to every reader the log then ends there. Once that
 * is synced the file is cut bit by bit, with SQLite's lock for writers; who begins to write waits
 * for one part at most, and ends the cutting. What is left of the file is overwritten, or cut in
 * another idle moment. */
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "broker/store/private.h"
#include "schema/alloc.h"
#include "schema/log.h"

/* The log's size at which to copy it: a busy broker writes several times as many pages a second.
 * A log that stays below journal_size_limit is overwritten in place, in memory and on disk; what is
 * beyond is cut off when it begins anew, which takes 10 ms and more. */
#define WAL_PAGES 6144
#define LONG_PAGES (WAL_PAGES * 3 / 2)
#define MOST_PAGES (WAL_PAGES * 2)
#define FEW_PAGES 128               /* a megabyte: 1 ms, and what two syncs take */
#define CUT_BYTES (4 << 20)         /* 1 ms */
#define WAL_WARN_BYTES (128u << 20) /* with a reader in the way */

enum copier_state { COPIER_IDLE, COPIER_RUNS, COPIER_IS_OVER };

struct store_copier {
    pthread_t thread;
    pthread_mutex_t lock; /* for `state`, `stop` and the next three */
    pthread_cond_t changed;
    struct store *store;
    sqlite3 *db; /* the thread's */
    int is_open; /* it has read the database, and so knows the log */
    enum copier_state state;
    int stop;
    int is_cutting; /* the log is empty: others may write, but */
    int in_part;    /* not now */
    int is_wanted;  /* somebody writes: no other part is cut */
    sqlite3_io_methods log_methods;
    /* For who sees the state. */
    int mode;    /* SQLITE_CHECKPOINT_PASSIVE or _TRUNCATE */
    int is_last; /* nobody writes meanwhile */
    int n_pages; /* of the log when it began, and of it copied now */
    int n_copied;
    int rc;
};

/* ---- the thread ---- */

static const uint8_t no_header[32]; /* instead of a log's: it has no frames */

static int is_emptied(const struct store_copier *c)
{
    uint8_t found[sizeof no_header];
    return pread(c->store->wal.log_fd, found, sizeof found, 0) == (ssize_t)sizeof found &&
           memcmp(found, no_header, sizeof found) == 0;
}

/* The log's xTruncate: SQLite empties it, or makes it shorter, which can be left. */
static int overwrite_header(sqlite3_file *log, sqlite3_int64 size)
{
    return size == 0 ? log->pMethods->xWrite(log, no_header, sizeof no_header, 0) : SQLITE_OK;
}

static int replace_truncation(struct store_copier *c)
{
    sqlite3_file *log = NULL;
    int rc = sqlite3_file_control(c->db, "main", SQLITE_FCNTL_JOURNAL_POINTER, &log);
    if (rc != SQLITE_OK || log->pMethods == &c->log_methods)
        return rc;
    c->log_methods = *log->pMethods;
    c->log_methods.xTruncate = overwrite_header;
    log->pMethods = &c->log_methods;
    return rc;
}

/* Cuts a part off the file's end: 1 when there is more. */
static int cut_part(struct store_copier *c)
{
    int fd = c->store->wal.log_fd, more = 0;
    struct stat st;
    if (sqlite3_exec(c->db, "begin immediate", NULL, NULL, NULL) != SQLITE_OK)
        return 0;
    if (is_emptied(c) && fstat(fd, &st) == 0) {
        off_t left = st.st_size > CUT_BYTES ? st.st_size - CUT_BYTES : 0;
        more = ftruncate(fd, left) == 0 && left > 0;
    }
    sqlite3_exec(c->db, "rollback", NULL, NULL, NULL);
    return more;
}

/* Begins a part, or ends it: 0 when no other is to be cut. */
static int set_in_part(struct store_copier *c, int in_part)
{
    pthread_mutex_lock(&c->lock);
    int goes_on = !c->stop && !c->is_wanted;
    c->in_part = in_part && goes_on;
    pthread_cond_broadcast(&c->changed);
    pthread_mutex_unlock(&c->lock);
    return goes_on;
}

/* The header is synced before: after a power cut, a shorter log that is read would undo changes. */
static void cut_log(struct store_copier *c)
{
    pthread_mutex_lock(&c->lock);
    c->is_cutting = 1;
    pthread_cond_broadcast(&c->changed);
    pthread_mutex_unlock(&c->lock);
    if (fdatasync(c->store->wal.log_fd) != 0) {
        store_sync_failed(c->store, "assay.db-wal", errno);
        return;
    }
    for (int more = 1; more && set_in_part(c, 1); set_in_part(c, 0))
        more = cut_part(c);
}

/* Empties the log, as store_checkpoint does. */
static int empty_log(struct store_copier *c)
{
    int rc = replace_truncation(c);
    store_sync_hold(c->store);
    store_wal_forget(c->store);
    if (rc == SQLITE_OK)
        rc = sqlite3_wal_checkpoint_v2(c->db, NULL, SQLITE_CHECKPOINT_TRUNCATE, NULL, NULL);
    int is_empty = rc == SQLITE_OK && is_emptied(c);
    if (is_empty)
        store_wal_emptied(c->store);
    else
        store_wal_recall(c->store);
    store_sync_let(c->store);
    if (is_empty)
        cut_log(c);
    return rc;
}

/* If that fails, the log must not begin anew: SQLite counts the pages as copied. */
static int sync_database(struct store_copier *c)
{
    sqlite3_file *f = NULL;
    int rc = sqlite3_file_control(c->db, "main", SQLITE_FCNTL_FILE_POINTER, &f);
    errno = 0;
    if (rc == SQLITE_OK && (rc = f->pMethods->xSync(f, SQLITE_SYNC_NORMAL)) != SQLITE_OK)
        store_sync_failed(c->store, "assay.db", errno ? errno : EIO);
    return rc;
}

static int copy_log(struct store_copier *c)
{
    int n_log = 0;
    int rc =
        sqlite3_wal_checkpoint_v2(c->db, NULL, SQLITE_CHECKPOINT_PASSIVE, &n_log, &c->n_copied);
    return rc == SQLITE_OK && !c->is_last ? sync_database(c) : rc;
}

static void copy(struct store_copier *c)
{
    c->n_copied = 0;
    c->rc = c->is_open
                ? SQLITE_OK
                : sqlite3_exec(c->db, "select 1 from sqlite_master limit 1", NULL, NULL, NULL);
    c->is_open = c->rc == SQLITE_OK;
    if (c->is_open && c->mode == SQLITE_CHECKPOINT_TRUNCATE)
        c->rc = empty_log(c);
    else if (c->is_open)
        c->rc = copy_log(c);
}

static void *copy_for_ever(void *arg)
{
    struct store_copier *c = arg;
    pthread_mutex_lock(&c->lock);
    while (!c->stop) {
        if (c->state != COPIER_RUNS) {
            pthread_cond_wait(&c->changed, &c->lock);
            continue;
        }
        pthread_mutex_unlock(&c->lock);
        copy(c);
        pthread_mutex_lock(&c->lock);
        c->is_cutting = c->is_wanted = 0;
        c->state = COPIER_IS_OVER;
        pthread_cond_broadcast(&c->changed);
        store_sync_tell(c->store);
    }
    pthread_mutex_unlock(&c->lock);
    return NULL;
}

static enum copier_state state_of(struct store_copier *c)
{
    pthread_mutex_lock(&c->lock);
    enum copier_state state = c->state;
    pthread_mutex_unlock(&c->lock);
    return state;
}

static void set_state(struct store_copier *c, enum copier_state state)
{
    pthread_mutex_lock(&c->lock);
    c->state = state;
    pthread_cond_broadcast(&c->changed);
    pthread_mutex_unlock(&c->lock);
}

void store_copier_wait(struct store *s)
{
    struct store_copier *c = s->copier;
    if (!c)
        return;
    pthread_mutex_lock(&c->lock);
    while (c->state == COPIER_RUNS)
        pthread_cond_wait(&c->changed, &c->lock);
    pthread_mutex_unlock(&c->lock);
}

static int open_connection(struct store_copier *c, struct err *e)
{
    char path[4200];
    int on = 1;
    snprintf(path, sizeof path, "%s/assay.db", c->store->dir);
    int rc = sqlite3_open_v2(
        path, &c->db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_PRIVATECACHE, NULL);
    if (rc != SQLITE_OK)
        return err_set(e, ASSAY_EIO, "%s: cannot open it twice: %s", path, sqlite3_errstr(rc));
    sqlite3_file_control(c->db, "main", SQLITE_FCNTL_PERSIST_WAL, &on);
    sqlite3_db_config(c->db, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, NULL);
    return 0;
}

static int start_thread(struct store_copier *c, struct err *e)
{
    int error = store_start_thread(&c->thread, copy_for_ever, c);
    return error == 0 ? 0
                      : err_set(e, ASSAY_EIO, "%s/assay.db-wal: cannot copy it in a thread: %s",
                            c->store->dir, strerror(error));
}

static void free_copier(struct store_copier *c)
{
    sqlite3_close(c->db);
    pthread_mutex_destroy(&c->lock);
    pthread_cond_destroy(&c->changed);
    free(c);
}

int store_copier_start(struct store *s, struct err *e)
{
    struct store_copier *c = xcalloc(1, sizeof *c);
    c->store = s;
    s->wal_pages_due = WAL_PAGES;
    pthread_mutex_init(&c->lock, NULL);
    pthread_cond_init(&c->changed, NULL);
    int rc = open_connection(c, e);
    if (rc == 0)
        rc = start_thread(c, e);
    if (rc != 0)
        free_copier(c);
    else
        s->copier = c;
    return rc;
}

void store_copier_stop(struct store *s)
{
    struct store_copier *c = s->copier;
    if (!c)
        return;
    pthread_mutex_lock(&c->lock);
    c->stop = 1;
    pthread_cond_broadcast(&c->changed);
    pthread_mutex_unlock(&c->lock);
    pthread_join(c->thread, NULL);
    free_copier(c);
    s->copier = NULL;
}

/* ---- here and now ---- */

/* What a checkpoint cannot copy (a reader is in the way, the disk is full) stays in the WAL for the
 * next one; nothing is lost. */
int store_checkpoint(struct store *s, int mode, int wait_ms)
{
    if (s->guarded_bytes > 0 && store_guard_check(s, NULL) == ASSAY_EGONE)
        return SQLITE_IOERR; /* a checkpoint would only hide it */
    store_copier_wait(s);
    store_sync_hold(s);
    if (mode == SQLITE_CHECKPOINT_TRUNCATE)
        store_wal_forget(s);
    sqlite3_busy_timeout(s->db, wait_ms);
    int rc = sqlite3_wal_checkpoint_v2(s->db, NULL, mode, NULL, NULL);
    sqlite3_busy_timeout(s->db, s->locked ? STORE_LOCKED_MS : STORE_BUSY_MS);
    store_wal_recall(s); /* in other modes too: another process may have emptied the log */
    store_sync_let(s);
    return rc;
}

void store_checkpoint_whole(struct store *s, int wait_ms)
{
    int rc = store_checkpoint(s, SQLITE_CHECKPOINT_TRUNCATE, wait_ms);
    for (int which = 0; which < STORE_RESERVES && rc == SQLITE_FULL; which++)
        if (store_reserve_remove(s, which)) {
            rc = store_checkpoint(s, SQLITE_CHECKPOINT_TRUNCATE, wait_ms);
            store_reserve_make(s, which, 0);
        }
}

/* ---- beside the loop ---- */

/* Has the thread copy what is in the log now, and empty it if `mode` says so. `is_last`: as
 * store_wait_to_write has it. */
static void begin_copying(struct store *s, int mode, int is_last)
{
    if (s->guarded_bytes > 0 && store_guard_check(s, NULL) == ASSAY_EGONE)
        return;
    s->copier->mode = mode;
    s->copier->is_last = is_last;
    s->copier->n_pages = s->wal_pages;
    s->wal_is_new = 0;
    set_state(s->copier, COPIER_RUNS);
}

static void recall(struct store *s)
{
    store_sync_hold(s);
    store_wal_recall(s); /* another process may have emptied the log */
    store_sync_let(s);
}

/* The thread has copied what it could. */
static void end_copying(struct store *s)
{
    const struct store_copier *c = s->copier;
    int left = s->wal_pages - c->n_copied;
    int could = c->rc == SQLITE_OK && c->n_copied >= c->n_pages;
    set_state(s->copier, COPIER_IDLE);
    s->has_no_room = c->rc == SQLITE_FULL;
    s->wal_copied = c->mode == SQLITE_CHECKPOINT_TRUNCATE || s->wal_is_new ? 0 : c->n_copied;
    if (c->mode == SQLITE_CHECKPOINT_TRUNCATE)
        return;
    recall(s);
    if (could && left > 0 && s->wal_pages >= WAL_PAGES) {
        int is_last = left <= FEW_PAGES || s->wal_pages >= MOST_PAGES;
        begin_copying(s, SQLITE_CHECKPOINT_PASSIVE, is_last);
        return;
    }
    /* In case a reader blocks its restart. What this connection was reading may have kept the
     * thread from copying all: then soon again. */
    s->wal_pages_due = s->wal_pages + (could ? WAL_PAGES : WAL_PAGES / 8);
    if (s->wal_pages < WAL_PAGES && could)
        s->wal_pages_due = WAL_PAGES;
}

void store_log_has(struct store *s, int n_pages)
{
    if (n_pages <= s->wal_pages) { /* begun anew: a commit writes a page at least */
        s->wal_pages_due = WAL_PAGES;
        s->wal_copied = 0;
        s->wal_is_new = 1;
    }
    s->wal_pages = n_pages;
}

/* Whether nobody can write, or is to, while the thread copies. Hold the lock. */
static int is_alone(const struct store_copier *c)
{
    return c->state == COPIER_RUNS && !c->is_cutting &&
           (c->mode == SQLITE_CHECKPOINT_TRUNCATE || c->is_last);
}

void store_wait_to_write(struct store *s)
{
    struct store_copier *c = s->copier;
    if (!c)
        return;
    pthread_mutex_lock(&c->lock);
    c->is_wanted = c->state == COPIER_RUNS;
    while (is_alone(c) || c->in_part)
        pthread_cond_wait(&c->changed, &c->lock);
    pthread_mutex_unlock(&c->lock);
}

int store_large_waits(const struct store *s)
{
    struct store_copier *c = s->copier;
    pthread_mutex_lock(&c->lock);
    int waits = is_alone(c) || (s->wal_pages >= LONG_PAGES && c->state == COPIER_RUNS);
    pthread_mutex_unlock(&c->lock);
    return waits;
}

void store_tend(struct store *s)
{
    if (!sqlite3_get_autocommit(s->db))
        return;
    if (s->wal_pages >= MOST_PAGES && s->wal_pages >= s->wal_pages_due)
        store_copier_wait(s);
    enum copier_state state = state_of(s->copier);
    if (state == COPIER_IS_OVER)
        end_copying(s);
    else if (state == COPIER_IDLE && s->wal_pages >= s->wal_pages_due)
        begin_copying(s, SQLITE_CHECKPOINT_PASSIVE, 0);
}

/* Warns at twice the size each time: a few lines at most, however long it lasts. */
static void look_at_wal(struct store *s)
{
    uint64_t bytes = store_wal_bytes(s);
    if (bytes >= WAL_WARN_BYTES && bytes >= 2 * s->wal_told_bytes) {
        log_warn(
            "event=log_grows file=%s/assay.db-wal bytes=%llu reason=\"it cannot be begun anew: "
            "somebody who reads the database does not end a transaction, or the disk is "
            "full\" action=\"end the reader\"",
            s->dir, (unsigned long long)bytes);
        s->wal_told_bytes = bytes;
    } else if (bytes < WAL_WARN_BYTES && s->wal_told_bytes > 0) {
        log_info("event=log_is_small_again bytes=%llu", (unsigned long long)bytes);
        s->wal_told_bytes = 0;
    }
}

/* Whether an idle moment is to copy the log: where nothing was written since the last one, or the
 * disk could lack the room for it later. */
static int must_copy(const struct store *s)
{
    int now = s->changes == STORE_CHANGED_BEFORE ||
              (s->changes == STORE_CHANGED_NOW && !store_has_much_room(s));
    return now && s->wal_copied < s->wal_pages;
}

void store_idle(struct store *s)
{
    look_at_wal(s);
    if (s->late && store_begin_late(s, NULL) != 0)
        return;
    uint64_t least = s->options.min_free_bytes + 2 * s->options.reserve_bytes;
    store_reserve_make(s, 1, least);
    store_reserve_make(s, 0, least);
    store_tend(s);
    if (state_of(s->copier) != COPIER_IDLE)
        return;
    if (s->has_no_room)
        store_checkpoint_whole(s, 0);
    else if (must_copy(s))
        begin_copying(s, SQLITE_CHECKPOINT_PASSIVE, 0);
    else if (s->changes == STORE_CHANGED_NOW)
        ;
    else if (store_wal_bytes(s) > 0)
        begin_copying(s, SQLITE_CHECKPOINT_TRUNCATE, 0);
    else
        recall(s);
    s->changes = s->changes == STORE_CHANGED_NOW && !s->has_no_room ? STORE_CHANGED_BEFORE : 0;
    s->has_no_room = 0;
}
