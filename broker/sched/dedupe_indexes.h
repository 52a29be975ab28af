/* dedupe_indexes.h - the indexes of all jobs (dedupe_index.h). Their number and the memory of the
 * small ones are limited: another one is closed for a new one, and made again from the database
 * when its job needs it. */
#ifndef ASSAY_DEDUPE_INDEXES_H
#define ASSAY_DEDUPE_INDEXES_H

#include "broker/sched/dedupe_index.h"
#include "broker/store/store.h"
#include "broker/table.h"

struct dedupe_indexes {
    uint32_t most;       /* set by the caller; the rest is zeroed */
    struct table by_job; /* struct dedupe_index */
    size_t small_bytes;  /* memory of the small ones: when last counted, plus those opened since */
    size_t idle_at;      /* where in by_job the next search for finished jobs begins */
};

void dedupe_indexes_release(struct dedupe_indexes *all);
struct dedupe_index *dedupe_indexes_find(
    const struct dedupe_indexes *all, int64_t job); /* NULL: it is not open */
/* Opens an empty one for o->job, which has none; any other may be closed. */
struct dedupe_index *dedupe_indexes_open(
    struct dedupe_indexes *all, const struct dedupe_index_options *o);
void dedupe_indexes_close(struct dedupe_indexes *all, int64_t job); /* it is open */
/* Closes some of those whose jobs are over, and such as are too many. */
int dedupe_indexes_idle(struct dedupe_indexes *all, struct store *store, struct err *e);

#endif
