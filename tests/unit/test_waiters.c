/* test_waiters.c - requests that wait: answered when their rows are there, when their time is over,
 * when their tick is undone, and when the broker stops; each once. */
#include "tests/unit/waiters_fixture.h"

static void test_results_wait_for_a_row(void **state)
{
    struct scene *s = *state;
    int64_t job = put_job(s->b.store, "k", 0, 3, 5);
    wait_for(s, WAIT_RESULTS, job, 7, FAR);
    waiters_settle(&s->b, NULL);
    assert_int_equal(waiters_tick(&s->b, 1), FAR);
    assert_silence(s);
    finish_some(s->b.store, job, 2, 0);
    assert_int_equal(waiters_tick(&s->b, 2), FAR); /* nobody said that the job changed */
    assert_silence(s);
    waiters_job_changed(&s->b, job + 1);
    waiters_tick(&s->b, 3);
    assert_silence(s);
    waiters_job_changed(&s->b, job);
    assert_true(waiters_tick(&s->b, 4) > FOREVER);
    assert_heard(s, 7, "", 2);
    waiters_job_changed(&s->b, job);
    waiters_tick(&s->b, 5);
    assert_silence(s); /* once */
}

static void test_results_end_empty_when_their_time_is_over(void **state)
{
    struct scene *s = *state;
    int64_t job = put_job(s->b.store, "k", 0, 3, 5);
    wait_for(s, WAIT_RESULTS, job, 1, 500);
    wait_for(s, WAIT_RESULTS, job, 2, 300);
    waiters_settle(&s->b, NULL);
    assert_int_equal(waiters_tick(&s->b, 1), 300);
    assert_int_equal(waiters_tick(&s->b, 299), 300);
    assert_silence(s);
    assert_int_equal(waiters_tick(&s->b, 300), 500);
    assert_heard(s, 2, "", 0);
    assert_true(waiters_tick(&s->b, 501) > FOREVER);
    assert_heard(s, 1, "", 0);
    assert_silence(s);
}

static void test_results_of_a_job_that_is_over_do_not_wait(void **state)
{
    struct scene *s = *state;
    int64_t job = put_job(s->b.store, "k", 0, 2, 5);
    struct request q = {.id = {(const uint8_t *)"\x05", 1}, .after = 100};
    struct answer a;
    finish_some(s->b.store, job, 2, 0);
    waiters_add(&s->b, WAIT_RESULTS, &s->envelope, &q, job, FAR);
    waiters_tick(&s->b, 1);
    assert_int_equal(hear(s, &a), 1);
    assert_int_equal(a.n_rows, 0);
    assert_int_equal(a.done, 1);
}

static void test_score_waits_for_all_rows(void **state)
{
    struct scene *s = *state;
    int64_t job = put_job(s->b.store, "k", 0, 3, 5);
    wait_for(s, WAIT_SCORE, job, 9, FAR);
    finish_some(s->b.store, job, 2, 0);
    waiters_tick(&s->b, 1);
    assert_silence(s);
    finish_some(s->b.store, job, 1, ASSAY_ENONFINITE); /* a failed row is a row */
    waiters_job_changed(&s->b, job);
    waiters_tick(&s->b, 2);
    assert_heard(s, 9, "", 3);
}

static void test_score_times_out_and_its_job_lives_on(void **state)
{
    struct scene *s = *state;
    int64_t job = put_job(s->b.store, "k", 0, 3, 5);
    wait_for(s, WAIT_SCORE, job, 9, 50);
    waiters_tick(&s->b, 49);
    assert_silence(s);
    assert_true(waiters_tick(&s->b, 50) > FOREVER);
    assert_heard(s, 9, "timeout", 0);
    assert_int_equal(job_now(s->b.store, job).state, JOB_QUEUED);
}

static void test_score_of_a_cancelled_job(void **state)
{
    struct scene *s = *state;
    struct err err;
    int64_t job = put_job(s->b.store, "k", 0, 3, 5);
    wait_for(s, WAIT_SCORE, job, 9, FAR);
    waiters_tick(&s->b, 1);
    must(store_begin(s->b.store, &err));
    must(store_cancel(s->b.store, job, &err));
    must(store_commit(s->b.store, &err));
    waiters_job_changed(&s->b, job);
    waiters_tick(&s->b, 2);
    assert_heard(s, 9, "wrong_state", 0);
}

static void test_score_too_large_for_a_message(void **state)
{
    struct scene *s = *state;
    int64_t job = put_job(s->b.store, "k", 0, 300, 5);
    s->b.limits.max_message_bytes = 4096;
    finish_some(s->b.store, job, 300, 0);
    wait_for(s, WAIT_SCORE, job, 9, FAR);
    waiters_tick(&s->b, 1);
    assert_heard(s, 9, "too_large", 0);
    s->b.limits.max_message_bytes = 1 << 20;
    wait_for(s, WAIT_SCORE, job, 9, FAR);
    waiters_tick(&s->b, 2);
    assert_heard(s, 9, "", 300);
}

/* A job that was never there must not make a waiter that no answer ends: with its deadline passed
 * the loop would not sleep again. */
static void test_score_of_a_job_that_is_not_there(void **state)
{
    struct scene *s = *state;
    wait_for(s, WAIT_SCORE, 77, 9, 10);
    assert_true(waiters_tick(&s->b, 1) > FOREVER);
    assert_heard(s, 9, "unknown_job", 0);
}

static void test_an_undone_tick_is_told_to_its_waiters_only(void **state)
{
    struct scene *s = *state;
    struct err why = {.code = ASSAY_EQUEUEFULL, .retry_after_ms = 5000};
    int64_t job = put_job(s->b.store, "k", 0, 3, 5);
    struct answer a;
    wait_for(s, WAIT_RESULTS, job, 1, FAR);
    waiters_settle(&s->b, NULL);
    wait_for(s, WAIT_SCORE, 77, 2, FAR);
    wait_for(s, WAIT_RESULTS, job, 3, FAR);
    waiters_settle(&s->b, &why);
    waiters_settle(&s->b, &why); /* they are gone: nothing more to tell */
    send_replies(&s->b);
    for (int64_t id = 3; id >= 2; id--) {
        assert_int_equal(hear(s, &a), 1);
        assert_int_equal(a.id, id);
        assert_string_equal(a.code, "queue_full");
        assert_int_equal(a.retry, 1);
    }
    assert_silence(s);
    finish_some(s->b.store, job, 1, 0);
    waiters_job_changed(&s->b, job);
    waiters_tick(&s->b, 1);
    assert_heard(s, 1, "", 1);
    assert_silence(s);
}

static void test_a_stopping_broker_answers_all(void **state)
{
    struct scene *s = *state;
    struct answer a;
    int64_t job = put_job(s->b.store, "k", 0, 3, 5);
    wait_for(s, WAIT_SCORE, job, 1, FAR);
    wait_for(s, WAIT_RESULTS, job, 2, FAR);
    s->b.draining = 1;
    waiters_tick(&s->b, 1);
    assert_heard(s, 2, "", 0); /* nothing more will come from this broker */
    assert_silence(s);
    waiters_end(&s->b, NULL);
    send_replies(&s->b);
    assert_int_equal(hear(s, &a), 1);
    assert_int_equal(a.id, 1);
    assert_string_equal(a.code, "not_ready");
    assert_int_equal(a.retry, 1);
    waiters_end(&s->b, NULL);
    send_replies(&s->b);
    assert_silence(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_results_wait_for_a_row, open_scene, close_scene),
        cmocka_unit_test_setup_teardown(
            test_results_end_empty_when_their_time_is_over, open_scene, close_scene),
        cmocka_unit_test_setup_teardown(
            test_results_of_a_job_that_is_over_do_not_wait, open_scene, close_scene),
        cmocka_unit_test_setup_teardown(test_score_waits_for_all_rows, open_scene, close_scene),
        cmocka_unit_test_setup_teardown(
            test_score_times_out_and_its_job_lives_on, open_scene, close_scene),
        cmocka_unit_test_setup_teardown(test_score_of_a_cancelled_job, open_scene, close_scene),
        cmocka_unit_test_setup_teardown(
            test_score_too_large_for_a_message, open_scene, close_scene),
        cmocka_unit_test_setup_teardown(
            test_score_of_a_job_that_is_not_there, open_scene, close_scene),
        cmocka_unit_test_setup_teardown(
            test_an_undone_tick_is_told_to_its_waiters_only, open_scene, close_scene),
        cmocka_unit_test_setup_teardown(
            test_a_stopping_broker_answers_all, open_scene, close_scene),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
