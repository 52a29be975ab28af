/* guard.h - protects files that an output must not replace and directories that a run must not use.
 *
 * An output replaces the file of its name, and a private broker's directory is deleted with
 * everything in it. So neither may be what this run reads (the checkpoint, the worker, the
 * programs) or belong to a broker. */
#ifndef ASSAY_GUARD_H
#define ASSAY_GUARD_H

#include "broker/cli/cli.h"
#include "broker/data_dir.h"

/* Files that only `assay score` puts into a private broker's directory. */
#define GUARD_MARK DATA_DIR_RUN_MARK /* `assay score` made the directory and may remove it */
#define GUARD_LOCK DATA_DIR_RUN_LOCK /* the directory existed before */

/* Checks `place`, the realpath of an output. ASSAY_EBADREQ names what it would destroy. */
int guard_output(const struct cli *c, const char *place, struct err *e);
/* Checks `data`, the private broker's directory; is_own: it was not named by --data and is removed
 * at the end. ASSAY_EBADREQ if the directory is somebody else's, or if this run reads something in
 * it. */
int guard_work(const struct cli *c, const char *data, int is_own, struct err *e);

#endif
