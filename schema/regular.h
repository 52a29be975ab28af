/* regular.h - opening what somebody else's directory holds. A checkpoint is copied and downloaded
 * from anywhere, and a name in it may be a pipe, on which opening or reading waits for ever, or a
 * device without an end. Only regular files are opened, through symbolic links too. */
#ifndef ASSAY_REGULAR_H
#define ASSAY_REGULAR_H

#include <sys/stat.h>

#include "schema/err.h"

/* A descriptor to read from, close-on-exec, and *st of it (may be NULL); it never waits. Else
 * ASSAY_EFORMAT, saying what lies there, with errno ENOENT where nothing does
 * (a link to nothing is something). */
int regular_open(const char *path, struct stat *st, struct err *e);

/* Is there anything of that name, if only a link to nothing? */
int regular_exists(const char *path);

#define REGULAR_POINTER_BYTES 256
/* Do these first bytes of a file say that it only stands for one that Git LFS was to fetch? */
int regular_is_pointer(const void *bytes, unsigned long n);
/* Says so. */
int regular_refuse_pointer(const char *path, struct err *e);

#endif
