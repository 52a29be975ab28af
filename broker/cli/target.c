/* target.c - resolves the place of an output, opens it or a FILE.part beside it, and renames
 * that at the end (target.h). */
#include "broker/cli/target.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "broker/cli/deflate.h"
#include "broker/cli/guard.h"
#include "broker/cli/lock.h"
#include "broker/cli/signals.h"
#include "schema/clock.h"
#include "schema/regular.h"

#define ACL_NAME "system.posix_acl_access"
#define ACL_BYTES 65536 /* the most that Linux takes */
#define MAX_LINKS 40
#define POLL_MS 100
#define SILENT_MS 2000 /* after that, say that the pipe has no reader */

/* ---- the place ---- */

/* Joins the directory of `path` and a name. */
static int beside(const char *path, const char *name, char out[PATH_MAX])
{
    const char *slash = strrchr(path, '/');
    int n = snprintf(out, PATH_MAX, "%.*s%s", slash ? (int)(slash + 1 - path) : 0, path, name);
    return n < PATH_MAX ? 0 : -1;
}

/* Resolves the folder of a file that does not exist yet. */
static int find_future(const char *path, char place[PATH_MAX])
{
    char folder[PATH_MAX], real[PATH_MAX];
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
    if (beside(path, ".", folder) != 0 || !realpath(folder, real))
        return -1;
    int n = snprintf(place, PATH_MAX, "%s/%s", strcmp(real, "/") == 0 ? "" : real, name);
    return n < PATH_MAX && *name ? 0 : -1;
}

/* Follows symbolic links, also to a file that does not exist yet. */
static int find_place(const char *path, char place[PATH_MAX])
{
    char at[PATH_MAX], link[PATH_MAX];
    if (realpath(path, place))
        return 0;
    snprintf(at, sizeof at, "%s", path);
    for (int k = 0; errno == ENOENT && k < MAX_LINKS; k++) {
        ssize_t n = readlink(at, link, sizeof link - 1);
        if (n < 0)
            return find_future(at, place);
        link[n] = '\0';
        char next[PATH_MAX];
        if (beside(link[0] == '/' ? "" : at, link, next) != 0)
            break;
        memcpy(at, next, sizeof at);
        errno = ENOENT;
    }
    return -1;
}

int target_names_descriptor(const char *path)
{
    static const char *const beginnings[] = {
        "/dev/fd/", "/dev/stdout", "/dev/stderr", "/proc/self/fd/"};
    for (size_t i = 0; i < sizeof beginnings / sizeof beginnings[0]; i++)
        if (strncmp(path, beginnings[i], strlen(beginnings[i])) == 0)
            return 1;
    return 0;
}

/* Whether that file is the one that is read; NULL or "-" is stdin. */
static int is_input(const struct stat *st, const char *input)
{
    struct stat in;
    int found = input && strcmp(input, "-") != 0 ? stat(input, &in) : fstat(STDIN_FILENO, &in);
    return found == 0 && S_ISREG(in.st_mode) && regular_is_same(st, &in);
}

static int check_input(const struct target *t, const struct stat *st, const char *input,
    const char *path, struct err *e)
{
    if (!is_input(st, input))
        return 0;
    return err_set(e, ASSAY_EBADREQ, "--output %s: '%s' is the input itself; expected another file",
        t->path, path);
}

/* The shell has opened stdout: `> FILE` emptied the input already, and after `>> FILE` the run
 * would read its own output. */
int target_check_stdout(const char *input, struct err *e)
{
    struct stat out;
    if (fstat(STDOUT_FILENO, &out) != 0 || !is_input(&out, input))
        return 0;
    return err_set(e, ASSAY_EBADREQ, "stdout is the input itself, '%s'; expected another file",
        input ? input : "-");
}

/* What the shell opened is guarded as a file that is named: `>> FILE` writes into it too. */
static int guard_descriptor(int fd, const struct cli *c, struct err *e)
{
    char name[40], path[PATH_MAX];
    struct stat st;
    snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(name, path, sizeof path - 1);
    if (n <= 0 || path[0] != '/' || fstat(fd, &st) != 0 || !S_ISREG(st.st_mode))
        return 0;
    path[n] = '\0';
    return guard_output(c, path, e);
}

/* ---- opening ---- */

static int open_stream(struct target *t, int fd, struct err *e)
{
    t->file = deflate_open(fd, t->path);
    return t->file ? 0 : err_errno(e, ASSAY_EIO, "cannot write '%s'", t->path);
}

/* Opens a pipe, and waits for a reader. */
static int open_pipe(const struct target *t, struct err *e)
{
    int fd, told = 0;
    long long since = now_mono_ms();
    while ((fd = open(t->path, O_WRONLY | O_NONBLOCK | O_CLOEXEC | O_NOCTTY)) < 0) {
        if (errno != ENXIO && errno != EINTR)
            return err_errno(e, ASSAY_EIO, "cannot write '%s'", t->path);
        if (cli_nap(POLL_MS))
            return err_set(e, ASSAY_EIO, "stopped");
        if (told || now_mono_ms() - since <= SILENT_MS)
            continue;
        cli_say("waiting for somebody to read the pipe '%s'", t->path);
        told = 1;
    }
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK);
    return fd;
}

/* Duplicates the open descriptor that the path names. To open the path instead would write from the
 * beginning of a file that was opened for appending, or that has been written to. */
static int open_descriptor(const char *path)
{
    int fd = strcmp(path, "/dev/stdout") == 0   ? STDOUT_FILENO
             : strcmp(path, "/dev/stderr") == 0 ? STDERR_FILENO
                                                : -1;
    const char *number = strrchr(path, '/') + 1;
    char *end;
    if (fd < 0) {
        long n = strtol(number, &end, 10);
        fd = *end || end == number || n < 0 || n > INT_MAX ? -1 : (int)n;
    }
    int flags = fcntl(fd, F_GETFL);
    if (flags >= 0 && (flags & O_ACCMODE) == O_RDONLY)
        errno = EBADF;
    return flags < 0 || (flags & O_ACCMODE) == O_RDONLY ? -1 : fcntl(fd, F_DUPFD_CLOEXEC, 3);
}

static int open_through(struct target *t, const struct stat *st, const struct cli *c, struct err *e)
{
    int fd = target_names_descriptor(t->path) ? open_descriptor(t->path)
             : S_ISFIFO(st->st_mode)          ? open_pipe(t, e)
                                              : open(t->path, O_WRONLY | O_CLOEXEC | O_NOCTTY);
    if (fd < 0)
        return e->code ? e->code : err_errno(e, ASSAY_EIO, "cannot write '%s'", t->path);
    int rc = guard_descriptor(fd, c, e);
    if (rc == 0)
        rc = open_stream(t, fd, e);
    close(fd);
    return rc;
}

/* 1: the file is another user's, in a directory such as /tmp whose files only their owners
 * replace. */
static int is_held_by_owner(const struct target *t)
{
    char folder[PATH_MAX];
    struct stat file, dir;
    uid_t user = geteuid();
    return user != 0 && beside(t->place, ".", folder) == 0 && stat(t->place, &file) == 0 &&
           stat(folder, &dir) == 0 && (dir.st_mode & S_ISVTX) && file.st_uid != user &&
           dir.st_uid != user;
}

/* Is something mounted on the file? Then the system replaces it by nothing. */
static int is_mounted_on(const struct target *t)
{
    struct statx st;
    return statx(AT_FDCWD, t->place, AT_SYMLINK_NOFOLLOW, 0, &st) == 0 &&
           (st.stx_attributes & STATX_ATTR_MOUNT_ROOT);
}

/* Replacing a file needs permission for its directory only; `> FILE` needs it for the file, and so
 * does this. */
static int check_may_write(const struct target *t, struct err *e)
{
    if (is_held_by_owner(t))
        return err_set(e, ASSAY_EUNAUTHORIZED,
            "--output: cannot replace '%s': it is another user's, in a directory (sticky) where "
            "only its owner may; expected another place",
            t->path);
    if (is_mounted_on(t))
        return err_set(e, ASSAY_EBADREQ,
            "--output: cannot replace '%s': it is mounted by itself (as by docker -v FILE:FILE); "
            "expected a file in a directory that is mounted, or another place",
            t->path);
    if (faccessat(AT_FDCWD, t->place, W_OK, AT_EACCESS) == 0)
        return 0;
    return err_errno(e, errno == EACCES ? ASSAY_EUNAUTHORIZED : ASSAY_EIO,
        "--output: cannot write '%s'", t->path);
}

/* Is the directory of an earlier run for this output still there? */
static int has_run_beside(const struct target *t)
{
    char path[PATH_MAX + 32];
    struct stat st;
    snprintf(path, sizeof path, "%s.assay/%s", t->place, GUARD_MARK);
    return lstat(path, &st) == 0 && S_ISREG(st.st_mode);
}

/* Is an existing FILE.part of an earlier run? Another file may have that name. */
static int check_part(const struct target *t, const char *input, struct err *e)
{
    struct stat st;
    int begun = stamp_is_begun(t->part);
    if (lstat(t->part, &st) != 0 || !S_ISREG(st.st_mode) || st.st_nlink > 1 ||
        st.st_uid != geteuid())
        return 0; /* lock_open reports these */
    if (check_input(t, &st, input, t->part, e) != 0)
        return e->code;
    if (begun == 1 || st.st_size == 0 || (begun < 0 && has_run_beside(t)))
        return 0;
    return err_set(e, ASSAY_EBADREQ,
        "--output: expected nothing at '%.200s', where the output is written first, or what an "
        "earlier run left there; found a file that lacks such a run's mark (an extended attribute, "
        "which a copy may lose): delete it if a run left it, else move it away",
        t->part);
}

/* Opens FILE.part: locks it before emptying it. */
static int open_part(struct target *t, const struct stat *old, const char *input, struct err *e)
{
    struct stat st;
    char what[400];
    snprintf(t->part, sizeof t->part, "%s.part", t->place);
    int rc = check_part(t, input, e);
    if (rc != 0)
        return rc;
    snprintf(what, sizeof what, "the output '%.300s'", t->path);
    rc = lock_open(t->part, what, &t->fd, e);
    if (rc == 0 && fstat(t->fd, &st) != 0)
        rc = err_errno(e, ASSAY_EIO, "cannot write '%s'", t->part);
    if (rc == 0 && check_input(t, &st, input, t->part, e) != 0) {
        close(t->fd);
        t->fd = -1; /* not ours to remove */
        return e->code;
    }
    if (rc == 0 && ftruncate(t->fd, 0) != 0)
        rc = err_errno(e, ASSAY_EIO, "cannot write '%s'", t->part);
    if (rc == 0)
        stamp_begin(t->fd);
    if (rc == 0 && old) {
        t->replaces = 1;
        t->old = *old;
        fchmod(t->fd, 0600); /* until it is whole */
    }
    return rc == 0 ? open_stream(t, t->fd, e) : rc;
}

/* The file that another run writes, or began, is no place for this one's. */
static int check_unfinished(const struct target *t, struct err *e)
{
    if (stamp_is_begun(t->place) != 1)
        return 0;
    return err_set(e, ASSAY_EBADREQ,
        "--output %s: expected a place of its own, found the unfinished output of another run; "
        "delete it if that run is over and not wanted, else take another place",
        t->path);
}

static int open_file(struct target *t, const char *input, const struct cli *c, struct err *e)
{
    struct stat st, out;
    int there = stat(t->path, &st) == 0;
    if (there && S_ISDIR(st.st_mode))
        return err_set(
            e, ASSAY_EBADREQ, "--output %s: expected a file, found a directory", t->path);
    if (there && S_ISBLK(st.st_mode))
        return err_set(e, ASSAY_EBADREQ, "--output %s: expected a file, found a disk", t->path);
    if (there && check_input(t, &st, input, t->path, e) != 0)
        return e->code;
    if (there && S_ISREG(st.st_mode) && fstat(STDOUT_FILENO, &out) == 0 &&
        regular_is_same(&st, &out)) {
        t->fd = -1; /* as `> FILE` opened it */
        return guard_descriptor(STDOUT_FILENO, c, e) != 0 ? e->code
                                                          : open_stream(t, STDOUT_FILENO, e);
    }
    if (there && (!S_ISREG(st.st_mode) || target_names_descriptor(t->path)))
        return open_through(t, &st, c, e);
    if (find_place(t->path, t->place) != 0)
        return err_errno(e, ASSAY_EIO, "cannot write '%s'", t->path);
    if (guard_output(c, t->place, e) != 0 ||
        (there && (check_may_write(t, e) != 0 || check_unfinished(t, e) != 0)))
        return e->code;
    return open_part(t, there ? &st : NULL, input, e);
}

int target_open(
    struct target *t, const char *path, const char *input, const struct cli *c, struct err *e)
{
    *t = (struct target){.path = "stdout", .fd = -1};
    if (!path || strcmp(path, "-") == 0) {
        t->file = stdout;
        int rc = target_check_stdout(input, e);
        return rc == 0 ? guard_descriptor(STDOUT_FILENO, c, e) : rc;
    }
    if (strlen(path) >= sizeof t->path - sizeof ".part")
        return err_set(e, ASSAY_EBADREQ, "--output: expected a path below %zu bytes",
            sizeof t->path - sizeof ".part");
    snprintf(t->path, sizeof t->path, "%s", path);
    int rc = open_file(t, input, c, e);
    if (rc != 0)
        target_release(t);
    return rc;
}

/* ---- ending ---- */

static void sync_folder(const char *path)
{
    char folder[PATH_MAX];
    int fd = beside(path, ".", folder) == 0 ? open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    if (fd < 0)
        return;
    fsync(fd);
    close(fd);
}

int target_begin_anew(struct target *t, struct err *e)
{
    if (t->fd < 0)
        return err_set(e, ASSAY_ESTATE, "what went to '%s' cannot be taken back", t->path);
    fclose(t->file);
    t->file = NULL;
    if (ftruncate(t->fd, 0) != 0 || lseek(t->fd, 0, SEEK_SET) < 0)
        return err_errno(e, ASSAY_EIO, "cannot write '%s'", t->part);
    return open_stream(t, t->fd, e);
}

/* Gives the file the access control list of the one that it replaces, or none, as that had none (a
 * new file may have its directory's default). */
static int copy_acl(const struct target *t)
{
    char acl[ACL_BYTES];
    ssize_t n = getxattr(t->place, ACL_NAME, acl, sizeof acl);
    if (n >= 0)
        return fsetxattr(t->fd, ACL_NAME, acl, (size_t)n, 0);
    if (errno != ENODATA && errno != ENOTSUP)
        return -1;
    return fremovexattr(t->fd, ACL_NAME) == 0 || errno == ENODATA || errno == ENOTSUP ? 0 : -1;
}

/* Gives the file the owner, if this user may, and the permissions of the one that it replaces.
 * Where the group cannot be the same, another one gets none. Where the list cannot be copied,
 * neither: the group's bits of a file with a list say what the list allows at most. */
static int become_old(const struct target *t)
{
    mode_t mode = t->old.st_mode & 0777;
    if (!t->replaces)
        return 0;
    if (fchown(t->fd, t->old.st_uid, t->old.st_gid) != 0 &&
        fchown(t->fd, (uid_t)-1, t->old.st_gid) != 0)
        mode &= ~(mode_t)070;
    if (copy_acl(t) != 0)
        mode &= ~(mode_t)070;
    return fchmod(t->fd, mode);
}

/* Moves FILE.part to its place, if it is still the file that was written here. */
static int move_to_place(const struct target *t, struct err *e)
{
    struct stat ours, there;
    if (lstat(t->part, &there) != 0 || fstat(t->fd, &ours) != 0)
        return err_errno(e, ASSAY_EIO, "cannot write '%s': '%s'", t->path, t->part);
    if (!regular_is_same(&ours, &there))
        return err_set(e, ASSAY_EIO,
            "cannot write '%s': another program replaced '%s', where it was written first", t->path,
            t->part);
    if (rename(t->part, t->place) != 0)
        return err_errno(e, ASSAY_EIO, "cannot write '%s'", t->path);
    return 0;
}

int target_finish(struct target *t, struct err *e)
{
    errno = EIO; /* an earlier failed write left no errno */
    int failed = ferror(t->file) || fflush(t->file) != 0;
    if (t->file != stdout) {
        failed |= fclose(t->file) != 0;
        t->file = NULL;
    }
    if (!failed && t->fd >= 0)
        failed = become_old(t) != 0 || fsync(t->fd) != 0;
    if (failed)
        return err_errno(e, ASSAY_EIO, "cannot write '%s'", t->path);
    if (t->fd >= 0 && move_to_place(t, e) != 0)
        return e->code;
    if (t->fd >= 0) {
        stamp_put(
            t->fd, t->stamp); /* the file has just been renamed: replaces the mark of a part file */
        sync_folder(t->place);
        close(t->fd);
        t->fd = -1;
    }
    return 0;
}

void target_release(struct target *t)
{
    struct stat st, there;
    /* before the end of a compressed stream is written: that alone is nothing */
    int is_empty = t->fd >= 0 && fstat(t->fd, &st) == 0 && st.st_size == 0;
    if (t->file && t->file != stdout)
        fclose(t->file);
    t->file = NULL;
    if (t->fd < 0)
        return;
    /* The next run would not know a part without its mark. What is in it is written anew anyway. */
    if (fstat(t->fd, &st) == 0 && lstat(t->part, &there) == 0 && regular_is_same(&st, &there) &&
        (is_empty || stamp_is_begun(t->part) != 1))
        unlink(t->part);
    close(t->fd);
    t->fd = -1;
}
