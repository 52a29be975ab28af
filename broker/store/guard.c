/* guard.c - checks that the database files are still where their names say.
 *
 * A file that is removed or replaced lives on while a process has it open: the broker would go on,
 * acknowledge rows, sync them, and lose them all on close. So the names are checked before anyone
 * is told that something is on disk.
 *
 * A database that is cut keeps its name, so its size is checked too. It shrinks by itself when a
 * checkpoint gives pages back; its first page then says so.
 *
 * The files that the connection has open are whole even then. If the database still has its name
 * and the log's name is gone, a checkpoint copies the log into it. (If another log has taken the
 * name, it would be read on top of the database.) */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "broker/store/private.h"
#include "schema/log.h"
#include "schema/regular.h"

static const char *const names[STORE_GUARDED] = {
    "assay.db", "assay.db-wal", "assay.db-shm", "lock"};

static int look(const struct store *s, int i, struct stat *st)
{
    char path[4200];
    snprintf(path, sizeof path, "%s/%s", s->dir, names[i]);
    return stat(path, st);
}

int store_guard_begin(struct store *s, struct err *e)
{
    for (int i = 0; i < STORE_GUARDED; i++)
        if (look(s, i, &s->guarded[i]) != 0)
            return err_errno(e, ASSAY_EIO, "%s/%s", s->dir, names[i]);
    return 0;
}

/* 1 the name leads to the file that was opened, 0 it does not; negative: unknown, errno says
 * why. */
static int is_there(const struct store *s, int i, struct stat *st)
{
    if (look(s, i, st) != 0)
        return errno == ENOENT || errno == ENOTDIR ? 0 : -1;
    return regular_is_same(&s->guarded[i], st);
}

void store_guard_rescue(struct store *s)
{
    struct stat st;
    if (is_there(s, 0, &st) != 1 || look(s, 1, &st) == 0 || errno != ENOENT)
        return;
    store_copier_wait(s);
    if (!sqlite3_get_autocommit(s->db))
        sqlite3_exec(s->db, "rollback", NULL, NULL, NULL);
    int rc = sqlite3_wal_checkpoint_v2(s->db, NULL, SQLITE_CHECKPOINT_FULL, NULL, NULL);
    store_sync_hold(s);
    if (rc == SQLITE_OK)
        store_wal_forget(s);
    store_sync_let(s);
    log_warn(
        "event=log_copied_into_database file=%s/assay.db complete=%d", s->dir, rc == SQLITE_OK);
}

/* Reads through SQLite's own file: opening and closing it again would drop SQLite's locks. */
static int is_cut_database(struct store *s, off_t size)
{
    uint8_t head[32];
    sqlite3_file *f = NULL;
    if (size < s->guarded_bytes) {
        sqlite3_file_control(s->db, "main", SQLITE_FCNTL_FILE_POINTER, &f);
        if (!f || !f->pMethods || f->pMethods->xRead(f, head, sizeof head, 0) != SQLITE_OK)
            return 1;
        off_t page = head[16] << 8 | head[17], pages = 0;
        for (int i = 28; i < 32; i++)
            pages = pages << 8 | head[i];
        if (size < pages * (page == 1 ? 65536 : page))
            return 1;
    }
    s->guarded_bytes = size;
    return 0;
}

static int check_size(struct store *s, struct err *e)
{
    struct stat st;
    off_t before = s->guarded_bytes;
    if (is_there(s, 0, &st) != 1 || !is_cut_database(s, st.st_size))
        return 0;
    return err_set(e, ASSAY_EGONE,
        "%s/assay.db was cut from %lld to %lld bytes while the broker had it open; nothing is "
        "acknowledged any more. Put a copy of it in its place, without assay.db-wal and synced, "
        "then start again",
        s->dir, (long long)before, (long long)st.st_size);
}

int store_guard_check(struct store *s, struct err *e)
{
    for (int i = 0; i < STORE_GUARDED; i++) {
        struct stat st = {.st_nlink = 0};
        int there = is_there(s, i, &st);
        if (there < 0)
            return err_errno(e, ASSAY_EIO, "%s/%s", s->dir, names[i]);
        if (!there)
            return err_set(e, ASSAY_EGONE,
                "%s/%s was %s while the broker had it open; nothing is acknowledged any more. If "
                "it was moved, put all of assay.db, assay.db-wal and assay.db-shm back together, "
                "then start again",
                s->dir, names[i], st.st_nlink > 0 ? "replaced" : "removed");
    }
    return check_size(s, e);
}
