/* lock.c - see lock.h. flock(2), which lasts as long as the open file, is the lock that counts. A
 * record lock only tells the process id of the holder; on a file system without record locks the
 * holder stays unnamed. */
#include "broker/cli/lock.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "schema/regular.h"

static int name_holder(int fd, const char *what, struct err *e)
{
    struct flock record = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    char by[40] = "another process";
    if (fcntl(fd, F_GETLK, &record) == 0 && record.l_type != F_UNLCK && record.l_pid > 0)
        snprintf(by, sizeof by, "process %d", (int)record.l_pid);
    return err_set(e, ASSAY_EBUSY,
        "%s is in use by %s, a run that has not ended; wait for it, or stop it", what, by);
}

static int check(int fd, const char *path, struct err *e)
{
    struct stat st;
    if (fstat(fd, &st) != 0)
        return err_errno(e, ASSAY_EIO, "cannot write '%s'", path);
    if (!S_ISREG(st.st_mode))
        return err_set(e, ASSAY_EIO, "'%s' is there and is no regular file; move it away", path);
    if (st.st_uid != geteuid() || st.st_nlink > 1)
        return err_set(e, ASSAY_EIO, "'%s' is there and is %s; move it away", path,
            st.st_nlink > 1 ? "another file as well (a hard link)" : "another user's");
    return 0;
}

int lock_is_current(int fd, const char *path)
{
    struct stat here, there;
    return fstat(fd, &here) == 0 && lstat(path, &there) == 0 && regular_is_same(&here, &there);
}

static int take(int fd, const char *what, struct err *e)
{
    struct flock record = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    while (flock(fd, LOCK_EX | LOCK_NB) != 0) {
        if (errno == EWOULDBLOCK)
            return name_holder(fd, what, e);
        if (errno != EINTR)
            return 0; /* the file system has no locks: go on without */
    }
    fcntl(fd, F_SETLK, &record);
    return 0;
}

int lock_open(const char *path, const char *what, int *fd, struct err *e)
{
    int rc = 0;
    do {
        if (rc == 0 && *fd >= 0)
            close(*fd);
        *fd = open(path, O_WRONLY | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0666);
        if (*fd < 0 && errno == ELOOP)
            return err_set(
                e, ASSAY_EIO, "'%s' is there and is a symbolic link; move it away", path);
        if (*fd < 0)
            return err_errno(e, ASSAY_EIO, "cannot write '%s'", path);
        rc = check(*fd, path, e);
        if (rc == 0)
            rc = take(*fd, what, e);
    } while (rc == 0 && !lock_is_current(*fd, path));
    if (rc != 0) {
        close(*fd);
        *fd = -1;
    }
    return rc;
}
