/* backup.c - copies the database of a data directory while a broker may be using it.
 *
 * The copy is of one moment: a read transaction is open from the first page to the last, so what the
 * broker writes meanwhile is not in it. The broker is not held up. Its log keeps what is written
 * until this ends.
 *
 * The copy is written as assay.db.new, synced, and renamed to assay.db, so a directory has a whole
 * database or none. What else lies in a data directory is made again by a start: locks, sockets,
 * reserves, digests, and the score cache, which begins empty.
 *
 * LIMITS: pages are copied as they are, damaged ones too; `assay scrub` of the copy finds those. */
#include "broker/store/backup.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "broker/store/private.h"

#define STEP_PAGES 512

struct backup {
    char part[4200], whole[4100];
    int dir; /* descriptor of the copy's directory */
    sqlite3 *db;
};

static int fail(struct backup *b, int rc, const char *what, struct err *e)
{
    int code = (rc & 0xff) == SQLITE_FULL || rc == SQLITE_IOERR_WRITE ? ASSAY_EFULL : ASSAY_EIO;
    return err_set(e, code, "%s: %s: %s", b->part, what, sqlite3_errstr(rc));
}

/* Makes the directory, or takes an empty one. *made: it is new. */
static int open_dir(struct backup *b, const char *to, int *made, struct err *e)
{
    char name[4200];
    *made = mkdir(to, 0700) == 0;
    if (!*made && errno != EEXIST)
        return err_errno(e, ASSAY_EIO, "cannot make the directory '%s'", to);
    b->dir = open(to, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (b->dir < 0)
        return err_errno(e, ASSAY_EIO, "'%s'", to);
    if (snprintf(b->whole, sizeof b->whole, "%s/assay.db", to) >= (int)sizeof b->whole)
        return err_set(e, ASSAY_EIO, "path too long: '%.100s'..", to);
    snprintf(b->part, sizeof b->part, "%s.new", b->whole);
    static const char *const names[] = {"assay.db", "assay.db-wal", "assay.db.new", "lock"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        snprintf(name, sizeof name, "%.4000s/%s", to, names[i]);
        if (faccessat(b->dir, names[i], F_OK, AT_SYMLINK_NOFOLLOW) == 0)
            return err_set(
                e, ASSAY_EBADREQ, "expected a new directory or an empty one, found '%s'", name);
    }
    return 0;
}

/* Opens the moment that is copied. */
static int begin(struct store *s, int64_t *jobs, struct err *e)
{
    int rc = store_execute(s, "begin", e);
    return rc == 0 ? store_integer(s, 0, jobs, e, "select count(*) from job", "") : rc;
}

/* Copies page after page. Returns 0, 1 when the caller ended it, or negative. */
static int copy(
    struct backup *b, struct store *s, store_backup_progress *show, void *arg, struct err *e)
{
    int stop = 0, rc;
    sqlite3_backup *pages = sqlite3_backup_init(b->db, "main", s->db, "main");
    if (!pages)
        return fail(b, sqlite3_extended_errcode(b->db), "cannot copy", e);
    do {
        rc = sqlite3_backup_step(pages, STEP_PAGES);
        int total = sqlite3_backup_pagecount(pages);
        stop = show(arg, total - sqlite3_backup_remaining(pages), total);
    } while (rc == SQLITE_OK && !stop);
    int ended = sqlite3_backup_finish(pages);
    if (stop && rc == SQLITE_OK)
        return 1;
    if (rc != SQLITE_DONE)
        return fail(b, rc, "cannot copy", e);
    return ended == SQLITE_OK ? 0 : fail(b, ended, "cannot copy", e);
}

/* Syncs the copy and gives it its name. */
static int publish(struct backup *b, struct err *e)
{
    int fd = open(b->part, O_RDONLY | O_CLOEXEC);
    int synced = fd >= 0 && fsync(fd) == 0;
    if (fd >= 0)
        close(fd);
    if (!synced)
        return err_errno(e, ASSAY_EIO, "%s: cannot sync", b->part);
    if (rename(b->part, b->whole) != 0 || fsync(b->dir) != 0)
        return err_errno(e, ASSAY_EIO, "%s: cannot make it", b->whole);
    return 0;
}

static int write_copy(
    struct backup *b, struct store *s, store_backup_progress *show, void *arg, struct err *e)
{
    int fd = open(b->part, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0)
        return err_errno(e, ASSAY_EIO, "%s: cannot make it", b->part);
    close(fd);
    int rc = sqlite3_open_v2(b->part, &b->db, SQLITE_OPEN_READWRITE, NULL);
    if (rc == SQLITE_OK) /* synced once, at the end */
        rc = sqlite3_exec(
            b->db, "pragma synchronous=off; pragma journal_mode=off", NULL, NULL, NULL);
    if (rc != SQLITE_OK)
        return fail(b, rc, "cannot open", e);
    rc = copy(b, s, show, arg, e);
    int closed = sqlite3_close(b->db);
    b->db = NULL;
    if (rc == 0 && closed != SQLITE_OK)
        rc = fail(b, closed, "cannot close", e);
    return rc == 0 ? publish(b, e) : rc;
}

int store_backup(const char *data_dir, const char *to, store_backup_progress *show, void *arg,
    int64_t *jobs, struct err *e)
{
    struct backup b = {.dir = -1};
    struct store *s = NULL;
    int made = 0, rc = store_open_reader(&s, data_dir, e);
    if (rc == 0)
        rc = open_dir(&b, to, &made, e);
    int is_ours = rc == 0;
    if (rc == 0)
        rc = begin(s, jobs, e);
    if (rc == 0)
        rc = write_copy(&b, s, show, arg, e);
    sqlite3_close(b.db);
    if (is_ours && rc != 0)
        unlink(b.part);
    if (made && rc != 0)
        rmdir(to);
    if (b.dir >= 0)
        close(b.dir);
    store_close_reader(&s);
    return rc;
}
