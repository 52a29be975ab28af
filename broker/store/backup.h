/* backup.h - a copy of a data directory's database, as of one moment, while a broker works. */
#ifndef ASSAY_STORE_BACKUP_H
#define ASSAY_STORE_BACKUP_H

#include <stdint.h>

#include "schema/err.h"

/* Pages copied so far, of so many. Non-zero ends the copying. */
typedef int store_backup_progress(void *arg, int done, int total);

/* Copies data_dir's database into the directory `to`, which must be new, or have no database.
 * *jobs: how many it has. Returns 0, 1 if `show` ended it, or negative: then nothing is left there.
 * ASSAY_EBADREQ if `to` is in use, ASSAY_EFULL if there is no room, ASSAY_EFORMAT and ASSAY_EDAMAGED
 * as store_open_reader. */
int store_backup(const char *data_dir, const char *to, store_backup_progress *show, void *arg,
    int64_t *jobs, struct err *e);

#endif
