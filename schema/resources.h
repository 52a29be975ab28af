/* resources.h - checks for resources before something ends the process when they run out. */
#ifndef ASSAY_RESOURCES_H
#define ASSAY_RESOURCES_H

#include "schema/err.h"

/* Can n_files more files be opened, and do the stacks of n_threads have room (`ulimit -n`, `ulimit
 * -v`)? Returns 0 or ASSAY_EIO. Other threads may still take them meanwhile. `whose` names the user
 * in the message. */
int resources_check(const char *whose, int n_files, int n_threads, struct err *e);
/* Are the stacks of the broker's threads large enough (`ulimit -s`)? Returns 0 or ASSAY_EFORMAT. */
int resources_check_stack(struct err *e);

#endif
