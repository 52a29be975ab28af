/* deflate.c - FILE streams over zlib and zstd, made with fopencookie (deflate.h). */
#include "broker/cli/deflate.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>

#include "broker/cli/signals.h"
#include "schema/alloc.h"

#define BUFFER_BYTES (1u << 17)

static int ends_in(const char *path, const char *suffix)
{
    size_t n = strlen(path), m = strlen(suffix);
    return n > m && strcmp(path + n - m, suffix) == 0;
}

/* ---- gzip ---- */

static ssize_t write_gzip(void *cookie, const char *bytes, size_t n)
{
    errno = 0;
    int written = n > 0 ? gzwrite(cookie, bytes, (unsigned)n) : 0;
    if (written <= 0 && n > 0 && errno == 0)
        errno = EIO;
    return written; /* a cookie reports failure with 0 */
}

static int close_gzip(void *cookie)
{
    return gzclose_w(cookie) == Z_OK ? 0 : EOF;
}

/* ---- zstd ---- */

struct zstd {
    ZSTD_CStream *stream;
    int fd;
    char bytes[BUFFER_BYTES];
};

static int write_all(int fd, const char *bytes, size_t n)
{
    while (n > 0) {
        ssize_t written = write(fd, bytes, n);
        if (written < 0 && errno == EINTR && !cli_interrupted())
            continue; /* after a signal this stops instead: a pipe's reader may never come */
        if (written < 0)
            return -1;
        bytes += written;
        n -= (size_t)written;
    }
    return 0;
}

/* Returns 1 if the step has more to do, 0 if it is done, -1 on failure. */
static int step(struct zstd *z, ZSTD_inBuffer *in, ZSTD_EndDirective how)
{
    ZSTD_outBuffer out = {z->bytes, sizeof z->bytes, 0};
    size_t left = ZSTD_compressStream2(z->stream, &out, in, how);
    if (ZSTD_isError(left)) {
        errno = EIO;
        return -1;
    }
    return write_all(z->fd, z->bytes, out.pos) == 0 ? left > 0 : -1;
}

static ssize_t write_zstd(void *cookie, const char *bytes, size_t n)
{
    ZSTD_inBuffer in = {bytes, n, 0};
    while (in.pos < n)
        if (step(cookie, &in, ZSTD_e_continue) < 0)
            return 0;
    return (ssize_t)n;
}

static int close_zstd(void *cookie)
{
    struct zstd *z = cookie;
    ZSTD_inBuffer in = {"", 0, 0};
    int rc;
    while ((rc = step(z, &in, ZSTD_e_end)) > 0)
        ;
    ZSTD_freeCStream(z->stream);
    if (close(z->fd) != 0)
        rc = -1;
    free(z);
    return rc;
}

static struct zstd *open_zstd(int fd)
{
    struct zstd *z = xcalloc(1, sizeof *z);
    z->fd = fd;
    z->stream = ZSTD_createCStream();
    if (z->stream)
        return z;
    free(z);
    errno = ENOMEM;
    return NULL;
}

/* ---- both ---- */

const char *deflate_suffix(const char *name)
{
    return ends_in(name, ".gz") ? ".gz" : ends_in(name, ".zst") ? ".zst" : "";
}

FILE *deflate_open(int fd, const char *name)
{
    cookie_io_functions_t gzip = {.write = write_gzip, .close = close_gzip};
    cookie_io_functions_t zstd = {.write = write_zstd, .close = close_zstd};
    const char *suffix = deflate_suffix(name);
    int is_gzip = strcmp(suffix, ".gz") == 0, own = fcntl(fd, F_DUPFD_CLOEXEC, 3);
    if (own < 0)
        return NULL;
    if (!suffix[0])
        return fdopen(own, "w");
    void *cookie = is_gzip ? (void *)gzdopen(own, "wb") : (void *)open_zstd(own);
    FILE *file = cookie ? fopencookie(cookie, "w", is_gzip ? gzip : zstd) : NULL;
    if (!cookie)
        close(own);
    else if (!file && is_gzip)
        close_gzip(cookie);
    else if (!file)
        close_zstd(cookie);
    return file;
}
