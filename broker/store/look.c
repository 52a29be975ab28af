/* look.c - reads for those who look on: the newest jobs, failed rows. */
#include "broker/store/private.h"

int store_job_below(struct store *s, int64_t job, struct store_job *out, struct err *e)
{
    int64_t below = 0;
    int rc = store_integer(s, 0, &below, e,
        "select job from job where job between 1 and ? order by job desc limit 1", "i", job - 1);
    if (rc != 0 || below == 0)
        return rc;
    if (below >= job)
        return err_set(
            e, ASSAY_EINTERNAL, "table job is out of order before job %lld", (long long)job);
    return store_get_job(s, below, out, e);
}

int store_next_failed(struct store *s, int64_t job, uint32_t *i, struct err *e)
{
    int64_t row = row_id_of(job, *i), block = row >> 6, last = row_last(job) >> 6;
    uint64_t before = ((uint64_t)1 << (row & 63)) - 1;
    for (;; before = 0, block++) {
        sqlite3_stmt *q = store_prepare(s,
            "select block, failed from block indexed by block_failed where failed <> 0 and block "
            ">= ? and block <= ? order by block limit 1",
            "ii", block, last);
        int rc = store_step(s, q, e);
        if (rc != 1)
            return rc;
        int64_t found = sqlite3_column_int64(q, 0);
        uint64_t failed = (uint64_t)sqlite3_column_int64(q, 1);
        sqlite3_reset(q);
        failed &= found == block ? ~before : ~(uint64_t)0;
        block = found;
        if (failed == 0)
            continue;
        *i = row_index((found << 6) + __builtin_ctzll(failed));
        return 1;
    }
}
