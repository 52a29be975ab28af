/* dedupe_indexes.c - opens and closes the indexes of jobs within their limits
 * (dedupe_indexes.h). */
#include "broker/sched/dedupe_indexes.h"

#include <sodium.h>

#include "broker/sched/dedupe.h"

#define IDLE_INDEXES 512 /* looked at in one call */

void dedupe_indexes_release(struct dedupe_indexes *all)
{
    for (size_t i = 0; i < all->by_job.room; i++)
        dedupe_index_close((struct dedupe_index *[]){all->by_job.at[i].value});
    table_release(&all->by_job);
}

struct dedupe_index *dedupe_indexes_find(const struct dedupe_indexes *all, int64_t job)
{
    return table_find(&all->by_job, job);
}

void dedupe_indexes_close(struct dedupe_indexes *all, int64_t job)
{
    struct dedupe_index *index = dedupe_indexes_find(all, job);
    size_t bytes = dedupe_index_small_bytes(index); /* it may have grown since it was counted */
    all->small_bytes -= bytes < all->small_bytes ? bytes : all->small_bytes;
    dedupe_index_close(&index);
    table_remove(&all->by_job, job);
}

/* Picks a job whose index to close at random: jobs take turns, so with any fixed order the next one
 * to close would be the next one needed. Prefers a small one, which is quickly filled again. */
static int64_t one_to_close(const struct table *t)
{
    size_t first = randombytes_uniform((uint32_t)t->room);
    int64_t large = 0;
    for (size_t k = 0; k < t->room; k++) {
        const struct table_entry *entry = &t->at[(first + k) % t->room];
        if (entry->key != 0 && dedupe_index_small_bytes(entry->value) > 0)
            return entry->key;
        if (large == 0)
            large = entry->key;
    }
    return large;
}

/* Closes indexes while there are too many, or the small ones take too much memory. */
static void limit(struct dedupe_indexes *all)
{
    while (all->by_job.n >= all->most || (all->by_job.n > 0 && all->small_bytes > DEDUPE_BYTES))
        dedupe_indexes_close(all, one_to_close(&all->by_job));
}

struct dedupe_index *dedupe_indexes_open(
    struct dedupe_indexes *all, const struct dedupe_index_options *o)
{
    limit(all);
    struct dedupe_index *index = dedupe_index_open(o);
    table_set(&all->by_job, o->job, index);
    all->small_bytes += dedupe_index_small_bytes(index);
    return index;
}

static void count_bytes(struct dedupe_indexes *all)
{
    all->small_bytes = 0;
    for (size_t i = 0; i < all->by_job.room; i++)
        if (all->by_job.at[i].value)
            all->small_bytes += dedupe_index_small_bytes(all->by_job.at[i].value);
}

/* 1: this job still has work. Negative: the store failed. */
static int is_unfinished(struct store *store, int64_t job, struct err *e)
{
    struct store_job j;
    int rc = store_get_job(store, job, &j, e);
    return rc != 1 ? rc : !j.cancelled && j.finished_ms == 0;
}

int dedupe_indexes_idle(struct dedupe_indexes *all, struct store *store, struct err *e)
{
    count_bytes(all);
    limit(all);
    for (int looked = 0; looked < IDLE_INDEXES && all->idle_at < all->by_job.room;) {
        int64_t job = all->by_job.at[all->idle_at].key;
        int rc = job == 0 ? 1 : is_unfinished(store, job, e);
        if (rc < 0)
            return rc;
        looked += job != 0;
        if (rc == 1)
            all->idle_at++;
        else
            dedupe_indexes_close(all, job); /* another one may be there now */
    }
    if (all->idle_at >= all->by_job.room)
        all->idle_at = 0;
    return 0;
}
