/* lock.c - the lock of a data directory: one broker at a time (store.h). */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <time.h>
#include <unistd.h>

#include "broker/store/store.h"

#define ORPHAN_TRIES 100
#define ORPHAN_NAP_NS 20000000

/* The holder's pid, as the lock file says; 0 when it does not. */
static pid_t holder_of(int fd)
{
    char text[32] = "";
    return pread(fd, text, sizeof text - 1, 0) > 0 ? (pid_t)atoi(text) : 0;
}

/* 0, or -1 when a broker has the lock. A broker that was killed may leave a child, forked to become
 * a rank, which keeps the lock for a moment, until it runs its program. */
static int take_flock(int fd)
{
    for (int tries = ORPHAN_TRIES; flock(fd, LOCK_EX | LOCK_NB) != 0; tries--) {
        struct timespec t = {0, ORPHAN_NAP_NS};
        pid_t holder = holder_of(fd);
        if (tries == 0 || holder <= 0 || kill(holder, 0) == 0 || errno != ESRCH)
            return -1;
        nanosleep(&t, NULL);
    }
    return 0;
}

static int hold(int fd, const char *dir, const char *path, struct err *e)
{
    char holder[32];
    if (take_flock(fd) != 0)
        return err_set(e, ASSAY_EBUSY, "data directory %s is held by another broker, pid %d", dir,
            (int)holder_of(fd));
    /* Overwrite in place: that has room on a full disk. */
    int n = snprintf(holder, sizeof holder, "%d\n", (int)getpid());
    if ((pwrite(fd, holder, (size_t)n, 0) != n || ftruncate(fd, n) != 0) && errno != ENOSPC &&
        errno != EDQUOT && errno != EFBIG)
        return err_errno(e, ASSAY_EIO, "%s: cannot write it", path);
    return 0;
}

int store_lock_holder(const char *data_dir)
{
    char path[4200];
    snprintf(path, sizeof path, "%s/lock", data_dir);
    int fd = open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    int holder = fd >= 0 ? (int)holder_of(fd) : 0;
    if (fd >= 0)
        close(fd);
    return holder;
}

int store_is_lock(int dir, const char *path)
{
    char text[32] = "";
    int fd = openat(dir, path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    ssize_t n = fd >= 0 ? pread(fd, text, sizeof text - 1, 0) : -1;
    size_t digits = strspn(text, "0123456789");
    if (fd >= 0)
        close(fd);
    return digits > 0 && text[digits] == '\n' && (ssize_t)digits + 1 == n;
}

int store_lock(const char *data_dir, struct err *e)
{
    char path[4200];
    snprintf(path, sizeof path, "%s/lock", data_dir);
    int fd = open(path, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0)
        return err_errno(e, ASSAY_EIO, "%s: cannot open it", path);
    int rc = hold(fd, data_dir, path, e);
    if (rc == 0)
        return fd;
    close(fd);
    return rc;
}
