/* model_path.h - explains what --model was given, when it is not a directory. */
#ifndef ASSAY_MODEL_PATH_H
#define ASSAY_MODEL_PATH_H

#include "schema/err.h"

/* Returns 0 for a directory, else ASSAY_EFORMAT, saying that path is a name on the hub, a file, or
 * does not exist. */
int model_path_check(const char *path, struct err *e);

#endif
