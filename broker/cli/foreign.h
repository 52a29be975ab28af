/* foreign.h - files that are no JSON lines at all, told by their first bytes: another encoding of text, another compression,
 * another format for tables; or text of another form, a table or JSON over several lines. Each line of such a file would be an error, and none would say what is wrong. */
#ifndef ASSAY_FOREIGN_H
#define ASSAY_FOREIGN_H

#include <stddef.h>
#include <stdio.h>

struct foreign {
    const char *name;   /* "UTF-16 (little endian)" */
    const char *remedy; /* "decompress it first, with `xz -d`" */
};

/* What `file` begins with, NULL: perhaps JSON lines. Reads no further than the first line does, at most a few hundred
 * bytes, where that may be a row, else 64 KiB, and puts them back; errors stay in the stream (ferror, errno). */
const struct foreign *foreign_look(FILE *file);

/* Of text, by its first bytes (is_all: there are no more), NULL: perhaps JSON lines. No reader is asked: any bytes
 * will do. */
const struct foreign *foreign_text(const char *text, size_t len, int is_all);
/* Its first line begins as a row does: no more need be seen. */
int foreign_is_plain(const char *text, size_t len);

#endif
