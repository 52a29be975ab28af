/* guard.h - what must not be replaced, and where a run must not keep its work.
 *
 * An output takes the place of the file that it is named like, and a private broker's directory goes with all that is
 * in it. So neither may be what this run reads (the checkpoint, the worker, the programs), nor anything of a broker's. */
#ifndef ASSAY_GUARD_H
#define ASSAY_GUARD_H

#include "broker/cli/cli.h"

/* Files that only `assay score` puts into a private broker's directory. */
#define GUARD_MARK "score.lock"  /* it made the directory, and may remove it */
#define GUARD_LOCK "client.lock" /* it was there before */

/* place: where the output is to be, as realpath has it. ASSAY_EBADREQ names what it would have destroyed. */
int guard_output(const struct cli *c, const char *place, struct err *e);
/* data: of the private broker; is_own: it was not named by --data, and is removed at the end. ASSAY_EBADREQ where it
 * is a directory of somebody else's, or where this run reads what is in it. */
int guard_work(const struct cli *c, const char *data, int is_own, struct err *e);

#endif
