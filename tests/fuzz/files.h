/* files.h - files for a fuzz target that reads a directory. */
#ifndef ASSAY_FUZZ_FILES_H
#define ASSAY_FUZZ_FILES_H

#include "schema/msg.h"

/* Returns the process's own directory, which is made at the first call, and removed at the end with
 * all that is in it. Static storage. */
const char *fuzz_directory(void);
/* Writes the file in it anew. Without bytes there is none. */
void fuzz_write_file(const char *name, struct slice bytes);

#endif
