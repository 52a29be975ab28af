/* test_waiters_many.c - many requests that wait: they are bounded, keep nobody out, and are
 * answered bit by bit while deadlines are kept; those of a client that has gone go. */
#include "tests/unit/waiters_fixture.h"

static void test_a_client_that_has_gone_harms_nobody(void **state)
{
    struct scene *s = *state;
    int64_t job = put_job(s->b.store, "k", 0, 1, 5);
    struct envelope gone = {0};
    struct request q = {.id = {(const uint8_t *)"\x01", 1}};
    assert_int_equal(envelope_add(&gone, "nobody", 6), 0);
    finish_some(s->b.store, job, 1, 0);
    wait_for(s, WAIT_SCORE, job, 2, FAR);
    waiters_add(&s->b, WAIT_SCORE, &gone, &q, job, FAR);
    assert_true(waiters_tick(&s->b, 1) > FOREVER);
    assert_heard(s, 2, "", 1);
    assert_silence(s);
}

/* As many as this connection gets places for; returns how many. */
static int fill(struct scene *s, uint64_t connection, enum waiter_kind kind, int most)
{
    struct err e = {0};
    int n = 0;
    s->envelope.connection = connection;
    for (; n < most && waiters_make_room(&s->b, &s->envelope, &e) == 0; n++) {
        wait_for(s, kind, 1, (uint8_t)connection, FAR);
        waiters_settle(&s->b, NULL);
    }
    send_replies(&s->b);
    assert_true(n == most || (e.code == ASSAY_EQUEUEFULL && e.retry_after_ms > 0));
    return n;
}

static void test_waiters_are_bounded(void **state)
{
    struct scene *s = *state;
    int of_first = fill(s, 1, WAIT_RESULTS, 1000000);
    assert_in_range(of_first, 1000, 50000);
    for (uint64_t other = 2; other < 30; other++)
        fill(s, other, WAIT_RESULTS, 1000);
    assert_in_range(waiters_count(&s->b), of_first + 1000, 50000);
    for (uint64_t other = 30; other < 37; other++)
        fill(s, other, WAIT_RESULTS, of_first);
    assert_int_equal(waiters_count(&s->b), 100000);
}

/* When all places are taken, who has few gets one of who has most, and that is answered: `results`
 * as if its time were over, `score` that the job lives on. */
static void test_nobody_is_kept_out_by_others(void **state)
{
    struct scene *s = *state;
    struct answer a;
    int of_first = fill(s, 1, WAIT_RESULTS, 1000000), all = 5 * of_first;
    assert_int_equal(put_job(s->b.store, "k", 0, 3, 5), 1);
    for (uint64_t other = 2; other <= 5; other++)
        assert_int_equal(fill(s, other, WAIT_SCORE, of_first), of_first);
    for (int i = 0; i < 100; i++) {
        assert_int_equal(fill(s, 99, WAIT_RESULTS, 1), 1);
        assert_int_equal(waiters_count(&s->b), all);
        assert_int_equal(hear(s, &a), 1);
        assert_true(a.id >= 1 && a.id < 99);
        assert_true(a.ok ? a.n_rows == 0 && !a.done : strcmp(a.code, "timeout") == 0);
    }
    assert_silence(s);
}

static void test_waiters_of_a_connection_that_has_gone_go(void **state)
{
    struct scene *s = *state;
    fill(s, 0, WAIT_RESULTS, 10); /* not known: it may be there */
    fill(s, (uint64_t)7 << 32 | 7, WAIT_RESULTS, 1000);
    waiters_let_go(&s->b);
    assert_int_equal(waiters_count(&s->b), 10);
    assert_int_equal(fill(s, 1, WAIT_RESULTS, 1000), 1000); /* the lists are whole */
    waiters_let_go(&s->b);
    assert_int_equal(waiters_count(&s->b), 10);
    assert_silence(s);
}

/* A thousand that are due at once: some a tick, each once, and who came first is not behind who
 * comes later. */
static void test_many_are_answered_bit_by_bit(void **state)
{
    enum { N = 1000, LATER = 500 };
    struct scene *s = *state;
    struct answer a;
    int64_t job = put_job(s->b.store, "k", 0, 3, 5);
    int heard[2] = {0}, ticks = 0, most = 0;
    finish_some(s->b.store, job, 1, 0);
    for (int i = 0; i < N; i++)
        wait_for(s, WAIT_RESULTS, job, 1, FAR);
    waiters_settle(&s->b, NULL);
    for (int n; heard[0] + heard[1] < N + LATER; ticks++) {
        assert_in_range(ticks, 0, N);
        long long next = waiters_tick(&s->b, 1);
        for (n = 0; heard[0] + heard[1] + n < N + LATER && hear_within(s, &a, 50) == 1; n++)
            if (heard[0] + n < N)
                assert_int_equal(a.id, 1); /* the first ones */
        for (int i = 0; i < n; i++)
            heard[heard[0] == N]++;
        most = n > most ? n : most;
        assert_true(heard[0] + heard[1] == N + LATER ? next > FOREVER : next == 1);
        if (ticks < 5)
            for (int i = 0; i < LATER / 5; i++)
                wait_for(s, WAIT_RESULTS, job, 2, FAR);
        waiters_settle(&s->b, NULL);
    }
    assert_in_range(most, 1, 100);
    assert_silence(s);
}

/* Ticks from `now_ms` on until the waiter of this id is answered, the only one. */
static int ticks_until_heard(struct scene *s, int64_t id, long long now_ms)
{
    struct answer a;
    int ticks = 0, n = waiters_count(&s->b);
    for (; waiters_count(&s->b) == n && ticks < 1000; ticks++)
        waiters_tick(&s->b, now_ms);
    assert_int_equal(hear(s, &a), 1);
    assert_int_equal(a.id, id);
    return ticks;
}

/* However many of other connections are due before it, one whose time is over is answered within
 * some ticks. */
static void test_a_deadline_is_kept_whatever_others_do(void **state)
{
    struct scene *s = *state;
    int ticks = 0;
    assert_int_equal(put_job(s->b.store, "k", 0, 3, 5), 1);
    for (uint64_t other = 1; other <= 5; other++)
        fill(s, other, WAIT_RESULTS, 2000);
    waiters_tick(&s->b, 1);
    s->envelope.connection = 99;
    wait_for(s, WAIT_RESULTS, 1, 99, 500);
    waiters_settle(&s->b, NULL);
    assert_int_equal(waiters_tick(&s->b, 2), 2); /* not all were looked at */
    assert_in_range(ticks_until_heard(s, 99, 500), 1, 5);
    for (; waiters_tick(&s->b, 600) == 600; ticks++) /* the others are looked at once */
        assert_in_range(ticks, 0, 5 * 2000);
    wait_for(s, WAIT_RESULTS, 1, 98, 700);
    waiters_settle(&s->b, NULL);
    assert_int_equal(waiters_tick(&s->b, 699), 700);
    waiters_job_changed(&s->b, 1); /* all of them are due again */
    assert_int_equal(waiters_tick(&s->b, 699), 699);
    assert_in_range(ticks_until_heard(s, 98, 700), 1, 5);
    assert_silence(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(
            test_a_client_that_has_gone_harms_nobody, open_scene, close_scene),
        cmocka_unit_test_setup_teardown(test_many_are_answered_bit_by_bit, open_scene, close_scene),
        cmocka_unit_test_setup_teardown(
            test_a_deadline_is_kept_whatever_others_do, open_scene, close_scene),
        cmocka_unit_test_setup_teardown(test_waiters_are_bounded, open_scene, close_scene),
        cmocka_unit_test_setup_teardown(test_nobody_is_kept_out_by_others, open_scene, close_scene),
        cmocka_unit_test_setup_teardown(
            test_waiters_of_a_connection_that_has_gone_go, open_scene, close_scene),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
