/* pool.h - a fixed set of threads that run the tasks 0..n-1 of one job at a time, the caller among
 * them. Which thread runs which task is left open; tasks must not care. */
#ifndef ASSAY_POOL_H
#define ASSAY_POOL_H

#include <stdint.h>

struct pool;

/* One task; `thread` is 0..n_threads-1, for scratch memory. */
typedef void pool_task(void *arg, int64_t task, int thread);

/* spin: threads look for the next job a few microseconds before they sleep; for when no more
 * threads run than there are cores. */
struct pool *pool_new(int n_threads, int spin);
void pool_free(struct pool **p);
int pool_threads(const struct pool *p);
/* Returns when all tasks are done. `bump` (may be NULL) is called after each. */
void pool_run(struct pool *p, pool_task *task, void *arg, int64_t n_tasks);
void pool_set_bump(struct pool *p, void (*bump)(void *), void *arg);

#endif
