/* stamp.h - records with an output what it was made from, in an extended attribute
 * (user.assay.made). It disappears with the file and becomes invalid once the file is written to.
 *
 * While the file is being written, the attribute says so. Some file systems keep no attributes;
 * then nothing is known of the output. */
#ifndef ASSAY_STAMP_H
#define ASSAY_STAMP_H

#include <sys/stat.h>

#include "broker/cli/cli.h"

#define STAMP_BYTES 128

/* Makes a stamp of the input, the checkpoint (by its files' sizes and times), the programs and the
 * options of `assay score`; "" if one of the files cannot be examined. `input` is the input as it
 * was when it was opened. `place` and `part`, the output's files, may lie in the checkpoint's
 * directory and do not count. */
void stamp_make(const struct cli *c, const struct stat *input, const char *place, const char *part,
    char stamp[STAMP_BYTES]);
int stamp_is_on(const char *path, const char *stamp);
/* Stamps the open file after the last write. "" removes the mark of stamp_begin. */
void stamp_put(int fd, const char *stamp);
/* Marks the open file as being written by this program. */
void stamp_begin(int fd);
/* Returns 1 if the file has such a mark, 0 if not, -1 if the file system keeps none. */
int stamp_is_begun(const char *path);

#endif
