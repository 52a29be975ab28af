/* dedupe_fixture.h - a job's rows, put into a store one by one, searched for among those that are
 * the same, and answered. */
#ifndef ASSAY_DEDUPE_FIXTURE_H
#define ASSAY_DEDUPE_FIXTURE_H

#include "broker/sched/dedupe.h"
#include "tests/unit/store_fixture.h"

#define TABLES 64 /* that are open at one time */

static inline struct dedupe *open_dedupe(struct fixture *f)
{
    struct dedupe_options options = {
        .digest = "d", .mode = "m", .store = f->s, .data_dir = f->dir, .max_tables = TABLES};
    return dedupe_new(&options);
}

/* As a restart does it. */
static inline void open_all_again(struct fixture *f, struct dedupe **t, const char *mode)
{
    dedupe_free(t);
    store_close(&f->s);
    open_mode(f, mode);
    *t = open_dedupe(f);
}

static inline struct store_row plain(const int32_t *ids, uint32_t n)
{
    return (struct store_row){.ids = ids,
        .n_tokens = n,
        .n_parts = 1,
        .pool = {POOL_LAST, ACTIVATION_NONE, POOL_NO_STEP_TOKEN},
        .n_values = 1};
}

/* One more row of the job, as the planner gets it: of a list, its sequences. */
static inline struct row_list put(struct fixture *f, int64_t job, const struct store_row *row)
{
    struct err err;
    int64_t last = row_id_of(job, (uint32_t)job_now(f->s, job).placed) - 1;
    must(store_begin(f->s, &err));
    must(add_rows(f->s, job, row, 1, &err));
    must(store_commit(f->s, &err));
    return queued(f->s, job, last, 1);
}

static inline int find(struct dedupe *t, struct sequence *r)
{
    struct err err;
    struct sequence *primary;
    int found = DEDUPE_LATER;
    while (found == DEDUPE_LATER) {
        dedupe_reset_budget(t);
        found = must(dedupe_find(t, r, &primary, &err));
    }
    return found;
}

static inline void record(
    struct fixture *f, const struct sequence *r, const struct store_result *result)
{
    struct err err;
    must(store_begin(f->s, &err));
    assert_int_equal(must(store_finish_row(f->s, r, result, &err)), 1);
    must(store_commit(f->s, &err));
}

/* It is new, and is answered so. */
static inline void answer(
    struct fixture *f, struct dedupe *t, struct sequence *r, const struct store_result *a)
{
    assert_int_equal(find(t, r), DEDUPE_NONE);
    dedupe_add_primary(t, r);
    record(f, r, a);
    dedupe_remove_primary(t, r, a->values);
}

static inline void compute(struct fixture *f, struct dedupe *t, int64_t job,
    const struct store_row *row, const float *values)
{
    struct row_list list = put(f, job, row);
    struct store_result result = {.values = values, .n_values = row->n_values};
    answer(f, t, list.at[0], &result);
    free_rows(&list);
}

static inline int is_known(
    struct fixture *f, struct dedupe *t, int64_t job, const struct store_row *row)
{
    struct row_list list = put(f, job, row);
    int known = find(t, list.at[0]) == DEDUPE_KNOWN;
    free_rows(&list);
    return known;
}

static inline void compute_many(struct fixture *f, struct dedupe *t, int64_t job, uint32_t n)
{
    struct err err;
    struct row_list list = queued(f->s, job, 0, n);
    assert_int_equal(list.n, n);
    must(store_begin(f->s, &err));
    for (uint32_t i = 0; i < n; i++) {
        assert_int_equal(find(t, list.at[i]), DEDUPE_NONE);
        dedupe_add_primary(t, list.at[i]);
        assert_int_equal(finish(f->s, list.at[i], 0), 1);
    }
    must(store_commit(f->s, &err));
    for (uint32_t i = 0; i < n; i++)
        dedupe_remove_primary(t, list.at[i], NULL);
    free_rows(&list);
}

/* Row k of the chunk that is put now is row k of the first one again. */
static inline uint32_t count_known(struct fixture *f, struct dedupe *t, int64_t job, uint32_t n)
{
    struct err err;
    uint32_t known = 0;
    int64_t last = row_id_of(job, (uint32_t)job_now(f->s, job).placed) - 1;
    must(store_begin(f->s, &err));
    for (uint32_t k = 0; k < n; k++)
        add_row(f->s, job, 0, k, 5);
    must(store_commit(f->s, &err));
    struct row_list list = queued(f->s, job, last, n);
    for (uint32_t k = 0; k < n; k++)
        known +=
            find(t, list.at[k]) == DEDUPE_KNOWN && list.at[k]->found_values[0] == (float)k + 0.5f;
    assert_int_equal(list.n, n);
    free_rows(&list);
    return known;
}

#endif
