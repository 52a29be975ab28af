/* foreign.h - files that are no JSON lines at all, told by their first bytes: another encoding of text, another compression,
 * another format for tables. Each line of such a file would be an error, and none would say what is wrong. */
#ifndef ASSAY_FOREIGN_H
#define ASSAY_FOREIGN_H

#include <stddef.h>
#include <stdio.h>

struct foreign {
    const char *name;   /* "UTF-16 (little endian)" */
    const char *remedy; /* "decompress it first, with `xz -d`" */
};

/* What `file` begins with, NULL: perhaps JSON lines. Reads no further than the first line does, at most a few hundred
 * bytes, and puts them back; errors stay in the stream (ferror, errno). */
const struct foreign *foreign_look(FILE *file);

#endif
