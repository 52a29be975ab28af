/* test_purge.c - jobs that are purged: gone at once, their rows bit by bit, over restarts, and the
 * file smaller in the end. */
#include "store_fixture.h"

#define ALWAYS INT64_MAX

static struct store_purged purge(struct store *s, int64_t job, int64_t before_ms)
{
    struct err err;
    struct store_purged out;
    must(store_begin(s, &err));
    must(store_purge(s, job, before_ms, &out, &err));
    must(store_commit(s, &err));
    return out;
}

/* One step of the least size; 0 when there is nothing left. */
static int step(struct store *s)
{
    struct err err;
    if (!must(store_purge_waits(s, &err)))
        return 0;
    must(store_begin(s, &err));
    must(store_purge_step(s, 0, &err));
    must(store_commit(s, &err));
    return 1;
}

static int64_t number(const struct fixture *f, const char *sql)
{
    char out[200];
    return atoll(shell(f, sql, out, sizeof out));
}

static int64_t done_job(struct store *s, const char *key, uint32_t n_rows, uint32_t len)
{
    int64_t job = put_job(s, key, 0, n_rows, len);
    while (finish_some(s, job, 1000, 0) > 0)
        ;
    assert_int_equal(job_now(s, job).state, JOB_DONE);
    return job;
}

static void gone_at_once(void **state)
{
    struct fixture *f = *state;
    struct err err;
    struct store_job j;
    int64_t found;
    int64_t kept = done_job(f->s, "kept", 5, 10), job = done_job(f->s, "old", 30, 10);
    struct store_purged out = purge(f->s, job, ALWAYS);
    assert_int_equal(out.jobs, 1);
    assert_int_equal(out.rows, 30);
    assert_false(out.more);
    assert_int_equal(store_get_job(f->s, job, &j, &err), 0);
    assert_int_equal(store_find_job(f->s, slice_of("old"), &found, &err), 0);
    assert_int_equal(number(f, "select count(*) from row"), 35); /* still there, unseen */
    static const char *const views[] = {"jobs", "rows", "results", "errors"};
    for (size_t i = 0; i < 4; i++) {
        char sql[80];
        snprintf(sql, sizeof sql, "select count(*) from %s where job = %d", views[i], (int)job);
        assert_int_equal(number(f, sql), 0);
    }
    int64_t again = done_job(f->s, "old", 3, 10);
    assert_true(again > job);
    while (step(f->s))
        ;
    assert_int_equal(number(f, "select count(*) from row"), 8);
    assert_int_equal(number(f, "select count(*) from row_input"), 8);
    assert_int_equal(number(f, "select count(*) from chunk"), 2);
    assert_int_equal(number(f, "select sum(score) from results where i < 3"), 9);
    assert_int_equal(job_now(f->s, kept).done, 5);
}

static void the_file_shrinks_over_restarts(void **state)
{
    struct fixture *f = *state;
    char out[200];
    int64_t job = done_job(f->s, "large", 2000, 2000);
    done_job(f->s, "kept", 20, 2000);
    open_again(f);
    int64_t before = number(f, "pragma page_count");
    assert_true(before * number(f, "pragma page_size") > 4000000);
    purge(f->s, job, ALWAYS);
    int n = 0, opened = 0;
    for (; step(f->s); n++)
        if (n % 10 == 9) { /* deleting takes 125 steps, each page that is given back one more */
            open_again(f);
            opened++;
        }
    assert_true(opened >= 4);
    open_again(f);
    assert_int_equal(number(f, "select count(*) from row_input"), 20);
    assert_int_equal(number(f, "select count(*) from result"), 20);
    assert_int_equal(number(f, "select count(*) from purge"), 0);
    assert_int_equal(number(f, "pragma freelist_count"), 0);
    assert_true(number(f, "pragma page_count") < before / 10);
    assert_string_equal(shell(f, "pragma integrity_check", out, sizeof out), "ok\n");
}

static void only_what_is_over_and_old(void **state)
{
    struct fixture *f = *state;
    struct err err;
    int64_t open = new_job(f->s, "open", 0), queued_job = put_job(f->s, "queued", 0, 3, 5);
    int64_t done = done_job(f->s, "done", 3, 5), cancelled = new_job(f->s, "cancelled", 0);
    put_chunk(f->s, cancelled, 0, 4, 5, 0);
    put_chunk(f->s, cancelled, 2, 4, 5, 1); /* past a gap */
    struct row_list running = queued(f->s, cancelled, 0, 2);
    must(store_begin(f->s, &err));
    must(store_cancel(f->s, cancelled, &err));
    must(store_commit(f->s, &err));
    int64_t finished_ms = job_now(f->s, done).finished_ms;
    assert_int_equal(purge(f->s, 0, finished_ms - 1).jobs, 0);
    assert_int_equal(purge(f->s, queued_job, ALWAYS).jobs, 0);
    struct store_purged out = purge(f->s, 0, ALWAYS);
    assert_int_equal(out.jobs, 2);
    assert_int_equal(out.rows, 11);
    assert_int_equal(job_now(f->s, open).state, JOB_OPEN);
    assert_int_equal(job_now(f->s, queued_job).state, JOB_QUEUED);
    must(store_begin(f->s, &err)); /* a group had some of them when it was cancelled */
    assert_int_equal(finish(f->s, running.at[0], 0), 0);
    must(store_commit(f->s, &err));
    while (step(f->s))
        ;
    must(store_begin(f->s, &err));
    assert_int_equal(finish(f->s, running.at[1], 0), 0);
    must(store_commit(f->s, &err));
    free_rows(&running);
    assert_int_equal(number(f, "select count(*) from row"), 3);
    assert_int_equal(number(f, "select count(*) from result"), 0);
    assert_int_equal(number(f, "select count(*) from chunk"), 1);
    assert_int_equal(store_queued_bytes(f->s), 3 * 5 * 4);
}

static void numbers_are_not_given_again(void **state)
{
    struct fixture *f = *state;
    int64_t first = done_job(f->s, "a", 2, 5), last = done_job(f->s, "b", 2, 5);
    purge(f->s, last, ALWAYS);
    while (step(f->s))
        ;
    purge(f->s, first, ALWAYS);
    open_again(f);
    assert_true(done_job(f->s, "a", 2, 5) > last);
    assert_int_equal(number(f, "select count(*) from results"), 2);
}

static void so_many_at_once(void **state)
{
    struct fixture *f = *state;
    struct err err;
    must(store_begin(f->s, &err));
    for (int k = 0; k < STORE_PURGE_JOBS + 5; k++) {
        char key[16];
        int64_t job = 0;
        snprintf(key, sizeof key, "k%d", k);
        must(store_new_job(f->s, slice_of(key), 0, (struct slice){0}, &job, &err));
        assert_int_equal(add_chunk(f->s, job, 0, 0, 0, 1), CHUNK_IN_ORDER);
    }
    must(store_commit(f->s, &err));
    struct store_purged out = purge(f->s, 0, ALWAYS);
    assert_int_equal(out.jobs, STORE_PURGE_JOBS);
    assert_true(out.more);
    out = purge(f->s, 0, ALWAYS);
    assert_int_equal(out.jobs, 5);
    assert_false(out.more);
    while (step(f->s))
        ;
    assert_int_equal(number(f, "select count(*) from chunk"), 0);
}

static int over(struct store *s, int is_ephemeral, int64_t before_ms, int64_t jobs[8])
{
    struct err err;
    return must(store_over(s, is_ephemeral, before_ms, jobs, 8, &err));
}

static void set_ephemeral(struct store *s, int64_t job, int is)
{
    struct err err;
    must(store_begin(s, &err));
    must(store_set_ephemeral(s, job, is, &err));
    must(store_commit(s, &err));
}

static void those_that_are_over_are_found(void **state)
{
    struct fixture *f = *state;
    int64_t jobs[8], queued_job = put_job(f->s, "queued", 0, 3, 5);
    int64_t first = done_job(f->s, "first", 2, 5), then = done_job(f->s, "then", 2, 5);
    int64_t over_ms = job_now(f->s, then).finished_ms;
    assert_int_equal(over(f->s, 0, job_now(f->s, first).finished_ms - 1, jobs), 0);
    assert_int_equal(over(f->s, 0, over_ms, jobs), 2);
    assert_true(
        (jobs[0] == first && jobs[1] == then) || over_ms == job_now(f->s, first).finished_ms);
    assert_int_equal(over(f->s, 1, ALWAYS, jobs), 0);
    set_ephemeral(f->s, queued_job, 1); /* not before it is over */
    set_ephemeral(f->s, then, 1);
    assert_int_equal(over(f->s, 1, over_ms - 1, jobs), 0);
    assert_int_equal(over(f->s, 1, ALWAYS, jobs), 1);
    assert_int_equal(jobs[0], then);
    open_again(f);
    assert_int_equal(over(f->s, 1, ALWAYS, jobs), 1);
    set_ephemeral(f->s, then, 0);
    assert_int_equal(over(f->s, 1, ALWAYS, jobs), 0);
    set_ephemeral(f->s, then, 1);
    purge(f->s, then, ALWAYS);
    assert_int_equal(number(f, "select count(*) from ephemeral"), 1); /* the queued one */
    assert_int_equal(job_now(f->s, first).done, 2);
}

/* Of two jobs whose rows are not deleted yet, a purge of one counts its own rows only. */
static void a_purge_leaves_those_before_alone(void **state)
{
    struct fixture *f = *state;
    int64_t a = done_job(f->s, "a", 2, 5), b = done_job(f->s, "b", 3, 5);
    assert_int_equal(purge(f->s, a, ALWAYS).rows, 2);
    struct store_purged out = purge(f->s, b, ALWAYS);
    assert_int_equal(out.jobs, 1);
    assert_int_equal(out.rows, 3);
    assert_int_equal(purge(f->s, b, ALWAYS).jobs, 0);
}

static void old_batches_go(void **state)
{
    struct fixture *f = *state;
    char sql[400];
    snprintf(sql, sizeof sql,
        "with recursive n(i) as (select 1 union all select i + 1 from n where i < %d) "
        "insert into batch select i, 0, 1, 1, 1, 1, 1, 1 from n;",
        STORE_BATCHES + 3);
    store_close(&f->s);
    run_sql(f, sql);
    open_mode(f, MODE);
    struct err err;
    struct batch none = {0};
    for (int i = 0; i < 3; i++) {
        must(store_begin(f->s, &err));
        must(store_batch_started(f->s, &none, 0, 1, &err));
        must(store_commit(f->s, &err));
    }
    assert_int_equal(number(f, "select count(*) from batch"), STORE_BATCHES);
    assert_int_equal(number(f, "select max(batch) from batch"), STORE_BATCHES + 6);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(gone_at_once, setup, teardown),
        cmocka_unit_test_setup_teardown(the_file_shrinks_over_restarts, setup, teardown),
        cmocka_unit_test_setup_teardown(only_what_is_over_and_old, setup, teardown),
        cmocka_unit_test_setup_teardown(numbers_are_not_given_again, setup, teardown),
        cmocka_unit_test_setup_teardown(so_many_at_once, setup, teardown),
        cmocka_unit_test_setup_teardown(those_that_are_over_are_found, setup, teardown),
        cmocka_unit_test_setup_teardown(a_purge_leaves_those_before_alone, setup, teardown),
        cmocka_unit_test_setup_teardown(old_batches_go, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
