/* test_store_adapters.c - rows that name an adapter: which jobs wait for it, and whose results
 * theirs are. */
#include "broker/sched/planner.h"
#include "schema/adapters.h"
#include "tests/unit/store_fixture.h"

/* A list of adapters: pairs of a name and a letter that its digest is made of. */
static struct adapters list_of(const char *const *pairs)
{
    struct adapters a = {0};
    for (; pairs[2 * a.n]; a.n++) {
        snprintf(a.at[a.n].name, sizeof a.at[a.n].name, "%s", pairs[2 * a.n]);
        memset(a.at[a.n].digest, pairs[2 * a.n + 1][0], 64);
    }
    return a;
}
#define LIST(...) list_of((const char *const[]){__VA_ARGS__, NULL, NULL})

static void open_with(struct fixture *f, const struct adapters *a)
{
    struct err err;
    struct store_options options = {
        .reserve_bytes = 1 << 18, .mode = MODE, .digest = DIGEST, .limits = {.adapters = a}};
    store_close(&f->s);
    must(store_open(&f->s, f->dir, &options, &err));
}

/* A job of two rows for each name; "": rows without an adapter. */
static int64_t job_of(struct store *s, const char *key, const char *const *names, uint32_t n)
{
    struct err err;
    int32_t ids[] = {1, 2, 3};
    struct store_row rows[8];
    int64_t job = new_job(s, key, 0);
    for (uint32_t i = 0; i < 2 * n; i++)
        rows[i] = (struct store_row){.ids = ids,
            .n_tokens = 3,
            .pool = {POOL_LAST, ACTIVATION_NONE, POOL_NO_STEP_TOKEN},
            .n_values = 1,
            .adapter = names[i / 2][0] ? slice_of(names[i / 2]) : (struct slice){0}};
    struct store_chunk c = {.job = job, .n_rows = 2 * n, .seal = 1};
    must(store_begin(s, &err));
    assert_int_equal(store_add_chunk(s, &c, &err), CHUNK_IN_ORDER);
    must(add_rows(s, job, rows, 2 * n, &err));
    must(store_commit(s, &err));
    return job;
}
#define JOB(s, key, ...)                                                                           \
    job_of(s, key, (const char *const[]){__VA_ARGS__},                                             \
        sizeof((const char *const[]){__VA_ARGS__}) / sizeof(char *))

static void accept_mode(struct fixture *f, int64_t job)
{
    struct err err;
    must(store_begin(f->s, &err));
    must(store_accept_mode(f->s, job, &err));
    must(store_commit(f->s, &err));
}

/* The state that broker and view give. */
static enum job_state state_of(const struct fixture *f, int64_t job)
{
    char sql[100], out[2 * STORE_REASON_BYTES], expected[2 * STORE_REASON_BYTES];
    struct store_job j = job_now(f->s, job);
    snprintf(sql, sizeof sql, "select state, reason from jobs where job = %d", (int)job);
    snprintf(expected, sizeof expected, "%s|%s\n", j.state == JOB_PAUSED ? "paused" : "queued",
        j.reason);
    assert_string_equal(shell(f, sql, out, sizeof out), expected);
    return j.state;
}

static void a_job_waits_for_the_adapters_that_its_rows_name(void **state)
{
    struct fixture *f = *state;
    struct adapters first = LIST("x", "a", "y", "b"), other = LIST("z", "c", "y", "b", "x", "d"),
                    less = LIST("y", "b");
    open_with(f, &first);
    int64_t base = JOB(f->s, "base", ""), x = JOB(f->s, "x", "", "x"), y = JOB(f->s, "y", "y"),
            both = JOB(f->s, "both", "x", "y");
    assert_int_equal(state_of(f, both), JOB_QUEUED);
    open_with(f, &other);
    assert_int_equal(state_of(f, base), JOB_QUEUED);
    assert_int_equal(state_of(f, y), JOB_QUEUED);
    assert_int_equal(state_of(f, x), JOB_PAUSED);
    assert_string_equal(job_now(f->s, both).reason,
        "made with adapter x (aaaaaaaaaaaa), the broker has x (dddddddddddd)");
    assert_int_equal(put_chunk(f->s, both, 1, 1, 4, 0), ASSAY_ESTATE);
    open_with(f, &less);
    assert_int_equal(state_of(f, y), JOB_QUEUED);
    assert_int_equal(state_of(f, x), JOB_PAUSED);
    assert_string_equal(job_now(f->s, both).reason,
        "made with adapter x (aaaaaaaaaaaa), the broker has none of that name");
    open_with(f, NULL);
    assert_int_equal(state_of(f, y), JOB_PAUSED);
    assert_int_equal(state_of(f, base), JOB_QUEUED);
    open_with(f, &first);
    assert_int_equal(state_of(f, both), JOB_QUEUED);
    assert_int_equal(finish_some(f->s, both, 10, 0), 4);
    open_with(f, &other); /* nothing is left to score */
    assert_int_equal(job_now(f->s, both).state, JOB_DONE);
    assert_true(job_now(f->s, both).made_otherwise);
}

static int n_listed(void *arg, const struct store_job *j)
{
    *(int *)arg += (int)j->job;
    return 0;
}

static void held_jobs_are_listed_as_paused(void **state)
{
    struct fixture *f = *state;
    struct err err;
    struct adapters first = LIST("x", "a");
    int sum = 0;
    open_with(f, &first);
    int64_t x = JOB(f->s, "x", "x");
    JOB(f->s, "base", "");
    open_with(f, NULL);
    must(store_each_job(f->s, &(struct store_job_page){JOBS_PAUSED, 0, 10}, n_listed, &sum, &err));
    assert_int_equal(sum, x);
}

/* Accepted without it, its rows fail, and go on once it is there and they are tried again. */
static void rows_without_their_adapter_fail(void **state)
{
    struct fixture *f = *state;
    struct err err;
    struct adapters first = LIST("x", "a"), later = LIST("y", "b", "x", "c");
    open_with(f, &first);
    int64_t job = JOB(f->s, "job", "", "x");
    open_with(f, NULL);
    accept_mode(f, job);
    assert_int_equal(state_of(f, job), JOB_QUEUED);
    struct row_list list = queued(f->s, job, 0, 10);
    assert_int_equal(list.n, 4);
    assert_int_equal(list.at[1]->found_error, 0);
    assert_int_equal(list.at[2]->found_error, ASSAY_EADAPTER);
    assert_non_null(strstr(list.at[2]->found_message, "found 'x'"));
    must(store_begin(f->s, &err));
    assert_int_equal(finish(f->s, list.at[2], ASSAY_EADAPTER), 1);
    must(store_commit(f->s, &err));
    free_rows(&list);
    open_with(f, &later); /* it is there, but nobody has said that it is meant */
    list = queued(f->s, job, 0, 10);
    assert_int_equal(list.n, 3);
    assert_int_equal(list.at[2]->found_error, ASSAY_EADAPTER);
    free_rows(&list);
    must(store_begin(f->s, &err));
    assert_int_equal(retry_rows(f->s, job), 1);
    must(store_commit(f->s, &err));
    list = queued(f->s, job, 0, 10);
    assert_int_equal(list.n, 4);
    assert_int_equal(list.at[2]->found_error, 0);
    assert_int_equal(store_adapter_of(f->s, list.at[2]->mode), 2);
    assert_int_equal(store_adapter_of(f->s, list.at[0]->mode), 0);
    free_rows(&list);
    open_with(f, &first); /* of that name, but not the one that was accepted last */
    assert_int_equal(state_of(f, job), JOB_PAUSED);
    assert_false(job_now(f->s, job).damaged);
}

/* A result is that of an equal row only if its adapter's contents are the same. */
static void results_belong_to_contents(void **state)
{
    struct fixture *f = *state;
    struct err err;
    float value;
    struct adapters first = LIST("x", "a"), other = LIST("x", "b"),
                    renamed = LIST("q", "d", "y", "a");
    struct store_answer answer = {.n = 1, .values = &value};
    open_with(f, &first);
    int64_t job = JOB(f->s, "job", "x");
    struct row_list before = queued(f->s, job, 0, 10);
    assert_int_equal(finish_some(f->s, job, 1, 0), 1);
    open_with(f, &other);
    assert_int_equal(store_adapter_of(f->s, before.at[0]->mode), ADAPTERS_UNKNOWN);
    accept_mode(f, job);
    struct row_list now = queued(f->s, job, 0, 10);
    assert_int_not_equal(now.at[0]->mode, before.at[0]->mode);
    assert_int_equal(
        store_read_answer(f->s, before.at[0]->row_id, now.at[0]->mode, &answer, &err), 0);
    assert_int_equal(
        store_read_answer(f->s, before.at[0]->row_id, before.at[0]->mode, &answer, &err), 1);
    open_with(f, &renamed);
    assert_int_equal(store_adapter_of(f->s, before.at[0]->mode), 2);
    free_rows(&before);
    free_rows(&now);
}

static void the_list_changes_while_jobs_run(void **state)
{
    struct fixture *f = *state;
    struct err err;
    struct adapters list = {0};
    open_with(f, &list);
    struct adapters with_x = LIST("x", "a");
    for (int round = 0; round < 2; round++) {
        list = with_x;
        must(store_begin(f->s, &err));
        must(store_write_models(f->s, &err));
        must(store_commit(f->s, &err));
        int64_t job = round == 0 ? JOB(f->s, "job", "x") : 1;
        assert_int_equal(state_of(f, job), JOB_QUEUED);
        list.n = 0;
        must(store_begin(f->s, &err));
        must(store_write_models(f->s, &err));
        store_rollback(f->s);
        list = with_x;
        must(store_read_models(f->s, &err));
        assert_int_equal(state_of(f, job), JOB_QUEUED);
        list.n = 0;
        must(store_begin(f->s, &err));
        must(store_write_models(f->s, &err));
        must(store_commit(f->s, &err));
        assert_int_equal(state_of(f, job), JOB_PAUSED);
    }
}

static void change_list(struct fixture *f)
{
    struct err err;
    must(store_begin(f->s, &err));
    must(store_write_models(f->s, &err));
    must(store_commit(f->s, &err));
}

/* A batch that comes back after its adapter went is not given out, and its rows are when the
 * adapter is there again: each once. */
static void lost_batches_wait_for_their_adapter(void **state)
{
    struct fixture *f = *state;
    struct err err;
    struct planner *p;
    struct batch *b = NULL;
    struct planner_limits limits = {.max_tokens = 6,
        .max_rows = 10,
        .max_positions = 100,
        .max_values = 100,
        .slot_tokens = 100};
    struct adapters list = LIST("x", "a", "y", "b"), less = LIST("y", "b"), all = list;
    open_with(f, &list);
    int64_t job = JOB(f->s, "job", "x", "x"), other = JOB(f->s, "other", "y");
    must(store_pause(f->s, other, 1, &err));
    must(planner_new(&p, f->s, &limits, &err));
    assert_int_equal(must(planner_next(p, planner_all(0), 1, &b, &err)), 1);
    assert_int_equal(b->n_rows, 2);
    assert_int_equal(row_job(b->rows[0]->row_id), job);
    list = less;
    change_list(f);
    must(planner_job_changed(p, job, &err));
    assert_int_equal(planner_lost(p, &b, 0), 0);
    assert_int_equal(must(planner_next(p, planner_all(0), 1, &b, &err)), 0);
    list = all;
    change_list(f);
    must(planner_job_changed(p, job, &err));
    for (int round = 0; round < 2; round++) {
        assert_int_equal(must(planner_next(p, planner_all(0), 1, &b, &err)), 1);
        assert_int_equal(b->n_rows, 2);
        for (uint32_t i = 0; i < 2; i++)
            assert_int_equal(row_index(b->rows[i]->row_id), 2 * round + (int)i);
        batch_free(&b);
    }
    assert_int_equal(must(planner_next(p, planner_all(0), 1, &b, &err)), 0);
    planner_free(&p);
}

/* It is held as damaged, all others can be listed, and it can be accepted as it is. */
static void a_damaged_list_is_its_jobs_alone(void **state)
{
    struct fixture *f = *state;
    struct err err;
    char out[200];
    struct adapters first = LIST("x", "a");
    int sum = 0;
    open_with(f, &first);
    int64_t job = JOB(f->s, "job", "x"), other = JOB(f->s, "other", "x");
    store_close(&f->s);
    run_sql(f, "update job set adapters = '{' || char(34) || 'x' where key = 'job'");
    open_with(f, &first);
    assert_true(job_now(f->s, job).damaged);
    must(store_each_job(f->s, &(struct store_job_page){JOBS_PAUSED, 0, 10}, n_listed, &sum, &err));
    assert_int_equal(sum, job);
    assert_int_equal(state_of(f, other), JOB_QUEUED);
    shell(f, "select count(*) from jobs", out, sizeof out);
    assert_string_equal(out, "2\n");
    accept_mode(f, job);
    assert_int_equal(job_now(f->s, job).state, JOB_QUEUED);
    struct row_list list = queued(f->s, job, 0, 10);
    assert_int_equal(list.n, 2);
    assert_int_equal(list.at[0]->found_error, ASSAY_EADAPTER);
    free_rows(&list);
}

/* Version 12 had a hash of all adapters in the mode of every job. */
static void test_upgrade_from_12(void **state)
{
    struct fixture *f = *state;
    struct adapters first = LIST("x", "a", "y", "b");
    open_with(f, &first);
    int64_t job = JOB(f->s, "old", "", "x", "y");
    store_close(&f->s);
    open_mode(f, MODE " lora=2:0123456789abcdef");
    accept_mode(f, job); /* as a broker of version 12 would have made it */
    store_close(&f->s);
    run_sql(f, TO_VERSION_14
        "drop view jobs; update job set adapters = null, sum = null; update meta set value "
        "= 100 where name = 'sums_from'; alter table job drop column adapters; "
        "drop view workers; drop view rows; alter table job drop column model; alter table "
        "worker drop column model; pragma user_version = 12;");
    struct adapters now = LIST("y", "b");
    open_with(f, &now);
    assert_int_equal(job_now(f->s, job).state, JOB_PAUSED);
    accept_mode(f, job);
    assert_int_equal(state_of(f, job), JOB_QUEUED);
    struct row_list list = queued(f->s, job, 0, 10);
    assert_int_equal(list.n, 6);
    assert_int_equal(store_adapter_of(f->s, list.at[0]->mode), 0);
    assert_int_equal(list.at[2]->found_error, ASSAY_EADAPTER);
    assert_int_equal(store_adapter_of(f->s, list.at[4]->mode), 1);
    free_rows(&list);
    open_with(f, NULL);
    assert_int_equal(state_of(f, job), JOB_PAUSED);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(
            a_job_waits_for_the_adapters_that_its_rows_name, setup, teardown),
        cmocka_unit_test_setup_teardown(held_jobs_are_listed_as_paused, setup, teardown),
        cmocka_unit_test_setup_teardown(rows_without_their_adapter_fail, setup, teardown),
        cmocka_unit_test_setup_teardown(results_belong_to_contents, setup, teardown),
        cmocka_unit_test_setup_teardown(the_list_changes_while_jobs_run, setup, teardown),
        cmocka_unit_test_setup_teardown(lost_batches_wait_for_their_adapter, setup, teardown),
        cmocka_unit_test_setup_teardown(a_damaged_list_is_its_jobs_alone, setup, teardown),
        cmocka_unit_test_setup_teardown(test_upgrade_from_12, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
