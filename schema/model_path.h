/* model_path.h - what was given as --model, when it is not a directory: said in the words of whoever
 * gave it. */
#ifndef ASSAY_MODEL_PATH_H
#define ASSAY_MODEL_PATH_H

#include "schema/err.h"

/* 0 when it is a directory; else ASSAY_EFORMAT: a name of the hub, a file, or nothing. */
int model_path_check(const char *path, struct err *e);

#endif
