/* lock.h - files that only one process at a time may write. */
#ifndef ASSAY_LOCK_H
#define ASSAY_LOCK_H

#include "schema/err.h"

/* Opens `path` for writing, creating it if needed and never through a symbolic link, and locks it
 * until *fd and all its copies are closed. The contents stay. ASSAY_EBUSY, saying that `what` is in
 * use, by which process if that is known; ASSAY_EIO, also if path is not a regular file of this
 * user. */
int lock_open(const char *path, const char *what, int *fd, struct err *e);
/* Does the name still lead to the locked file? Another process may have renamed or removed it. */
int lock_is_current(int fd, const char *path);

#endif
