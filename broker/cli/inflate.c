/* inflate.c - see inflate.h. */
#include "broker/cli/inflate.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>
#include <zstd.h>

#include "schema/log.h"

#define BUFFER_BYTES (1u << 17)

static int ends_in(const char *path, const char *suffix)
{
    size_t n = strlen(path), m = strlen(suffix);
    return n > m && strcmp(path + n - m, suffix) == 0;
}

int inflate_is_compressed(const char *path)
{
    return ends_in(path, ".gz") || ends_in(path, ".zst");
}

/* ---- gzip ---- */

static ssize_t read_gzip(void *cookie, char *to, size_t n)
{
    gzFile file = cookie;
    int why, got = gzread(file, to, (unsigned)(n < BUFFER_BYTES ? n : BUFFER_BYTES));
    /* The end of a file that was cut off is told only by gzerror. */
    if (got == 0)
        gzerror(file, &why);
    if (got < 0 || (got == 0 && why != Z_OK && why != Z_STREAM_END)) {
        errno = EBADMSG;
        return -1;
    }
    return got;
}

static int close_gzip(void *cookie)
{
    return gzclose_r(cookie) == Z_OK ? 0 : EOF;
}

/* ---- zstd ---- */

struct zstd {
    FILE *file;
    ZSTD_DStream *stream;
    ZSTD_inBuffer in;
    char bytes[BUFFER_BYTES];
    size_t open_frame; /* of the last call: not 0 while a frame is not whole */
};

/* More compressed bytes: 1, 0 at the end, -1. */
static int refill(struct zstd *z)
{
    z->in.size = fread(z->bytes, 1, sizeof z->bytes, z->file);
    z->in.pos = 0;
    return z->in.size > 0 ? 1 : ferror(z->file) ? -1 : 0;
}

static ssize_t read_zstd(void *cookie, char *to, size_t n)
{
    struct zstd *z = cookie;
    ZSTD_outBuffer out = {to, n, 0};
    while (out.pos == 0) {
        if (z->in.pos == z->in.size) {
            int more = refill(z);
            if (more < 0)
                return -1;
            if (more == 0 && z->open_frame == 0)
                return 0;
            if (more == 0) {
                errno = EBADMSG;
                return -1;
            }
        }
        z->open_frame = ZSTD_decompressStream(z->stream, &out, &z->in);
        if (ZSTD_isError(z->open_frame)) {
            errno = EBADMSG;
            return -1;
        }
    }
    return (ssize_t)out.pos;
}

static int close_zstd(void *cookie)
{
    struct zstd *z = cookie;
    ZSTD_freeDStream(z->stream);
    fclose(z->file);
    free(z);
    return 0;
}

static struct zstd *open_zstd(const char *path)
{
    struct zstd *z = xcalloc(1, sizeof *z);
    z->file = fopen(path, "rbe");
    z->stream = ZSTD_createDStream();
    z->in.src = z->bytes;
    if (z->file && z->stream)
        return z;
    ZSTD_freeDStream(z->stream);
    free(z);
    return NULL;
}

FILE *inflate_open(const char *path)
{
    cookie_io_functions_t gzip = {.read = read_gzip, .close = close_gzip};
    cookie_io_functions_t zstd = {.read = read_zstd, .close = close_zstd};
    void *cookie;
    if (!inflate_is_compressed(path))
        return fopen(path, "rbe");
    if (ends_in(path, ".gz"))
        return (cookie = gzopen(path, "rbe")) ? fopencookie(cookie, "r", gzip) : NULL;
    return (cookie = open_zstd(path)) ? fopencookie(cookie, "r", zstd) : NULL;
}
