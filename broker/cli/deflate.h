/* deflate.h - compressed files as streams to write to; inflate.h reads them. */
#ifndef ASSAY_DEFLATE_H
#define ASSAY_DEFLATE_H

#include <stdio.h>

/* A stream to what fd is open on, compressed as the name says (.gz, .zst), else as it is. fclose writes the
 * end and leaves fd open. NULL with errno. */
FILE *deflate_open(int fd, const char *name);

#endif
