/* inflate.c - FILE streams over zlib and zstd, made with fopencookie, and what is wrong with a
 * damaged one (inflate.h). */
#include "broker/cli/input/inflate.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>
#include <zstd.h>
#include <zstd_errors.h>

#include "broker/cli/signals.h"
#include "schema/alloc.h"

#define BUFFER_BYTES (1u << 17)

enum format { PLAIN, GZIP, ZSTD, NOT_YET };

/* Recognises a format by its first bytes. NOT_YET: more bytes are needed. */
static enum format format_of(const unsigned char *b, size_t n)
{
    static const unsigned char zstd[] = {0x28, 0xb5, 0x2f, 0xfd},
                               skipped[] = {0x50, 0x2a, 0x4d, 0x18};
    size_t like_zstd = 0, like_skipped = 0;
    if (n == 0 || (n == 1 && b[0] == 0x1f))
        return NOT_YET;
    if (b[0] == 0x1f && b[1] == 0x8b)
        return GZIP;
    while (like_zstd < n && like_zstd < 4 && b[like_zstd] == zstd[like_zstd])
        like_zstd++;
    while (like_skipped < n && like_skipped < 4 &&
           (like_skipped ? b[like_skipped] : b[0] & 0xf0u) == skipped[like_skipped])
        like_skipped++;
    if (like_zstd == 4 || like_skipped == 4)
        return ZSTD;
    return like_zstd == n || like_skipped == n ? NOT_YET : PLAIN;
}

int inflate_is_compressed(const char *bytes, size_t n)
{
    enum format f = format_of((const unsigned char *)bytes, n);
    return f == GZIP || f == ZSTD;
}

/* ---- compressed bytes ---- */

/* A file that is read in pieces. */
struct source {
    FILE *file;
    size_t at, n;
    unsigned char bytes[BUFFER_BYTES];
};

static int damaged(int why)
{
    errno = why;
    return -1;
}

/* Makes bytes available. Returns 1, 0 at the end, -1 on failure, or with EINTR after a signal:
 * compressed bytes may go on for ever and hold none, as zeros behind a member do. */
static int refill(struct source *s)
{
    if (s->at < s->n)
        return 1;
    if (cli_interrupted())
        return damaged(EINTR);
    s->at = 0;
    s->n = fread(s->bytes, 1, sizeof s->bytes, s->file);
    return s->n > 0 ? 1 : ferror(s->file) ? -1 : 0;
}

static int close_source(struct source *s)
{
    return s->file == stdin ? 0 : fclose(s->file);
}

/* ---- gzip ---- */

struct gzip {
    z_stream z;
    int in_member; /* inside a member */
    struct source source;
};

/* Begins the next member, if any, after zeros that a tape may have left. Returns 1, 0 at the end,
 * -1. */
static int begin_member(struct gzip *g)
{
    int more;
    while ((more = refill(&g->source)) == 1 && g->source.bytes[g->source.at] == 0)
        g->source.at++;
    if (more != 1)
        return more;
    g->in_member = inflateReset(&g->z) == Z_OK;
    return g->in_member ? 1 : damaged(EBADMSG);
}

static ssize_t read_gzip(void *cookie, char *to, size_t n)
{
    struct gzip *g = cookie;
    g->z.next_out = (unsigned char *)to;
    g->z.avail_out = (unsigned)(n < BUFFER_BYTES ? n : BUFFER_BYTES);
    while (g->z.next_out == (unsigned char *)to) {
        int more = g->in_member ? refill(&g->source) : begin_member(g);
        if (more != 1)
            return more == 0 && g->in_member ? damaged(EBADMSG) : more;
        g->z.next_in = g->source.bytes + g->source.at;
        g->z.avail_in = (unsigned)(g->source.n - g->source.at);
        int rc = inflate(&g->z, Z_NO_FLUSH);
        g->source.at = g->source.n - g->z.avail_in;
        if (rc != Z_OK && rc != Z_STREAM_END)
            return damaged(EBADMSG);
        g->in_member = rc != Z_STREAM_END;
    }
    return (ssize_t)((char *)g->z.next_out - to);
}

static int close_gzip(void *cookie)
{
    struct gzip *g = cookie;
    inflateEnd(&g->z);
    int rc = close_source(&g->source);
    free(g);
    return rc;
}

static FILE *gzip_stream(FILE *file)
{
    cookie_io_functions_t how = {.read = read_gzip, .close = close_gzip};
    struct gzip *g = xcalloc(1, sizeof *g);
    g->source.file = file;
    if (inflateInit2(&g->z, 16 + MAX_WBITS) != Z_OK) {
        free(g);
        errno = ENOMEM;
        return NULL;
    }
    return fopencookie(g, "r", how);
}

/* ---- zstd ---- */

struct zstd {
    ZSTD_DStream *stream;
    size_t open_frame; /* the last call's result: not 0 inside a frame */
    struct source source;
};

static ssize_t read_zstd(void *cookie, char *to, size_t n)
{
    struct zstd *z = cookie;
    ZSTD_outBuffer out = {to, n, 0};
    while (out.pos == 0) {
        int more = refill(&z->source);
        if (more < 0 || (more == 0 && z->open_frame == 0))
            return more;
        ZSTD_inBuffer in = {z->source.bytes, z->source.n, z->source.at};
        z->open_frame = ZSTD_decompressStream(z->stream, &out, &in);
        z->source.at = in.pos;
        if (ZSTD_getErrorCode(z->open_frame) == ZSTD_error_frameParameter_windowTooLarge)
            return damaged(EOVERFLOW);
        /* At the end, zstd may still hold back bytes; if it does not, the frame is cut off. */
        if (ZSTD_isError(z->open_frame) || (more == 0 && out.pos == 0))
            return damaged(EBADMSG);
    }
    return (ssize_t)out.pos;
}

static int close_zstd(void *cookie)
{
    struct zstd *z = cookie;
    ZSTD_freeDStream(z->stream);
    int rc = close_source(&z->source);
    free(z);
    return rc;
}

static FILE *zstd_stream(FILE *file)
{
    cookie_io_functions_t how = {.read = read_zstd, .close = close_zstd};
    struct zstd *z = xcalloc(1, sizeof *z);
    z->source.file = file;
    z->stream = ZSTD_createDStream();
    if (!z->stream || ZSTD_isError(ZSTD_DCtx_setParameter(
                          z->stream, ZSTD_d_windowLogMax, INFLATE_MAX_WINDOW_LOG))) {
        ZSTD_freeDStream(z->stream);
        free(z);
        errno = ENOMEM;
        return NULL;
    }
    return fopencookie(z, "r", how);
}

/* ---- both ---- */

static int ends_in(const char *path, const char *suffix)
{
    size_t n = strlen(path), m = strlen(suffix);
    return n > m && strcmp(path + n - m, suffix) == 0;
}

FILE *inflate_stream(FILE *file, const char *name)
{
    unsigned char seen[4];
    size_t n = 0;
    int byte = 0;
    enum format format = NOT_YET;
    while (format == NOT_YET && n < 4 && (byte = getc(file)) != EOF) {
        seen[n++] = (unsigned char)byte;
        format = format_of(seen, n);
    }
    if (ends_in(name, ".zst") && n > 0)
        format = ZSTD;
    if (byte == EOF)
        clearerr(file);
    while (n > 0) /* glibc takes back all that it gave */
        ungetc(seen[--n], file);
    return format == GZIP ? gzip_stream(file) : format == ZSTD ? zstd_stream(file) : file;
}
