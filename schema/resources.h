/* resources.h - is there room for what a library is about to take, which ends the process where there is none? */
#ifndef ASSAY_RESOURCES_H
#define ASSAY_RESOURCES_H

#include "schema/err.h"

/* So many files more can be opened, and so many threads have room for their stacks (`ulimit -n`, `ulimit -v`): 0, or
 * ASSAY_EIO. Others in this process may still take it meanwhile. `whose`: who needs them, in the message. */
int resources_check(const char *whose, int n_files, int n_threads, struct err *e);

#endif
