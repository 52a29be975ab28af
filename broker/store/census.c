/* census.c - counts what is unfinished, a part of the jobs at a time: there may be many. And how
 * much room the database has. */
#include <stdio.h>
#include <sys/stat.h>

#include "broker/store/private.h"

#define JOBS_OF_STEP 1000 /* some 1 ms */

/* Adds the next jobs: how many there were, or negative. */
static int count_some(struct store *s, struct store_census *c, struct err *e)
{
    sqlite3_stmt *q = store_prepare(s,
        "select count(*), sum(max(accepted - done, 0)), max(job) from (select job, accepted, done "
        "from job indexed by job_unfinished where finished_ms is null and job > ? and job <= ? "
        "order by job limit ?)",
        "iii", c->after, (int64_t)STORE_LAST_JOB, (int64_t)JOBS_OF_STEP);
    int rc = store_step(s, q, e);
    if (rc != 1)
        return rc;
    int n = sqlite3_column_int(q, 0);
    c->jobs += n;
    c->rows += sqlite3_column_int64(q, 1);
    c->after = sqlite3_column_int64(q, 2);
    sqlite3_reset(q);
    return n;
}

int store_census_step(struct store *s, struct store_census *c, struct err *e)
{
    int n = count_some(s, c, e);
    return n < 0 ? n : n < JOBS_OF_STEP;
}

uint64_t store_db_bytes(const struct store *s)
{
    char path[4200];
    struct stat st;
    snprintf(path, sizeof path, "%s/assay.db", s->dir);
    return stat(path, &st) == 0 ? (uint64_t)st.st_size : 0;
}
