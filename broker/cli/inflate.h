/* inflate.h - compressed files as streams. */
#ifndef ASSAY_INFLATE_H
#define ASSAY_INFLATE_H

#include <stdio.h>

/* Opens path for reading: gzip when it ends in .gz, zstd when it ends in .zst, else as it is. NULL
 * with errno. A damaged or cut file ends in a read error (ferror), errno EBADMSG. */
FILE *inflate_open(const char *path);
/* Does the name say that it is compressed? */
int inflate_is_compressed(const char *path);

#endif
