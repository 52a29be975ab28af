/* workers_table.c - keeps the table of workers, which anyone reads by SQL, as the groups are
 * (workers_table.h). */
#include "broker/workers_table.h"

#include <string.h>

#include "broker/transaction.h"
#include "schema/fnv.h"

#define WORKERS_MS 10000 /* between two writes without a change */

static struct store_worker describe(const struct broker *b, int group, uint32_t rank)
{
    uint32_t n;
    const struct group *g = b->groups[group];
    const struct group_rank_info *info = &group_ranks(g, &n)[rank];
    return (struct store_worker){group, (int)rank, group_incarnation(g), info->pid, info->device,
        group_state_name(group_state(g)), b->counters.batches, group_restarts(g),
        (int64_t)info->busy_us, (int64_t)info->up_us, served_of_group(b, group)->info.name};
}

/* Returns a hash of the whole table, except times. */
static uint64_t sum_of_workers(const struct broker *b)
{
    uint64_t sum = FNV_NOTHING;
    uint32_t n = 0;
    for (int g = served_next_group(b, 0); g < b->n_groups; g = served_next_group(b, g + 1))
        for (uint32_t r = (group_ranks(b->groups[g], &n), 0); r < n; r++) {
            struct store_worker w = describe(b, g, r);
            int64_t numbers[] = {
                w.group, w.rank, (int64_t)w.incarnation, w.pid, w.batches, w.restarts};
            sum = fnv_add(sum, numbers, sizeof numbers);
            sum = fnv_add(sum, w.device, strlen(w.device) + 1);
            sum = fnv_add(sum, w.state, strlen(w.state) + 1);
        }
    return sum;
}

static int write_all_workers(struct broker *b, struct err *e)
{
    int rc = transaction_begin(b, e);
    uint32_t n = 0;
    for (int g = served_next_group(b, 0); g < b->n_groups; g = served_next_group(b, g + 1))
        for (uint32_t r = (group_ranks(b->groups[g], &n), 0); rc == 0 && r < n; r++) {
            struct store_worker w = describe(b, g, r);
            rc = store_set_worker(b->store, &w, e);
        }
    return rc;
}

int workers_table_write(struct broker *b, long long now_ms, struct err *e)
{
    uint64_t sum = sum_of_workers(b);
    if (sum == b->workers_sum && now_ms < b->workers_due_ms)
        return 0;
    b->workers_sum = sum;
    b->workers_due_ms = now_ms + WORKERS_MS;
    return write_all_workers(b, e);
}
