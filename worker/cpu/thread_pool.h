/* thread_pool.h - a fixed set of threads, the caller included, that run tasks 0..n-1 of one job at
 * a time. Any thread may run any task, so results must not depend on it. */
#ifndef ASSAY_THREAD_POOL_H
#define ASSAY_THREAD_POOL_H

#include <stdint.h>

struct thread_pool;

/* One task; `thread` is 0..n_threads-1, for scratch memory. */
typedef void thread_pool_task(void *arg, int64_t task, int thread);

/* spin: threads look for the next job for a few microseconds before they sleep; for use when there
 * are no more threads than cores. */
struct thread_pool *thread_pool_new(int n_threads, int spin);
void thread_pool_free(struct thread_pool **p);
int thread_pool_threads(const struct thread_pool *p);
/* Returns when all tasks are done. `bump` (may be NULL) is called after each. */
void thread_pool_run(struct thread_pool *p, thread_pool_task *task, void *arg, int64_t n_tasks);
void thread_pool_set_bump(struct thread_pool *p, void (*bump)(void *), void *arg);

#endif
