/* test_waiters_long.c - replies that take longer than a tick may: made in parts, one at a time,
 * each whole, and nobody else waits for them. */
#include "tests/unit/waiters_fixture.h"

#define N 12000 /* rows; they take some 40 ms to write, a part 3 */

static int64_t finished_job(struct scene *s, const char *key, uint32_t n)
{
    int64_t job = put_job(s->b.store, key, 0, n, 5);
    s->b.limits.max_message_bytes = 8 << 20; /* all of it fits into a page */
    for (uint32_t done = 0; done < n;)
        done += finish_some(s->b.store, job, 4096, 0);
    return job;
}

static void wait_for_page(struct scene *s, int64_t job, uint8_t id)
{
    struct request q = {.id = {&id, 1}, .limit = N};
    waiters_add(&s->b, WAIT_RESULTS, &s->envelope, &q, job, FAR);
}

/* Ticks until a waiter is answered; returns how many, and the answer. */
static int tick_until_heard(struct scene *s, struct answer *a)
{
    int ticks = 0, n = waiters_count(&s->b);
    while (waiters_count(&s->b) == n) {
        assert_in_range(++ticks, 1, 10000);
        long long next = waiters_tick(&s->b, 1);
        assert_true(next == 1 || waiters_count(&s->b) < n); /* at once again */
    }
    assert_int_equal(hear(s, a), 1);
    return ticks;
}

static void test_a_long_reply_is_made_in_parts(void **state)
{
    struct scene *s = *state;
    struct answer a;
    int64_t job = finished_job(s, "long", N), other = finished_job(s, "short", 3);
    wait_for(s, WAIT_SCORE, job, 1, FAR);
    wait_for_page(s, job, 2);
    wait_for(s, WAIT_SCORE, job, 3, FAR);
    waiters_settle(&s->b, NULL);
    waiters_tick(&s->b, 1);
    wait_for(s, WAIT_SCORE, other, 4, FAR);
    waiters_settle(&s->b, NULL);
    assert_in_range(tick_until_heard(s, &a), 1, 5);
    assert_int_equal(a.id, 4); /* overtakes them */
    for (int seen = 0, n = 0; n < 3; n++) {
        int ticks = tick_until_heard(s, &a);
        assert_true(n > 0 || ticks > 1);
        assert_true(a.ok && a.n_rows == N && a.is_in_order);
        assert_int_equal(a.done, 0); /* no field of a score; a page that is full */
        assert_int_equal(seen & 1 << a.id, 0);
        seen |= 1 << a.id;
    }
    assert_true(waiters_tick(&s->b, 2) > FOREVER);
    assert_silence(s);
    assert_int_equal(waiters_count(&s->b), 0);
}

/* A job that changes meanwhile: its rows are read anew; one that is purged is not known. */
static void test_a_job_that_changes_meanwhile(void **state)
{
    struct scene *s = *state;
    struct answer a;
    struct err err;
    struct store_purged purged;
    int64_t job = finished_job(s, "long", N);
    wait_for(s, WAIT_SCORE, job, 1, FAR);
    waiters_settle(&s->b, NULL);
    assert_int_equal(waiters_tick(&s->b, 1), 1);
    waiters_job_changed(&s->b, job);
    tick_until_heard(s, &a);
    assert_true(a.ok && a.n_rows == N && a.is_in_order);
    wait_for(s, WAIT_SCORE, job, 2, FAR);
    wait_for_page(s, job, 3);
    waiters_settle(&s->b, NULL);
    assert_int_equal(waiters_tick(&s->b, 1), 1);
    must(store_begin(s->b.store, &err));
    must(store_purge(s->b.store, job, INT64_MAX, &purged, &err));
    must(store_commit(s->b.store, &err));
    assert_true(waiters_tick(&s->b, 2) > FOREVER);
    assert_int_equal(waiters_count(&s->b), 0);
    for (int n = 0; n < 2; n++) {
        assert_int_equal(hear(s, &a), 1);
        assert_string_equal(a.code, "unknown_job");
    }
    assert_silence(s);
}

/* What was begun for a client that has gone is dropped, and the next goes on. */
static void test_a_client_that_leaves_meanwhile(void **state)
{
    struct scene *s = *state;
    struct answer a;
    struct envelope here = s->envelope;
    int64_t job = finished_job(s, "long", N);
    s->envelope.connection = (uint64_t)7 << 32 | 7; /* no such connection */
    wait_for_page(s, job, 1);
    waiters_settle(&s->b, NULL);
    assert_int_equal(waiters_tick(&s->b, 1), 1);
    s->envelope = here;
    wait_for_page(s, job, 2);
    waiters_settle(&s->b, NULL);
    assert_int_equal(waiters_tick(&s->b, 1), 1);
    waiters_let_go(&s->b);
    assert_int_equal(waiters_count(&s->b), 1);
    tick_until_heard(s, &a);
    assert_true(a.id == 2 && a.ok && a.n_rows == N && a.is_in_order);
    wait_for_page(s, job, 3); /* begun, and never answered: close_scene frees it */
    waiters_tick(&s->b, 1);
    assert_int_equal(waiters_count(&s->b), 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(
            test_a_long_reply_is_made_in_parts, open_scene, close_scene),
        cmocka_unit_test_setup_teardown(test_a_job_that_changes_meanwhile, open_scene, close_scene),
        cmocka_unit_test_setup_teardown(
            test_a_client_that_leaves_meanwhile, open_scene, close_scene),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
