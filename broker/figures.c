/* figures.c - see figures.h. */
#include "broker/figures.h"

#include <stdio.h>
#include <unistd.h>

void figures_tick(struct broker *b)
{
    struct err ignored;
    int rc = store_census_step(b->store, &b->counting, &ignored);
    if (rc == 1)
        b->unfinished = b->counting;
    if (rc != 0)
        b->counting = (struct store_census){0};
}

int64_t figures_memory(int pid)
{
    char path[40];
    long long pages = 0;
    snprintf(path, sizeof path, "/proc/%d/statm", pid);
    FILE *f = pid > 0 ? fopen(path, "re") : NULL;
    if (!f)
        return 0;
    if (fscanf(f, "%*d %lld", &pages) != 1)
        pages = 0;
    fclose(f);
    return pages * sysconf(_SC_PAGESIZE);
}

static void write_waits(const struct planner_waits *waits, struct msg_writer *w)
{
    uint64_t count = 0;
    for (int k = 0; k <= PLANNER_WAIT_BOUNDS; k++)
        count += waits->n[k];
    msg_str(w, "waits");
    msg_map(w, 3);
    msg_key_int(w, "count", (int64_t)count);
    msg_key_int(w, "sum_us", (int64_t)waits->sum_us);
    msg_str(w, "up_to_ms");
    msg_array(w, PLANNER_WAIT_BOUNDS);
    for (int k = 0; k < PLANNER_WAIT_BOUNDS; k++) {
        msg_array(w, 2);
        msg_int(w, planner_wait_bounds_ms[k]);
        msg_int(w, (int64_t)waits->n[k]);
    }
}

void figures_write(const struct broker *b, struct msg_writer *w)
{
    msg_key_int(w, "unfinished_jobs", b->unfinished.jobs);
    msg_key_int(w, "unfinished_rows", b->unfinished.rows);
    msg_key_int(w, "longest_wait_ms", planner_longest_wait_us(b->planner) / 1000);
    write_waits(planner_waits(b->planner), w);
    msg_key_int(w, "db_bytes", (int64_t)store_db_bytes(b->store));
    msg_key_int(w, "disk_free_bytes", store_free_bytes(b->store));
    msg_key_int(w, "memory_bytes", figures_memory(getpid()));
}
