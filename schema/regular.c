/* regular.c - opens without waiting, checks the kind, and names what was found instead
 * (regular.h). */
#include "schema/regular.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static const char *kind(mode_t mode)
{
    return S_ISDIR(mode)                    ? "a directory"
           : S_ISFIFO(mode)                 ? "a pipe"
           : S_ISSOCK(mode)                 ? "a socket"
           : S_ISCHR(mode) || S_ISBLK(mode) ? "a device"
                                            : "something else";
}

static int refuse_kind(const char *path, mode_t mode, struct err *e)
{
    int rc = err_set(e, ASSAY_EFORMAT, "%s: expected a regular file, found %s", path, kind(mode));
    errno = EINVAL;
    return rc;
}

/* Snapshots in the hub's cache consist of links; a dangling one is not an optional file left
 * out. */
static int refuse_dangling(const char *path, struct err *e)
{
    int rc = err_set(e, ASSAY_EFORMAT,
        "%s: a link to a file that is not there; is the download complete?", path);
    errno = EINVAL;
    return rc;
}

int regular_is_same(const struct stat *a, const struct stat *b)
{
    return a->st_dev == b->st_dev && a->st_ino == b->st_ino;
}

int regular_exists(const char *path)
{
    struct stat st;
    return lstat(path, &st) == 0;
}

int regular_is_in(const char *dir, const char *name)
{
    char path[4096];
    return snprintf(path, sizeof path, "%s/%s", dir, name) >= (int)sizeof path ||
           regular_exists(path) || (errno != ENOENT && errno != ENOTDIR);
}

int regular_open(const char *path, struct stat *st, struct err *e)
{
    struct stat found;
    /* Checked before opening, which may act on a device, and after, as it may be replaced. */
    if (stat(path, &found) == 0 && !S_ISREG(found.st_mode))
        return refuse_kind(path, found.st_mode, e);
    if (stat(path, &found) != 0 && errno == ENOENT && regular_exists(path))
        return refuse_dangling(path, e);
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0 || fstat(fd, &found) != 0) {
        int saved = errno, rc = err_errno(e, ASSAY_EFORMAT, "%s: cannot read it", path);
        if (fd >= 0)
            close(fd);
        errno = saved;
        return rc;
    }
    if (!S_ISREG(found.st_mode)) {
        close(fd);
        return refuse_kind(path, found.st_mode, e);
    }
    if (st)
        *st = found;
    return fd;
}

int regular_is_pointer(const void *bytes, unsigned long n)
{
    static const char start[] = "version https://git-lfs.github.com/";
    return n >= sizeof start - 1 && memcmp(bytes, start, sizeof start - 1) == 0;
}

int regular_refuse_pointer(const char *path, struct err *e)
{
    return err_set(e, ASSAY_EFORMAT,
        "%s: a Git LFS pointer, not the file itself; fetch it with `git lfs pull` in that "
        "directory, or download the model with `hf download`",
        path);
}

FILE *regular_stream(const char *path, struct stat *st, struct err *e)
{
    int fd = regular_open(path, st, e);
    FILE *f = fd >= 0 ? fdopen(fd, "r") : NULL;
    if (fd >= 0 && !f) {
        err_errno(e, ASSAY_EIO, "%s", path);
        close(fd);
    }
    return f;
}
