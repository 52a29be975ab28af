/* store_guard.c - that the database is still where its name says.
 *
 * A file that is removed or replaced lives on for who has it open: the broker would go on, acknowledge
 * rows, sync them, and lose them all when it closes it. So before anybody is told that something is on
 * the disk, the names are looked at. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "broker/store_private.h"

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
    struct stat st;
    for (int i = 0; i < STORE_GUARDED; i++) {
        if (look(s, i, &st) != 0)
            return err_errno(e, ASSAY_EIO, "%s/%s", s->dir, names[i]);
        s->guarded[i].device = st.st_dev;
        s->guarded[i].inode = st.st_ino;
    }
    return 0;
}

int store_guard_check(const struct store *s, struct err *e)
{
    struct stat st;
    for (int i = 0; i < STORE_GUARDED; i++) {
        int rc = look(s, i, &st);
        if (rc != 0 && errno != ENOENT && errno != ENOTDIR)
            return err_errno(e, ASSAY_EIO, "%s/%s", s->dir, names[i]);
        if (rc == 0 && s->guarded[i].device == st.st_dev && s->guarded[i].inode == st.st_ino)
            continue;
        return err_set(e, ASSAY_EGONE,
            "%s/%s was %s while the broker had it open; nothing is acknowledged any more. If it "
            "was moved, "
            "put all of assay.db, assay.db-wal and assay.db-shm back together, then start again",
            s->dir, names[i], rc == 0 ? "replaced" : "removed");
    }
    return 0;
}
