/* deflate.h - writes compressed files as streams; inflate.h reads them. */
#ifndef ASSAY_DEFLATE_H
#define ASSAY_DEFLATE_H

#include <stdio.h>

/* Returns a stream that writes to fd, compressed if the name ends in .gz or .zst. fclose writes the
 * end and leaves fd open. NULL with errno. */
FILE *deflate_open(int fd, const char *name);

/* Returns what the name says of compression: ".gz", ".zst" or "". */
const char *deflate_suffix(const char *name);

#endif
