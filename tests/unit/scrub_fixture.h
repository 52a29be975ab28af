/* scrub_fixture.h - what a test's database holds, and whether all of it is as written. */
#ifndef ASSAY_SCRUB_FIXTURE_H
#define ASSAY_SCRUB_FIXTURE_H

#include "broker/store/scrub.h"
#include "store_fixture.h"

static inline int64_t number(const struct fixture *f, const char *sql)
{
    char out[200];
    return atoll(shell(f, sql, out, sizeof out));
}

static inline void found_damage(void *arg, const struct scrub_finding *finding)
{
    (void)arg;
    print_error(
        "job %lld, row %lld: %s\n", (long long)finding->job, (long long)finding->i, finding->what);
}

static inline int go_on(void *arg, int64_t done, int64_t total)
{
    (void)arg;
    return total < done;
}

/* How many records are damaged. */
static inline uint64_t damage(const struct fixture *f)
{
    struct err err;
    struct scrub_totals totals;
    must(store_scrub(f->dir, &(struct scrub_caller){found_damage, go_on, NULL}, &totals, &err));
    return totals.damaged;
}

#endif
