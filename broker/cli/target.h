/* target.h - a file that a verb writes: complete or absent, and written by one process at a time.
 *
 * A file is written beside its place as FILE.part, locked, and renamed when complete, so FILE is
 * absent, an older complete one, or complete. A symbolic link is followed: the file that it leads
 * to is replaced. An existing file that is not regular (a pipe, a terminal, /dev/null), or that is
 * open already (/dev/stdout, /dev/fd/3), is written through and never renamed over.
 *
 * Refused before anything is written: a directory, a disk, the input, what guard.h protects, a file
 * without write permission, one that is mounted by itself, another run's unfinished file, and a
 * FILE.part that such a run did not make. */
#ifndef ASSAY_TARGET_H
#define ASSAY_TARGET_H

#include <limits.h>
#include <stdio.h>
#include <sys/stat.h>

#include "broker/cli/stamp.h"
#include "schema/err.h"

struct target {
    FILE *file;
    char path[PATH_MAX];                      /* as the user named it, or "stdout" */
    char place[PATH_MAX], part[PATH_MAX + 8]; /* empty: written through */
    int fd;                                   /* the open part file; -1: none */
    int replaces;                             /* there is a file at `place`: `old` */
    struct stat old;
    char stamp[STAMP_BYTES]; /* kept with the file (stamp.h); empty: none */
};

/* Opens path for writing; NULL or "-": stdout. input: the file being read, NULL or "-": stdin.
 * ASSAY_EBADREQ if the output is the input or a directory; ASSAY_EBUSY if another process writes
 * it. */
int target_open(
    struct target *t, const char *path, const char *input, const struct cli *c, struct err *e);
/* ASSAY_EBADREQ if stdout is the input (as for target_open), a regular file. */
int target_check_stdout(const char *input, struct err *e);
/* Discards what was written. Returns 0, or ASSAY_ESTATE if it cannot be taken back. */
int target_begin_anew(struct target *t, struct err *e);
/* Syncs the file and moves it to its place. The file is compressed if its name ends in .gz or
 * .zst. */
int target_finish(struct target *t, struct err *e);
/* Does the path name something that this process has open? */
int target_names_descriptor(const char *path);
/* Releases the target. If target_finish was not reached, a FILE.part that is not empty stays, where
 * files have attributes. */
void target_release(struct target *t);

#endif
