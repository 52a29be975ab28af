/* sync.c - the thread that syncs the WAL while the broker goes on (store.h, store_begin_later).
 *
 * A sync takes as long as everything else a busy broker does. So a transaction of requests is
 * committed with synchronous=NORMAL, which writes its frames and waits for nothing; the thread then
 * syncs the WAL, and its next sync takes what was written meanwhile. WAL frames form a chain: one
 * sync covers all that was written before it. Commits are numbered, so a waiter knows when its own
 * is on disk; a commit that nobody waits for is not synced.
 *
 * The thread records how far it has synced before it announces it; so does a commit that is synced
 * at once (store/wal.c).
 *
 * SQLite does not know of these syncs and needs none of them: with NORMAL it syncs the WAL before a
 * checkpoint and when a new WAL begins, so the database never breaks. */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "broker/store/private.h"
#include "schema/alloc.h"

struct store_sync {
    pthread_t thread;
    pthread_mutex_t lock;   /* for the numbers, `point`, `error` and `stop` */
    pthread_mutex_t record; /* for the store's record of syncs; taken after `lock`, if both are */
    pthread_cond_t wanted_more, synced_more;
    struct store *store;
    int event_fd;
    uint64_t written, wanted, synced; /* numbers of commits */
    uint64_t recorded;                /* and of the last that is in the record */
    struct wal_point point;           /* where the last written commit ends */
    int error;                        /* errno of a sync that failed: nothing after it is certain */
    const char *file;                 /* which could not be synced */
    int stop;
};

static void tell(const struct store_sync *y)
{
    uint64_t one = 1;
    if (write(y->event_fd, &one, sizeof one) != (ssize_t)sizeof one)
        return; /* the counter is full, so the descriptor is readable */
}

/* Records a sync of commit `number`, unless a later one was. */
static void record_sync(struct store_sync *y, uint64_t number, const struct wal_point *p)
{
    pthread_mutex_lock(&y->record);
    if (number > y->recorded) {
        store_wal_synced(y->store, p);
        y->recorded = number;
    }
    pthread_mutex_unlock(&y->record);
}

/* The first one counts. */
static void set_error(struct store_sync *y, const char *file, int error)
{
    if (error == 0 || y->error != 0)
        return;
    y->error = error;
    y->file = file;
}

static void *sync_for_ever(void *arg)
{
    struct store_sync *y = arg;
    pthread_mutex_lock(&y->lock);
    while (!y->stop && y->error == 0) {
        uint64_t number = y->written;
        struct wal_point point = y->point;
        if (y->wanted <= y->synced) {
            pthread_cond_wait(&y->wanted_more, &y->lock);
            continue;
        }
        pthread_mutex_unlock(&y->lock);
        int error = fdatasync(y->store->wal.log_fd) == 0 ? 0 : errno;
        if (error == 0)
            record_sync(y, number, &point);
        pthread_mutex_lock(&y->lock);
        set_error(y, "assay.db-wal", error);
        if (error == 0 && number > y->synced)
            y->synced = number;
        pthread_cond_broadcast(&y->synced_more);
        tell(y);
    }
    pthread_mutex_unlock(&y->lock);
    return NULL;
}

void store_sync_tell(const struct store *s)
{
    tell(s->sync);
}

void store_sync_failed(struct store *s, const char *file, int error)
{
    struct store_sync *y = s->sync;
    pthread_mutex_lock(&y->lock);
    set_error(y, file, error);
    pthread_cond_broadcast(&y->synced_more);
    pthread_mutex_unlock(&y->lock);
    tell(y);
}

int store_start_thread(pthread_t *thread, void *(*run)(void *), void *arg)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int rc = pthread_create(thread, NULL, run, arg);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return rc;
}

static void free_sync(struct store_sync *y)
{
    if (y->event_fd >= 0)
        close(y->event_fd);
    pthread_mutex_destroy(&y->lock);
    pthread_mutex_destroy(&y->record);
    pthread_cond_destroy(&y->wanted_more);
    pthread_cond_destroy(&y->synced_more);
    free(y);
}

/* The WAL exists, and stays the same file, while the connection is open. */
int store_sync_start(struct store *s, struct err *e)
{
    struct store_sync *y = xcalloc(1, sizeof *y);
    y->store = s;
    pthread_mutex_init(&y->lock, NULL);
    pthread_mutex_init(&y->record, NULL);
    pthread_cond_init(&y->wanted_more, NULL);
    pthread_cond_init(&y->synced_more, NULL);
    y->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (y->event_fd < 0 || (errno = store_start_thread(&y->thread, sync_for_ever, y)) != 0) {
        int rc = err_errno(e, ASSAY_EIO, "%s/assay.db-wal: cannot sync it in a thread", s->dir);
        free_sync(y);
        return rc;
    }
    s->sync = y;
    return 0;
}

void store_sync_stop(struct store *s)
{
    struct store_sync *y = s->sync;
    if (!y)
        return;
    pthread_mutex_lock(&y->lock);
    y->stop = 1;
    pthread_cond_signal(&y->wanted_more);
    pthread_mutex_unlock(&y->lock);
    pthread_join(y->thread, NULL);
    free_sync(y);
    s->sync = NULL;
}

void store_sync_wrote(struct store *s, int synced)
{
    struct store_sync *y = s->sync;
    struct wal_point point;
    store_wal_point(s, &point);
    store_sync_hold(s);
    store_wal_wrote(s, &point);
    store_sync_let(s);
    if (synced)
        record_sync(y, y->written + 1, &point); /* only this thread writes the number */
    pthread_mutex_lock(&y->lock);
    y->written++;
    y->point = point;
    if (synced)
        y->synced = y->written;
    pthread_mutex_unlock(&y->lock);
}

void store_sync_hold(struct store *s)
{
    if (s->sync)
        pthread_mutex_lock(&s->sync->record);
}

void store_sync_let(struct store *s)
{
    if (s->sync)
        pthread_mutex_unlock(&s->sync->record);
}

static void want_all(struct store_sync *y)
{
    y->wanted = y->written;
    pthread_cond_signal(&y->wanted_more);
}

void store_want_synced(struct store *s)
{
    pthread_mutex_lock(&s->sync->lock);
    want_all(s->sync);
    pthread_mutex_unlock(&s->sync->lock);
}

uint64_t store_written(const struct store *s)
{
    return s->sync->written; /* only this thread writes it */
}

int store_sync_fd(const struct store *s)
{
    return s->sync->event_fd;
}

static int result(struct store *s, struct err *e)
{
    if (s->sync->error != 0)
        return err_set(e, ASSAY_EIO, "%s/%s: cannot sync: %s", s->dir, s->sync->file,
            strerror(s->sync->error));
    int rc = store_guard_check(s, e);
    if (rc == ASSAY_EGONE)
        store_guard_rescue(s);
    return rc;
}

int store_synced(struct store *s, uint64_t *number, struct err *e)
{
    struct store_sync *y = s->sync;
    uint64_t count;
    if (read(y->event_fd, &count, sizeof count) < 0 && errno != EAGAIN)
        return err_errno(e, ASSAY_EIO, "eventfd");
    pthread_mutex_lock(&y->lock);
    *number = y->synced;
    int rc = result(s, e);
    pthread_mutex_unlock(&y->lock);
    return rc;
}

int store_wait_synced(struct store *s, struct err *e)
{
    struct store_sync *y = s->sync;
    pthread_mutex_lock(&y->lock);
    want_all(y);
    while (y->synced < y->written && y->error == 0)
        pthread_cond_wait(&y->synced_more, &y->lock);
    int rc = result(s, e);
    pthread_mutex_unlock(&y->lock);
    return rc;
}
