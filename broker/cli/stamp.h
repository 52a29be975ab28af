/* stamp.h - what an output was made from, kept with it: an extended attribute (user.assay.made), gone with the
 * file, and void once the file is written to. Where the file system keeps none, nobody knows. */
#ifndef ASSAY_STAMP_H
#define ASSAY_STAMP_H

#include "broker/cli/cli.h"

#define STAMP_BYTES 128

/* Of input, checkpoint (by their files' sizes and times), programs and options of `assay score`; "" when
 * one of the files cannot be told. */
void stamp_make(const struct cli *c, char stamp[STAMP_BYTES]);
int stamp_is_on(const char *path, const char *stamp);
/* The file is open and all is written. */
void stamp_put(int fd, const char *stamp);

#endif
