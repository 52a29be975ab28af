/* stamp.h - what an output was made from, kept with it: an extended attribute (user.assay.made), gone with the
 * file, and void once the file is written to. Where the file system keeps none, nobody knows. While it is being
 * written, the attribute says that. */
#ifndef ASSAY_STAMP_H
#define ASSAY_STAMP_H

#include "broker/cli/cli.h"

#define STAMP_BYTES 128

/* Of input, checkpoint (by their files' sizes and times), programs and options of `assay score`; "" when
 * one of the files cannot be told. */
void stamp_make(const struct cli *c, char stamp[STAMP_BYTES]);
int stamp_is_on(const char *path, const char *stamp);
/* The file is open and all is written. "" takes the mark of stamp_begin away. */
void stamp_put(int fd, const char *stamp);
/* The file is open, and writing begins: it is of this program. */
void stamp_begin(int fd);
/* 1: it has such a mark. 0: none. -1: the file system keeps none. */
int stamp_is_begun(const char *path);

#endif
