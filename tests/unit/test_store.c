/* test_store.c - jobs and rows in the store: their states, and what must not grow with the
 * queue. */
#include "tests/unit/seen_results.h"

#include <sqlite3.h>

#include "broker/store/private.h"

static void test_states(void **state)
{
    struct fixture *f = *state;
    struct err err;
    int64_t job = new_job(f->s, "states", 3), found = 0;
    assert_int_equal(job_now(f->s, job).state, JOB_OPEN);
    assert_int_equal(must(store_find_job(f->s, slice_of("states"), &found, &err)), 1);
    assert_int_equal(found, job);
    assert_int_equal(must(store_find_job(f->s, slice_of("state"), &found, &err)), 0);
    struct store_job none;
    assert_int_equal(must(store_get_job(f->s, job + 1, &none, &err)), 0);
    put_chunk(f->s, job, 0, 4, 4, 1);
    assert_int_equal(job_now(f->s, job).state, JOB_QUEUED);

    struct row_list list = queued(f->s, job, 0, 2);
    struct batch *b = batch_new(2, 0);
    batch_add(b, &list.at[0]);
    batch_add(b, &list.at[1]);
    must(store_begin(f->s, &err));
    must(store_batch_started(f->s, b, 0, 1, &err));
    must(store_commit(f->s, &err));
    assert_true(b->number > 0);
    assert_int_equal(job_now(f->s, job).state, JOB_RUNNING);
    assert_int_equal(job_now(f->s, job).running, 2);
    char out[256];
    assert_string_equal(shell(f, "select state from rows order by i", out, sizeof out),
        "running\nrunning\nqueued\nqueued\n");
    assert_string_equal(
        shell(f, "select state, queued, running, done, total from jobs", out, sizeof out),
        "running|2|2|0|4\n");
    open_again(f); /* running is advisory: a restart forgets it */
    assert_int_equal(job_now(f->s, job).state, JOB_QUEUED);

    must(store_begin(f->s, &err));
    must(store_batch_started(f->s, b, 0, 1, &err));
    finish(f->s, b->rows[0], 0);
    finish(f->s, b->rows[1], 0);
    b->ms = 12;
    must(store_batch_ended(f->s, b, 1, &err));
    must(store_commit(f->s, &err));
    batch_free(&b);
    assert_int_equal(job_now(f->s, job).state, JOB_QUEUED);
    assert_int_equal(job_now(f->s, job).done, 2);
    must(store_pause(f->s, job, 1, &err));
    assert_int_equal(job_now(f->s, job).state, JOB_PAUSED);
    must(store_pause(f->s, job, 0, &err));
    assert_int_equal(finish_some(f->s, job, 9, 0), 2);
    assert_int_equal(job_now(f->s, job).state, JOB_DONE);
    assert_string_equal(
        shell(f, "select rows, tokens, ms from batches where batch > 1", out, sizeof out),
        "2|8|12\n");
}

/* Rows 0 and 2 of one job and 0 of another in the one batch, rows 1 and 3 in the other: the end of
 * the first leaves the second's alone. */
static void test_batches_end_by_themselves(void **state)
{
    struct fixture *f = *state;
    struct err err;
    char out[128];
    int64_t job = put_job(f->s, "a", 0, 4, 4), other = put_job(f->s, "b", 0, 1, 4);
    struct row_list list = queued(f->s, job, 0, 4), others = queued(f->s, other, 0, 1);
    struct batch *first = batch_new(3, 0), *second = batch_new(2, 0);
    batch_add(first, &list.at[2]);
    batch_add(first, &others.at[0]);
    batch_add(first, &list.at[0]);
    batch_add(second, &list.at[1]);
    batch_add(second, &list.at[3]);
    must(store_begin(f->s, &err));
    must(store_batch_started(f->s, first, 0, 1, &err));
    must(store_batch_started(f->s, second, 0, 1, &err));
    must(store_batch_ended(f->s, first, 1, &err));
    must(store_commit(f->s, &err));
    assert_string_equal(shell(f, "select state from rows order by job, i", out, sizeof out),
        "queued\nrunning\nqueued\nrunning\nqueued\n");
    assert_int_equal(job_now(f->s, job).running, 2);
    batch_free(&first);
    batch_free(&second);
}

/* Rows of two jobs in turns, in one transaction: each job has its own cursors and counts. */
static void test_rows_of_two_jobs_in_turns(void **state)
{
    struct fixture *f = *state;
    struct err err;
    char out[128];
    int64_t a = put_job(f->s, "a", 0, 3, 4), b = put_job(f->s, "b", 0, 3, 4);
    struct row_list rows_a = queued(f->s, a, 0, 3), rows_b = queued(f->s, b, 0, 3);
    must(store_begin(f->s, &err));
    for (int k = 2; k >= 0; k--) {
        assert_int_equal(finish(f->s, rows_a.at[k], k == 1 ? ASSAY_ENONFINITE : 0), 1);
        assert_int_equal(finish(f->s, rows_a.at[k], 0), 0); /* once */
        if (k > 0)
            assert_int_equal(finish(f->s, rows_b.at[k], 0), 1);
    }
    must(store_commit(f->s, &err));
    assert_int_equal(job_now(f->s, a).state, JOB_DONE);
    assert_int_equal(job_now(f->s, a).failed, 1);
    assert_int_equal(job_now(f->s, b).done, 2);
    assert_int_equal(store_queued_bytes(f->s), 4 * sizeof(int32_t));
    assert_string_equal(
        shell(f, "select job, cursor, i from results order by job, cursor", out, sizeof out),
        "1|1|2\n1|2|1\n1|3|0\n2|1|2\n2|2|1\n");
    assert_string_equal(
        shell(f, "select sum(rows), sum(tokens) from throughput", out, sizeof out), "5|20\n");
    must(store_begin(f->s, &err));
    assert_int_equal(finish(f->s, rows_b.at[0], 0), 1);
    store_rollback(f->s); /* neither the row nor its count */
    assert_int_equal(job_now(f->s, b).done, 2);
    assert_int_equal(finish_some(f->s, b, 9, 0), 1);
    assert_int_equal(job_now(f->s, b).state, JOB_DONE);
    free_rows(&rows_a);
    free_rows(&rows_b);
}

static void test_cancel_ends_rows(void **state)
{
    struct fixture *f = *state;
    struct err err;
    int64_t job = put_job(f->s, "cancelled", 0, 5, 4);
    finish_some(f->s, job, 2, 0);
    struct row_list list = queued(f->s, job, 0, 10);
    must(store_begin(f->s, &err));
    must(store_cancel(f->s, job, &err));
    assert_int_equal(finish(f->s, list.at[0], 0), 0); /* a late result is dropped */
    must(store_commit(f->s, &err));
    free_rows(&list);
    assert_int_equal(job_now(f->s, job).state, JOB_CANCELLED);
    assert_int_equal(put_chunk(f->s, job, 1, 1, 4, 0), ASSAY_ESTATE);
    char out[256];
    assert_string_equal(shell(f, "select state from rows order by i", out, sizeof out),
        "done\ndone\ncancelled\ncancelled\ncancelled\n");
    assert_string_equal(
        shell(f, "select done, queued, cancelled from jobs", out, sizeof out), "2|0|3\n");
}

static void test_retry(void **state)
{
    struct fixture *f = *state;
    struct err err;
    int64_t job = put_job(f->s, "retry", 0, 6, 4), n = 0;
    finish_some(f->s, job, 2, 0);
    finish_some(f->s, job, 3, ASSAY_EKILLED);
    finish_some(f->s, job, 1, 0);
    assert_int_equal(job_now(f->s, job).state, JOB_DONE);
    struct seen seen = {0};
    must(store_each_result(f->s, &(struct store_page){job, 0, 100}, see, &seen, &err));
    assert_int_equal(seen.n, 6);
    must(store_begin(f->s, &err));
    n = retry_rows(f->s, job);
    must(store_commit(f->s, &err));
    assert_int_equal(n, 3);
    struct store_job now = job_now(f->s, job);
    assert_int_equal(now.state, JOB_QUEUED);
    assert_int_equal(now.done, 3);
    assert_int_equal(now.failed, 0);
    assert_int_equal(now.finished_ms, 0);
    assert_int_equal(finish_some(f->s, job, 10, 0), 3);
    must(store_each_result(f->s, &(struct store_page){job, seen.cursor, 100}, see, &seen, &err));
    assert_int_equal(seen.n, 9); /* the three came back, at later cursors */
    assert_int_equal(job_now(f->s, job).state, JOB_DONE);
    struct seen all = {0};
    must(store_each_result(f->s, &(struct store_page){job, 0, 100}, see, &all, &err));
    assert_int_equal(all.n, 6);
    must(store_begin(f->s, &err));
    n = retry_rows(f->s, job);
    must(store_commit(f->s, &err));
    assert_int_equal(n, 0);
}

static int count_job(void *arg, const struct store_job *job)
{
    (void)job;
    ++*(int *)arg;
    return 0;
}

static void each_job(struct fixture *f, enum store_jobs set, int64_t after, uint32_t limit,
    store_job_visitor *visit, void *arg)
{
    struct err err;
    must(store_each_job(f->s, &(struct store_job_page){set, after, limit}, visit, arg, &err));
}

static void test_each_job(void **state)
{
    struct fixture *f = *state;
    int64_t done = put_job(f->s, "a", 0, 1, 4), open = put_job(f->s, "b", 0, 1, 4);
    finish_some(f->s, done, 1, 0);
    int all = 0, unfinished = 0, after = 0, limited = 0;
    each_job(f, JOBS_ALL, 0, 100, count_job, &all);
    each_job(f, JOBS_UNFINISHED, 0, 100, count_job, &unfinished);
    each_job(f, JOBS_ALL, open, 100, count_job, &after);
    each_job(f, JOBS_ALL, 0, 1, count_job, &limited);
    assert_int_equal(all, 2);
    assert_int_equal(unfinished, 1);
    assert_int_equal(after, 0);
    assert_int_equal(limited, 1);
}

static void test_other_mode_is_held(void **state)
{
    struct fixture *f = *state;
    struct err err;
    int64_t job = put_job(f->s, "held", 0, 3, 4), done = put_job(f->s, "done before", 0, 1, 4);
    finish_some(f->s, done, 1, 0);
    store_close(&f->s);
    open_mode(f, "device=cpu dtype=f32 tp=2");
    struct store_job now = job_now(f->s, job);
    assert_int_equal(now.held, 1);
    assert_int_equal(now.state, JOB_PAUSED);
    assert_non_null(strstr(now.reason, "tp=1"));
    assert_non_null(strstr(now.reason, "tp=2"));
    assert_non_null(strstr(now.reason, "0123456789ab"));
    assert_int_equal(job_now(f->s, done).state, JOB_DONE); /* nothing left to hold */
    char out[512];
    assert_non_null(
        strstr(shell(f, "select reason from jobs where key = 'held'", out, sizeof out), "tp=2"));
    must(store_accept_mode(f->s, job, &err));
    now = job_now(f->s, job);
    assert_int_equal(now.held, 0);
    assert_string_equal(now.reason, "");
    assert_int_equal(now.state, JOB_QUEUED);
    open_again(f);
    assert_int_equal(job_now(f->s, job).held, 1); /* it is the other's now */
}

/* ---- what must not grow with the queue ---- */

static int count_steps(void *arg)
{
    ++*(int *)arg;
    return 0;
}

/* Instructions of SQLite's machine, in hundreds, from here to end_counting. */
static void begin_counting(struct fixture *f, int *hundreds)
{
    *hundreds = 0;
    sqlite3_progress_handler(f->s->db, 100, count_steps, hundreds);
}

static int end_counting(struct fixture *f, const int *hundreds)
{
    sqlite3_progress_handler(f->s->db, 0, NULL, NULL);
    return *hundreds * 100;
}

static int64_t job_with_failed_rows(struct fixture *f, const char *key, uint32_t n, uint32_t failed)
{
    struct err err;
    int64_t job = put_job(f->s, key, 0, n, 4);
    struct row_list list = queued(f->s, job, 0, n);
    must(store_begin(f->s, &err));
    for (uint32_t i = 0; i < n; i++)
        finish(f->s, list.at[i], i < failed ? ASSAY_ENONFINITE : 0);
    must(store_commit(f->s, &err));
    free_rows(&list);
    return job;
}

/* A retry looks at the rows that failed and at no other. */
static void test_retry_of_a_few_among_many(void **state)
{
    struct fixture *f = *state;
    struct err err;
    int64_t job = job_with_failed_rows(f, "many", 3000, 3), n = 0;
    int hundreds;
    must(store_begin(f->s, &err));
    begin_counting(f, &hundreds);
    n = retry_rows(f->s, job);
    assert_in_range(end_counting(f, &hundreds), 0, 2000);
    must(store_commit(f->s, &err));
    assert_int_equal(n, 3);
    assert_int_equal(job_now(f->s, job).done, 2997);
    assert_int_equal(finish_some(f->s, job, 10, 0), 3);
    assert_int_equal(job_now(f->s, job).state, JOB_DONE);
}

/* A retry that has no time goes on block by block, each in a transaction of its own; what failed
 * again meanwhile is not retried twice. */
static void test_retry_in_parts(void **state)
{
    struct fixture *f = *state;
    struct err err;
    struct store_retried retried = {0};
    int64_t job = put_job(f->s, "many", 0, 200, 4);
    int more = 1, parts = 0;
    assert_int_equal(finish_some(f->s, job, 200, ASSAY_ENONFINITE), 200);
    for (; more == 1; parts++) {
        must(store_begin(f->s, &err));
        more = must(store_retry(f->s, job, 0, &retried, &err));
        must(store_commit(f->s, &err));
        assert_int_equal(job_now(f->s, job).failed, 200 - retried.rows + parts);
        if (more == 1)
            assert_int_equal(finish_some(f->s, job, 1, ASSAY_ENONFINITE), 1);
    }
    assert_true(parts > 3);
    assert_int_equal(retried.rows, 200);
    assert_int_equal(retried.kept, 0);
    assert_int_equal(finish_some(f->s, job, 200, 0), 200 - (parts - 1));
}

static int see_job(void *arg, const struct store_job *j)
{
    int64_t *jobs = arg;
    jobs[1 + jobs[0]++] = j->job;
    return 0;
}

/* Neither do jobs that are over cost anything when the unfinished ones are looked for. */
static void test_unfinished_among_many(void **state)
{
    struct fixture *f = *state;
    int64_t seen[8] = {0}, first = put_job(f->s, "first", 0, 1, 4);
    char key[16];
    int hundreds;
    for (int k = 0; k < 400; k++) {
        snprintf(key, sizeof key, "k%d", k);
        put_chunk(f->s, new_job(f->s, key, 0), 0, 0, 0, 1);
    }
    int64_t last = put_job(f->s, "last", 0, 1, 4);
    begin_counting(f, &hundreds);
    each_job(f, JOBS_UNFINISHED, 0, 1000, see_job, seen);
    assert_in_range(end_counting(f, &hundreds), 0, 1000);
    assert_int_equal(seen[0], 2);
    assert_int_equal(seen[1], first);
    assert_int_equal(seen[2], last);
}

struct jobs_in_state {
    enum job_state state;
    uint32_t n;
    int64_t jobs[300];
};

static int list_job(void *arg, const struct store_job *j)
{
    struct jobs_in_state *list = arg;
    if (j->state == list->state)
        list->jobs[list->n++] = j->job;
    return 0;
}

/* Job k of 240, in one of eight ways. */
static void put_in_state(struct fixture *f, int k)
{
    struct err err;
    struct batch batch = {.number = 0};
    char key[16];
    snprintf(key, sizeof key, "k%d", k);
    int64_t job = new_job(f->s, key, 0);
    put_chunk(f->s, job, 0, 2, 4, k % 8 != 0);
    struct row_list list = queued(f->s, job, 0, 2);
    batch.rows = list.at;
    batch.n_rows = 2;
    must(store_begin(f->s, &err));
    if (k % 8 == 2 || k % 8 == 3)
        must(store_pause(f->s, job, 1, &err));
    if (k % 8 == 4 || k % 8 == 5)
        must(store_cancel(f->s, job, &err));
    if (k % 8 == 6)
        must(store_batch_started(f->s, &batch, 0, 1, &err));
    must(store_commit(f->s, &err));
    free_rows(&list);
    if (k % 8 == 3 || k % 8 == 5 ||
        k % 8 == 7) /* paused ones too; of cancelled ones it is dropped */
        finish_some(f->s, job, k % 8 == 5 ? 0 : 2, 0);
}

/* By its set a state has the jobs that it has among all. */
static void test_jobs_of_a_state(void **state)
{
    struct fixture *f = *state;
    static const uint32_t wanted[][6] = {{30, 30, 30, 60, 30, 60}, {0, 0, 0, 150, 30, 60}};
    for (int k = 0; k < 240; k++)
        put_in_state(f, k);
    for (int other = 0; other < 2; other++) {
        for (int i = JOB_OPEN; i <= JOB_CANCELLED; i++) {
            struct jobs_in_state all = {.state = (enum job_state)i}, set = all;
            each_job(f, JOBS_ALL, 0, 1000, list_job, &all);
            each_job(f, store_jobs_of((enum job_state)i), 0, 1000, list_job, &set);
            assert_int_equal(all.n, wanted[other][i]);
            assert_memory_equal(&all, &set, sizeof all);
        }
        store_close(&f->s);
        open_mode(f, "another mode"); /* in which those that are unfinished are held */
    }
}

/* A few of a state among many others are found without a look at those. */
static void test_a_few_of_a_state_among_many(void **state)
{
    struct fixture *f = *state;
    static const enum store_jobs sets[] = {JOBS_PAUSED, JOBS_CANCELLED, JOBS_HELD};
    char key[16];
    int hundreds;
    for (int k = 0; k < 400; k++) {
        snprintf(key, sizeof key, "k%d", k);
        put_chunk(f->s, new_job(f->s, key, 0), 0, 0, 0, 1);
    }
    for (size_t i = 0; i < sizeof sets / sizeof *sets; i++) {
        int64_t seen[8] = {0};
        begin_counting(f, &hundreds);
        each_job(f, sets[i], 0, 1000, see_job, seen);
        assert_in_range(end_counting(f, &hundreds), 0, 500);
        assert_int_equal(seen[0], 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_states, setup, teardown),
        cmocka_unit_test_setup_teardown(test_batches_end_by_themselves, setup, teardown),
        cmocka_unit_test_setup_teardown(test_rows_of_two_jobs_in_turns, setup, teardown),
        cmocka_unit_test_setup_teardown(test_cancel_ends_rows, setup, teardown),
        cmocka_unit_test_setup_teardown(test_retry, setup, teardown),
        cmocka_unit_test_setup_teardown(test_each_job, setup, teardown),
        cmocka_unit_test_setup_teardown(test_other_mode_is_held, setup, teardown),
        cmocka_unit_test_setup_teardown(test_retry_in_parts, setup, teardown),
        cmocka_unit_test_setup_teardown(test_retry_of_a_few_among_many, setup, teardown),
        cmocka_unit_test_setup_teardown(test_unfinished_among_many, setup, teardown),
        cmocka_unit_test_setup_teardown(test_jobs_of_a_state, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_few_of_a_state_among_many, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
