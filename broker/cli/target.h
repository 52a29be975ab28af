/* target.h - a file that a verb writes: whole or not there, and by one process at a time.
 *
 * A file is written beside its place as FILE.part, locked, and renamed when it is whole, so FILE is
 * either absent, an older whole one, or whole. A symbolic link is followed: what it leads to is what
 * is replaced. What is there and is no regular file (a pipe, a terminal, /dev/null), and what is
 * open already (/dev/stdout, /dev/fd/3), is written through as it is and never renamed over.
 *
 * Refused before anything is written: a directory, a disk, the input, what guard.h keeps, a file that one
 * may not write to, and a FILE.part that is not of such a run. */
#ifndef ASSAY_TARGET_H
#define ASSAY_TARGET_H

#include <limits.h>
#include <stdio.h>

#include "broker/cli/stamp.h"
#include "schema/err.h"

struct target {
    FILE *file;
    char path[PATH_MAX];                      /* as it was named; "stdout" */
    char place[PATH_MAX], part[PATH_MAX + 8]; /* empty: written through */
    int fd;                                   /* of part; -1: none */
    char stamp[STAMP_BYTES];                  /* kept with the file (stamp.h); empty: none */
};

/* path NULL or "-": stdout. input: the file that is read meanwhile, NULL or "-": stdin; it is an error
 * to name it as the output (ASSAY_EBADREQ, as is a directory). ASSAY_EBUSY when another process writes
 * it. */
int target_open(
    struct target *t, const char *path, const char *input, const struct cli *c, struct err *e);
/* What was written is void: 0, or ASSAY_ESTATE where it cannot be taken back. */
int target_begin_anew(struct target *t, struct err *e);
/* All is written: sync, and put it into its place. Compressed where the name ends in .gz or .zst. */
int target_finish(struct target *t, struct err *e);
/* Is this a name of something that this process has open? */
int target_names_descriptor(const char *path);
/* Leaves FILE.part where target_finish was not reached, but not an empty one. */
void target_release(struct target *t);

#endif
