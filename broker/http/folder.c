/* folder.c - see folder.h. */
#include "broker/http/folder.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "schema/alloc.h"
#include "schema/log.h"

#define HEX 32
#define TEMPORARY "temporary-"
#define LEAST_FREE_BYTES (64ull << 20)
#define JSON_BYTES (4u << 20) /* of a .json */

struct folder {
    int fd, lock_fd;
    char path[4096]; /* for messages */
};

/* ---- ids ---- */

static void write_id(
    char id[FOLDER_ID_BYTES], const char *prefix, const unsigned char bytes[HEX / 2])
{
    char hex[HEX + 1];
    sodium_bin2hex(hex, sizeof hex, bytes, HEX / 2);
    snprintf(id, FOLDER_ID_BYTES, "%s%s", prefix, hex);
}

void folder_new_id(char id[FOLDER_ID_BYTES], const char *prefix)
{
    unsigned char random[HEX / 2];
    randombytes_buf(random, sizeof random);
    write_id(id, prefix, random);
}

void folder_id_of(char id[FOLDER_ID_BYTES], const char *prefix, const char *text)
{
    unsigned char hash[HEX / 2];
    crypto_generichash(hash, sizeof hash, (const unsigned char *)text, strlen(text), NULL, 0);
    write_id(id, prefix, hash);
}

int folder_is_id(const char *id, const char *prefix)
{
    size_t n = strlen(prefix);
    return strncmp(id, prefix, n) == 0 && strspn(id + n, "0123456789abcdef") == HEX &&
           id[n + HEX] == '\0';
}

/* ---- opening ---- */

static int check_owner(const struct folder *f, struct err *e)
{
    struct stat st;
    if (fstat(f->fd, &st) != 0)
        return err_errno(e, ASSAY_EIO, "--files: %s", f->path);
    if (st.st_uid == geteuid() && (st.st_mode & 077) == 0)
        return 0;
    return err_set(e, ASSAY_EUNAUTHORIZED,
        "--files: %s: expected a directory of this user that nobody else may enter (chmod 700)",
        f->path);
}

static int take_lock(struct folder *f, struct err *e)
{
    f->lock_fd =
        openat(f->fd, "lock", O_RDWR | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0600);
    if (f->lock_fd < 0)
        return err_errno(e, ASSAY_EIO, "--files: %s/lock", f->path);
    if (flock(f->lock_fd, LOCK_EX | LOCK_NB) == 0)
        return 0;
    if (errno != EWOULDBLOCK)
        return err_errno(
            e, ASSAY_EIO, "--files: %s/lock: expected a file system with locks", f->path);
    return err_set(e, ASSAY_EBUSY, "--files: %s is in use by another assay-http", f->path);
}

/* A stream over the folder's names; NULL with *e. */
static DIR *list(struct folder *f, struct err *e)
{
    int fd = openat(f->fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
    if (!dir)
        err_errno(e, ASSAY_EIO, "--files: %s", f->path);
    if (!dir && fd >= 0)
        close(fd);
    return dir;
}

/* Removes temporary files, and contents of which nothing is known: an upload or a deletion that was
 * cut. */
static int sweep(struct folder *f, struct err *e)
{
    DIR *dir = list(f, e);
    struct dirent *entry;
    if (!dir)
        return e->code;
    while ((entry = readdir(dir))) {
        char json[FOLDER_NAME_BYTES];
        struct stat st;
        snprintf(json, sizeof json, "%.40s.json", entry->d_name);
        int is_cut = folder_is_id(entry->d_name, FOLDER_FILE) &&
                     fstatat(f->fd, json, &st, AT_SYMLINK_NOFOLLOW) != 0 && errno == ENOENT;
        if (is_cut || folder_is_id(entry->d_name, TEMPORARY))
            unlinkat(f->fd, entry->d_name, 0);
    }
    closedir(dir);
    return 0;
}

int folder_open(struct folder **out, const char *path, struct err *e)
{
    struct folder *f = xcalloc(1, sizeof *f);
    int rc = 0;
    snprintf(f->path, sizeof f->path, "%s", path);
    f->lock_fd = -1;
    if (mkdir(path, 0700) != 0 && errno != EEXIST)
        rc = err_errno(e, ASSAY_EFORMAT, "--files: cannot make %s", path);
    f->fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (rc == 0 && f->fd < 0)
        rc = err_errno(e, ASSAY_EFORMAT, "--files: %s: expected a directory, and no link", path);
    if (rc == 0)
        rc = check_owner(f, e);
    if (rc == 0)
        rc = take_lock(f, e);
    if (rc == 0)
        rc = sweep(f, e);
    *out = f;
    if (rc != 0)
        folder_close(out);
    return rc;
}

void folder_close(struct folder **out)
{
    struct folder *f = *out;
    *out = NULL;
    if (!f)
        return;
    if (f->lock_fd >= 0)
        close(f->lock_fd);
    if (f->fd >= 0)
        close(f->fd);
    free(f);
}

/* ---- writing ---- */

int folder_write_error(const char *what, struct err *e)
{
    int is_full = errno == ENOSPC || errno == EDQUOT || errno == EFBIG;
    return err_errno(e, is_full ? ASSAY_EFULL : ASSAY_EIO, "%s", what);
}

int folder_has_room(struct folder *f, unsigned long long bytes, struct err *e)
{
    struct statvfs fs;
    if (fstatvfs(f->fd, &fs) != 0)
        return err_errno(e, ASSAY_EIO, "--files: %s", f->path);
    unsigned long long there = (unsigned long long)fs.f_bavail * fs.f_frsize;
    if (there >= LEAST_FREE_BYTES && there - LEAST_FREE_BYTES >= bytes)
        return 0;
    return err_set(e, ASSAY_EFULL,
        "the disk of --files: expected room for %llu bytes and %llu more, found %llu", bytes,
        LEAST_FREE_BYTES, there);
}

int folder_temporary(struct folder *f, char name[FOLDER_NAME_BYTES], struct err *e)
{
    char id[FOLDER_NAME_BYTES];
    unsigned char random[HEX / 2];
    char hex[HEX + 1];
    randombytes_buf(random, sizeof random);
    sodium_bin2hex(hex, sizeof hex, random, sizeof random);
    snprintf(id, sizeof id, TEMPORARY "%s", hex);
    snprintf(name, FOLDER_NAME_BYTES, "%s", id);
    int fd = openat(f->fd, name, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    return fd >= 0 ? fd : folder_write_error("--files: a new file", e);
}

int folder_keep(struct folder *f, int fd, const char *temporary, const char *name, struct err *e)
{
    if (fsync(fd) != 0 || renameat(f->fd, temporary, f->fd, name) != 0)
        return folder_write_error("--files: a new file", e);
    return folder_sync(f, e);
}

int folder_sync(struct folder *f, struct err *e)
{
    return fsync(f->fd) == 0 ? 0 : folder_write_error("--files: the folder", e);
}

void folder_drop(struct folder *f, const char *name)
{
    if (name[0])
        unlinkat(f->fd, name, 0);
}

static int write_all(int fd, const char *text, size_t n)
{
    while (n > 0) {
        ssize_t done = write(fd, text, n);
        if (done < 0 && errno != EINTR)
            return -1;
        text += done > 0 ? done : 0;
        n -= done > 0 ? (size_t)done : 0;
    }
    return 0;
}

int folder_write(struct folder *f, const char *name, const char *text, struct err *e)
{
    char temporary[FOLDER_NAME_BYTES];
    int fd = folder_temporary(f, temporary, e);
    if (fd < 0)
        return fd;
    int rc = write_all(fd, text, strlen(text)) == 0 ? folder_keep(f, fd, temporary, name, e)
                                                    : folder_write_error("--files: a record", e);
    close(fd);
    if (rc != 0)
        folder_drop(f, temporary);
    return rc;
}

/* ---- reading ---- */

int folder_read(struct folder *f, const char *name, struct err *e)
{
    struct stat st;
    int fd = openat(f->fd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0)
        return err_errno(e, errno == ENOENT ? ASSAY_EGONE : ASSAY_EIO, "--files: %s", name);
    if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode))
        return fd;
    close(fd);
    return err_set(e, ASSAY_EIO, "--files: %s: expected a regular file", name);
}

/* The whole text, which the caller frees; NULL with *e. */
static char *read_text(struct folder *f, const char *name, struct err *e)
{
    int fd = folder_read(f, name, e);
    if (fd < 0)
        return NULL;
    char *text = xcalloc(JSON_BYTES, 1);
    size_t n = 0;
    ssize_t got;
    while ((got = read(fd, text + n, JSON_BYTES - 1 - n)) > 0)
        n += (size_t)got;
    close(fd);
    if (got == 0 && n < JSON_BYTES - 1)
        return text;
    err_set(e, ASSAY_EIO, "--files: %s: cannot be read", name);
    free(text);
    return NULL;
}

int folder_each(struct folder *f, const char *prefix,
    void (*each)(void *arg, const char *id, const char *text), void *arg, struct err *e)
{
    DIR *dir = list(f, e);
    struct dirent *entry;
    int rc = dir ? 0 : e->code;
    while (rc == 0 && (entry = readdir(dir))) {
        char id[FOLDER_NAME_BYTES];
        size_t n = strlen(entry->d_name);
        if (n < 6 || n >= sizeof id || strcmp(entry->d_name + n - 5, ".json") != 0)
            continue;
        snprintf(id, sizeof id, "%.*s", (int)(n - 5), entry->d_name);
        char *text = folder_is_id(id, prefix) ? read_text(f, entry->d_name, e) : NULL;
        if (text)
            each(arg, id, text);
        else if (folder_is_id(id, prefix))
            rc = e->code;
        free(text);
    }
    if (dir)
        closedir(dir);
    return rc;
}
