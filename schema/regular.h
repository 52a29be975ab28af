/* regular.h - opens files in a directory that is not ours. A checkpoint may come from anywhere, and
 * a name in it may be a pipe, on which opening or reading waits forever, or an endless device. Only
 * regular files are opened, also through symbolic links. */
#ifndef ASSAY_REGULAR_H
#define ASSAY_REGULAR_H

#include <stdio.h>
#include <sys/stat.h>

#include "schema/err.h"

/* Returns a descriptor to read from, close-on-exec, and its *st (may be NULL). Never waits. Else
 * ASSAY_EFORMAT, saying what is there, with errno ENOENT where nothing is (a dangling link is
 * something). */
int regular_open(const char *path, struct stat *st, struct err *e);

/* The same as a stream to read, which the caller closes. NULL: *e says why. */
FILE *regular_stream(const char *path, struct stat *st, struct err *e);

/* Does anything have that name, even a dangling link? */
int regular_exists(const char *path);
/* The same in a directory. What cannot be looked at counts as there, so that opening it says
 * why. */
int regular_is_in(const char *dir, const char *name);

/* Do both describe one file (device and inode), whatever names lead to it? */
int regular_is_same(const struct stat *a, const struct stat *b);

#define REGULAR_POINTER_BYTES 256
/* Do the file's first bytes say that it is only a Git LFS pointer to the file? */
int regular_is_pointer(const void *bytes, unsigned long n);
/* Returns the error for such a file. */
int regular_refuse_pointer(const char *path, struct err *e);

#endif
