/* foreign.h - recognises files that are not JSON lines: by their first bytes another text encoding,
 * compression or table format, and by their text a table or JSON over several lines.
 *
 * Without this, every line would be an error, and none would say what is wrong. */
#ifndef ASSAY_FOREIGN_H
#define ASSAY_FOREIGN_H

#include <stddef.h>
#include <stdio.h>

struct foreign {
    const char *name;   /* "UTF-16 (little endian)" */
    const char *remedy; /* "decompress it first, with `xz -d`" */
};

/* Returns what `file` begins with, NULL if it may be JSON lines. Reads and puts back at most the
 * first line, no more than a few hundred bytes, if that may be a row, else up to 64 KiB. Read
 * errors stay in the stream (ferror, errno). */
const struct foreign *foreign_look(FILE *file);

/* The same for text in memory, by its first bytes; is_all: there are no more. Accepts any bytes and
 * does not parse them. */
const struct foreign *foreign_text(const char *text, size_t len, int is_all);
/* Does the first line begin like a row, so that no more needs to be seen? */
int foreign_is_plain(const char *text, size_t len);

#endif
