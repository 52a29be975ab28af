/* data_dir.c - makes the directory, and checks owner, mode and entries of it and of its parents
 * (data_dir.h). */
#include "broker/data_dir.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "broker/store/store.h"
#include "schema/log.h"

#define OTHERS 077
#define MAY_WRITE 022

/* ---- where ---- */

int data_dir_find(char *path, size_t size, const char *given, struct err *e)
{
    const char *state = getenv("XDG_STATE_HOME"), *home = getenv("HOME");
    if (given && !*given)
        return err_set(e, ASSAY_EIO, "data directory: expected a path, found ''");
    if (!given && !(state && state[0] == '/') && !(home && home[0] == '/'))
        return err_set(e, ASSAY_EIO,
            "data directory: expected --data, or XDG_STATE_HOME or HOME with an absolute path");
    int n = given                      ? snprintf(path, size, "%s", given)
            : state && state[0] == '/' ? snprintf(path, size, "%s/assay", state)
                                       : snprintf(path, size, "%s/.local/state/assay", home);
    return n < (int)size ? 0 : err_set(e, ASSAY_EIO, "data directory: path too long");
}

/* 1: made; 0: it exists. */
static int make(const char *path, struct err *e)
{
    if (mkdir(path, 0700) == 0)
        return 1;
    int error =
        errno; /* of a directory that is there, on a file system that is read-only, it is EROFS */
    struct stat st;
    if (error == EEXIST || stat(path, &st) == 0)
        return 0;
    errno = error;
    return err_errno(e, ASSAY_EIO, "cannot make the data directory '%s'", path);
}

static int make_with_parents(const char *path, int *n_made, struct err *e)
{
    char part[4096];
    int rc = 0;
    *n_made = 0;
    if (snprintf(part, sizeof part, "%s", path) >= (int)sizeof part)
        return err_set(e, ASSAY_EIO, "data directory: path too long");
    char *slash = part, was = *part;
    while (rc >= 0 && was) {
        slash++; /* a name has at least one byte; so does the root */
        slash += strcspn(slash, "/");
        was = *slash;
        *slash = '\0';
        rc = make(part, e);
        *n_made += rc == 1;
        *slash = was;
    }
    return rc < 0 ? rc : 0;
}

/* ---- whose ---- */

static int refuse(struct err *e, const char *path, const char *found, const char *advice)
{
    return err_set(e, ASSAY_EUNAUTHORIZED,
        "data directory: '%.200s' %s; expected a directory that is yours alone: %s", path, found,
        advice);
}

/* Checks the parent directories for one in which anybody may rename entries. Another user's is
 * refused; this user's or root's, as with container volumes, gets a warning. */
static int check_parents(const char *path, struct err *e)
{
    char real[PATH_MAX];
    if (!realpath(path, real))
        return err_errno(e, ASSAY_EIO, "data directory '%s'", path);
    for (char *slash; (slash = strrchr(real, '/')) != NULL && slash != real;) {
        struct stat st;
        *slash = '\0';
        if (stat(real, &st) != 0 || !(st.st_mode & S_IWOTH) || (st.st_mode & S_ISVTX))
            continue;
        if (st.st_uid != 0 && st.st_uid != geteuid())
            return refuse(e, real, "is above it, another user's, and everybody may write there",
                "choose another --data");
        log_warn("event=open_directory path=\"%s\" reason=\"everybody may write there, and so put "
                 "another data directory in this one's place\" action=\"chmod o-w, or +t\"",
            real);
    }
    return 0;
}

/* Refuses an entry through which somebody else could redirect our writes. */
static int check_entry(int dir, const char *path, const char *name, struct err *e)
{
    char whole[4400];
    struct stat st;
    snprintf(whole, sizeof whole, "%.4000s/%.255s", path, name);
    if (fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) != 0)
        return errno == ENOENT ? 0 : err_errno(e, ASSAY_EIO, "%s", whole);
    if (S_ISLNK(st.st_mode))
        return refuse(e, whole, "is a symbolic link", "move it away");
    if (st.st_uid != geteuid())
        return refuse(e, whole, "is another user's", "move it away");
    if (S_ISREG(st.st_mode) && st.st_nlink > 1)
        return refuse(e, whole, "is another file as well (a hard link)", "move it away");
    if (!S_ISREG(st.st_mode) && !S_ISDIR(st.st_mode) && !S_ISSOCK(st.st_mode))
        return refuse(e, whole, "is no file", "move it away");
    return 0;
}

/* '#' in the form is a number. */
static int has_form(const char *name, const char *form)
{
    for (; *form; form++) {
        size_t n = *form == '#' ? strspn(name, "0123456789") : *form == *name;
        if (n == 0)
            return 0;
        name += n;
    }
    return *name == '\0';
}

/* 1: a broker makes files of this name. */
static int is_broker_s(const char *name)
{
    static const char *const forms[] = {"lock", "digest.cache", "digest.cache.part",
        "digest.cache.part#", "reserve", "reserve-purge", "synced", "assay.db", "assay.db-wal",
        "assay.db-shm", "assay.db-journal", "assay.db.new", "assay.db.new-journal", "assay.db.v#",
        "assay.db.v#.#", "score-cache-#.db", "score-cache-#.db-wal", "score-cache-#.db-shm",
        "score-cache-#.db-journal", "gemm-algorithms.txt", "twins-#.map", "twins-#.new",
        "broker.sock", "broker.sock.#", "events.sock", "group-#-#.sock"};
    int is = 0;
    for (size_t i = 0; i < sizeof forms / sizeof forms[0]; i++)
        is |= has_form(name, forms[i]);
    return is;
}

/* 1: `assay score --data` puts a file of this name here before it starts a broker. */
static int is_before_start(const char *name)
{
    return strcmp(name, "assayd.log") == 0 || strcmp(name, DATA_DIR_RUN_LOCK) == 0 ||
           strcmp(name, DATA_DIR_RUN_MARK) == 0;
}

/* Has a broker started here before? It makes its lock first. */
static int is_data_directory(int dir)
{
    static const char sqlite[16] = "SQLite format 3";
    char text[sizeof sqlite];
    int fd = openat(dir, "assay.db", O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    ssize_t n = fd >= 0 ? pread(fd, text, sizeof text, 0) : -1;
    if (fd >= 0)
        close(fd);
    return (n == (ssize_t)sizeof text && memcmp(text, sqlite, sizeof sqlite) == 0) ||
           store_is_lock(dir, "lock");
}

/* Refuses a file that a start would write over or delete, although no broker made it. */
static int check_name(int dir, const char *path, const char *name, struct err *e)
{
    char whole[4400];
    struct stat st;
    if (!is_broker_s(name) || fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) != 0 ||
        !S_ISREG(st.st_mode) || st.st_size == 0)
        return 0;
    snprintf(whole, sizeof whole, "%.4000s/%.255s", path, name);
    return refuse(e, whole, "has the name of a broker's file, and no broker has been there",
        "move it away, or choose another --data");
}

struct contents {
    int n; /* entries, but for those that a client puts there before the start */
    int is_data_directory;
};

static int look_into(int fd, const char *path, struct contents *found, struct err *e)
{
    int rc = 0, own = dup(fd);
    DIR *dir = own >= 0 ? fdopendir(own) : NULL;
    *found = (struct contents){.is_data_directory = is_data_directory(fd)};
    if (!dir) {
        rc = err_errno(e, ASSAY_EIO, "data directory '%s'", path);
        if (own >= 0)
            close(own);
        return rc;
    }
    for (struct dirent *d; rc == 0 && (d = readdir(dir)) != NULL;) {
        if (strcmp(d->d_name, ".") == 0 || strcmp(d->d_name, "..") == 0)
            continue;
        found->n += !is_before_start(d->d_name);
        rc = check_entry(fd, path, d->d_name, e);
        if (rc == 0 && !found->is_data_directory)
            rc = check_name(fd, path, d->d_name, e);
    }
    closedir(dir);
    return rc;
}

static int check_owner(int fd, const char *path, struct stat *st, struct err *e)
{
    char found[96];
    if (fstat(fd, st) != 0)
        return err_errno(e, ASSAY_EIO, "data directory '%s'", path);
    snprintf(found, sizeof found, "belongs to user %u, and this is user %u", (unsigned)st->st_uid,
        (unsigned)geteuid());
    if (st->st_uid != geteuid())
        return refuse(e, path, found, "choose another --data");
    snprintf(found, sizeof found, "may be written to by others (mode %04o)",
        (unsigned)st->st_mode & 07777);
    if (st->st_mode & MAY_WRITE)
        return refuse(e, path, found,
            "look that what lies in it is yours and close it (chmod 700), or choose another "
            "--data");
    return 0;
}

/* Closes the directory if others may look into it: a data directory gets mode 0700, any other is
 * refused. */
static int close_to_others(
    int fd, const char *path, const struct stat *st, const struct contents *found, struct err *e)
{
    char mode[64];
    if ((st->st_mode & OTHERS) == 0)
        return 0;
    snprintf(mode, sizeof mode, "has mode %04o and is not empty", (unsigned)st->st_mode & 07777);
    if (found->n > 0 && !found->is_data_directory)
        return refuse(e, path, mode, "choose another --data, or close it (chmod 700)");
    if (fchmod(fd, 0700) != 0)
        return err_errno(e, ASSAY_EIO, "data directory '%s': cannot close it to others", path);
    log_info(
        "event=data_directory_closed path=%s mode_was=%04o", path, (unsigned)st->st_mode & 07777);
    return 0;
}

static int check(int fd, const char *path, int *is_empty, struct err *e)
{
    struct stat st;
    struct contents found = {0};
    int rc = check_owner(fd, path, &st, e);
    if (rc == 0)
        rc = check_parents(path, e);
    if (rc == 0)
        rc = look_into(fd, path, &found, e);
    *is_empty = rc == 0 && found.n == 0;
    return rc == 0 ? close_to_others(fd, path, &st, &found, e) : rc;
}

/* Refuses another user's symbolic link: its owner may change it after this check. */
static int check_link(const char *path, struct err *e)
{
    char bare[4096];
    struct stat st;
    snprintf(bare, sizeof bare, "%s", path);
    for (size_t n = strlen(bare); n > 1 && bare[n - 1] == '/'; n--)
        bare[n - 1] = '\0';
    if (lstat(bare, &st) == 0 && S_ISLNK(st.st_mode) && st.st_uid != geteuid() && st.st_uid != 0)
        return refuse(e, bare, "is another user's symbolic link", "choose another --data");
    return 0;
}

int data_dir_open(const char *path, struct data_dir_start *start, struct err *e)
{
    *start = (struct data_dir_start){0};
    int rc = make_with_parents(path, &start->n_made, e);
    if (rc < 0 || (rc = check_link(path, e)) != 0)
        return rc;
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return errno == ENOTDIR
                   ? err_set(e, ASSAY_EIO, "data directory: '%s' is no directory", path)
                   : err_errno(e, ASSAY_EIO, "data directory '%s'", path);
    rc = check(fd, path, &start->was_empty, e);
    close(fd);
    return rc;
}

/* Removes the files that a broker, and with_run also a run, made. other: the name of one that is
 * somebody else's, else "". The mark stays. */
static void empty(const char *path, int with_run, char other[DATA_DIR_NAME_BYTES])
{
    DIR *dir = opendir(path);
    *other = '\0';
    for (struct dirent *d; dir && (d = readdir(dir)) != NULL;) {
        const char *name = d->d_name;
        if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0 ||
            strcmp(name, DATA_DIR_RUN_MARK) == 0)
            continue;
        int is_ours = is_broker_s(name) || (with_run && is_before_start(name));
        if (!is_ours || unlinkat(dirfd(dir), name, 0) != 0) /* it fails for directories */
            snprintf(other, DATA_DIR_NAME_BYTES, "%s", name);
    }
    if (dir)
        closedir(dir);
}

int data_dir_remove(const char *path, char other[DATA_DIR_NAME_BYTES])
{
    char mark[4200];
    int fd = store_lock(path, NULL), rc = -1;
    *other = '\0';
    if (fd < 0)
        return -1;
    empty(path, 1, other);
    snprintf(mark, sizeof mark, "%s/" DATA_DIR_RUN_MARK, path);
    if (!*other && (unlink(mark) == 0 || errno == ENOENT))
        rc = rmdir(path);
    close(fd);
    return rc;
}

void data_dir_keep(const char *path)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return;
    unlinkat(fd, DATA_DIR_RUN_LOCK, 0);
    if (unlinkat(fd, DATA_DIR_RUN_MARK, 0) == 0)
        log_info("event=directory_kept path=%s reason=\"a service uses it, so `assay score` will "
                 "not remove it\"",
            path);
    close(fd);
}

void data_dir_undo(const char *path, const struct data_dir_start *start)
{
    char part[4096], other[DATA_DIR_NAME_BYTES];
    int fd = start->was_empty ? store_lock(path, NULL) : -1;
    if (fd >= 0)
        empty(path, 0, other);
    snprintf(part, sizeof part, "%s", path);
    for (int n = start->n_made; n > 0 && rmdir(part) == 0; n--) {
        char *slash = strrchr(part, '/');
        while (slash && slash > part && slash[1] == '\0') { /* it ends in slashes */
            *slash = '\0';
            slash = strrchr(part, '/');
        }
        if (!slash || slash == part)
            break;
        *slash = '\0';
    }
    if (fd >= 0)
        close(fd);
}
