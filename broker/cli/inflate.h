/* inflate.h - compressed files as streams: gzip and zstd, told by their first bytes, so that a pipe may be
 * either as well as a file. */
#ifndef ASSAY_INFLATE_H
#define ASSAY_INFLATE_H

#include <stddef.h>
#include <stdio.h>

#define INFLATE_MAX_WINDOW_LOG                                                                     \
    27 /* of zstd: memory for 128 MiB, what `zstd --long` takes by itself */

/* The stream that is in `file`: file itself when it is not compressed, else a new one that closes it (but for
 * stdin). Reads up to four bytes, as long as they may be those of a compressed file. name: a name in .zst is
 * zstd whatever it begins with. A damaged or cut file ends in a read error (ferror), errno EBADMSG; one of
 * zstd with a larger window, errno EOVERFLOW. */
FILE *inflate_stream(FILE *file, const char *name);

/* Are these, at least four where there are so many, the first bytes of a compressed file? */
int inflate_is_compressed(const char *bytes, size_t n);

#endif
