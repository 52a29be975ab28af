/* lock.h - files that one process at a time may write. */
#ifndef ASSAY_LOCK_H
#define ASSAY_LOCK_H

#include "schema/err.h"

/* Opens `path` for writing, made where it is not there and never through a symbolic link, and locks it
 * until *fd and every copy of it is closed. Its contents stay as they are. ASSAY_EBUSY, naming the
 * process that has it where that can be told; ASSAY_EIO, also for what is no file of one's own. */
int lock_open(const char *path, int *fd, struct err *e);

#endif
