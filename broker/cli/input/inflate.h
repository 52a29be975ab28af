/* inflate.h - reads gzip and zstd files as streams. Formats are recognised by their first bytes, so
 * pipes work too. */
#ifndef ASSAY_INFLATE_H
#define ASSAY_INFLATE_H

#include <stddef.h>
#include <stdio.h>

#define INFLATE_MAX_WINDOW_LOG                                                                     \
    27 /* log2 of zstd's window: 128 MiB, which `zstd --long` uses by default */

/* Returns a stream of the contents of `file`: file itself if it is not compressed, else a new
 * stream that closes it (except stdin). Reads up to four bytes while they may be those of a
 * compressed file. A name that ends in .zst means zstd whatever the first bytes are. A damaged or
 * truncated file ends in a read error (ferror) with errno EBADMSG; a zstd window that is too large,
 * with EOVERFLOW. */
FILE *inflate_stream(FILE *file, const char *name);

/* Are these the first bytes of a compressed file? n is at least 4, unless the file is shorter. */
int inflate_is_compressed(const char *bytes, size_t n);

#endif
