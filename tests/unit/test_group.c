/* test_group.c - a worker group at work: ranks that do as agreed, that die or stand still, and that
 * keep to no agreement (group_fixture.h). */
#include "tests/unit/group_fixture.h"

/* ---- ranks that do as agreed ---- */

static void score(struct scene *s, uint32_t tp, float *values, uint32_t n)
{
    struct group_options options = options_for(s, program(s, "bin/assay-worker"), DEMO, tp);
    make_group(s, &options);
    wait_for(s, GROUP_READY);
    assert_int_equal(group_incarnation(s->group), 1);
    run(s, make_batch(n, 9, 20));
    struct batch *b = take(s, BATCH_DONE);
    assert_int_equal(b->n_values, n);
    memcpy(values, b->values, n * sizeof *values);
    batch_free(&b);
    group_stop(s->group);
    wait_for(s, GROUP_STOPPED);
    assert_int_equal(waitpid(-1, NULL, WNOHANG), -1);
    assert_int_equal(group_restarts(s->group), 0);
    group_free(&s->group);
    assert_null(s->group);
}

static void test_any_number_of_ranks(void **state)
{
    float one[5], many[5];
    score(*state, 1, one, 5);
    for (uint32_t tp = 2; tp <= 4; tp *= 2) {
        score(*state, tp, many, 5);
        for (int i = 0; i < 5; i++)
            assert_true(fabsf(one[i] - many[i]) <= 1e-5f * fmaxf(1, fabsf(one[i])));
    }
    assert_true(one[0] != one[1]);
}

static void test_slots_and_capacities(void **state)
{
    struct scene *s = *state;
    struct group_options options = options_for(s, program(s, "bin/assay-worker"), DEMO, 1);
    struct batch *b = make_batch(1, 4, 20), *large = make_batch(3, 200, 20);
    struct err e = {0};
    make_group(s, &options);
    assert_int_equal(group_run(s->group, &b, &e), 0); /* not READY */
    wait_for(s, GROUP_READY);
    assert_int_equal(group_free_slots(s->group), 2);
    assert_int_equal(group_run(s->group, &large, &e), ASSAY_ETOOLARGE);
    assert_non_null(large);
    assert_int_equal(group_free_slots(s->group), 2);
    run(s, make_batch(2, 4, 20));
    run(s, make_batch(1, 4, 21));
    assert_int_equal(group_in_flight(s->group), 2);
    assert_int_equal(group_run(s->group, &b, &e), 0);
    assert_non_null(b);
    batch_free(&b);
    batch_free(&large);
    for (uint32_t n = 2; n > 0; n--) {
        b = take(s, BATCH_DONE); /* in the order of hand-over */
        assert_int_equal(b->n_rows, n);
        batch_free(&b);
    }
    assert_int_equal(group_free_slots(s->group), 2);
    assert_int_equal(group_in_flight(s->group), 0);
}

static void test_stop_waits_for_batches(void **state)
{
    struct scene *s = *state;
    struct group_options options = options_for(s, program(s, "tests/chaos/faulty_worker"), DEMO, 2);
    struct batch *b = make_batch(8, 4, SLOW);
    struct err e = {0};
    make_group(s, &options);
    wait_for(s, GROUP_READY);
    run(s, make_batch(8, 4, SLOW));
    group_stop(s->group);
    assert_int_equal(group_state(s->group), GROUP_DRAINING);
    assert_int_equal(group_run(s->group, &b, &e), 0);
    batch_free(&b);
    b = take(s, BATCH_DONE);
    batch_free(&b);
    wait_for(s, GROUP_STOPPED);
    assert_int_equal(group_restarts(s->group), 0);
}

static void test_freed_with_work_in_flight(void **state)
{
    struct scene *s = *state;
    struct group_options options = options_for(s, program(s, "tests/chaos/faulty_worker"), DEMO, 2);
    make_group(s, &options);
    wait_for(s, GROUP_STARTING);
    group_free(&s->group);
    make_group(s, &options);
    wait_for(s, GROUP_READY);
    run(s, make_batch(8, 4, SLOW));
    run(s, make_batch(8, 4, SLOW));
    group_stop(s->group); /* teardown frees it */
}

/* ---- ranks that die or stand still ---- */

static void test_a_killed_rank_ends_the_incarnation(void **state)
{
    struct scene *s = *state;
    struct group_options options = options_for(s, program(s, "tests/chaos/faulty_worker"), DEMO, 2);
    int exit_code, old;
    make_group(s, &options);
    wait_for(s, GROUP_READY);
    run(s, make_batch(8, 4, SLOW));
    run(s, make_batch(1, 4, SLOW));
    old = pid_of(s, 0);
    assert_int_equal(kill(pid_of(s, 1), SIGKILL), 0);
    assert_text_has(wait_for_failure(s, &exit_code), "rank 1 ended (signal 9)");
    assert_int_equal(exit_code, -1);
    assert_true(kill(old, 0) == -1 && errno == ESRCH); /* its peer is gone and reaped */
    assert_int_equal(group_free_slots(s->group), 0);
    struct batch *first = take(s, BATCH_LOST_RUNNING), *second = take(s, BATCH_LOST_WAITING);
    assert_true(first->n_rows == 8 && second->n_rows == 1 && !first->values);
    assert_int_equal(first->lost_signal, SIGKILL);
    batch_free(&first);
    wait_for(s, GROUP_READY);
    assert_int_equal(group_incarnation(s->group), 2);
    assert_int_equal(group_free_slots(s->group), 2);
    run(s, second);
    second = take(s, BATCH_DONE);
    batch_free(&second);
}

static void test_a_rank_killed_while_idle(void **state)
{
    struct scene *s = *state;
    struct group_options options = options_for(s, program(s, "bin/assay-worker"), DEMO, 4);
    int exit_code;
    make_group(s, &options);
    for (uint32_t rank = 0; rank < 4; rank += 3) {
        wait_for(s, GROUP_READY);
        kill(pid_of(s, rank), SIGABRT);
        assert_text_has(wait_for_failure(s, &exit_code), "ended (");
    }
    assert_int_equal(group_restarts(s->group), 2);
}

/* The clock begins when work is handed over, however long the rank stood still before. */
static void test_a_stopped_rank_is_a_hang(void **state)
{
    struct scene *s = *state;
    struct group_options options = options_for(s, program(s, "bin/assay-worker"), DEMO, 4);
    int exit_code;
    options.hang_ms = 500;
    make_group(s, &options);
    wait_for(s, GROUP_READY);
    kill(pid_of(s, 2), SIGSTOP);
    long long started_ms = now_mono_ms();
    run(s, make_batch(1, 4, 20));
    const char *why = wait_for_failure(s, &exit_code); /* both are true: what is looked at first */
    int is_hung = strstr(why, "hung") != NULL;
    assert_true(is_hung || strstr(why, "rank 2 is stopped by a signal"));
    assert_in_range(now_mono_ms() - started_ms, is_hung ? 500 : 0, 20000);
    struct batch *b = take(s, BATCH_LOST_RUNNING);
    batch_free(&b);
    wait_for(s, GROUP_READY);
}

static void test_a_rank_stopped_while_idle_or_starting(void **state)
{
    static const char *const habits[] = {"idle", "half-ready"}; /* the second never gets ready */
    struct scene *s = *state;
    for (int i = 0; i < 2; i++) {
        int exit_code;
        make_fakes(s, habits[i], 2);
        long long until_ms = now_mono_ms() + PATIENCE_MS, next_ms;
        uint32_t n;
        while (next_ms = group_tick(s->group, now_mono_ms()),
            !group_ranks(s->group, &n)[0].ready && now_mono_ms() < until_ms)
            sleep_until(s, next_ms, until_ms);
        if (i == 0)
            wait_for(s, GROUP_READY);
        assert_int_equal(kill(pid_of(s, 0), SIGSTOP), 0);
        assert_text_has(wait_for_failure(s, &exit_code), "rank 0 is stopped by a signal");
        group_free(&s->group);
    }
}

static void wait_until_stopped(int pid)
{
    char path[64], line[512] = "";
    long long until_ms = now_mono_ms() + PATIENCE_MS;
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    while (!strstr(line, ") T ") && now_mono_ms() < until_ms) {
        FILE *f = fopen(path, "re");
        assert_non_null(f);
        assert_non_null(fgets(line, sizeof line, f));
        fclose(f);
    }
}

/* Stopped and let go again and again, as a tool does that keeps a process slow: it is alive. */
static void test_a_rank_that_is_stopped_at_times(void **state)
{
    struct scene *s = *state;
    make_fakes(s, "idle", 1);
    wait_for(s, GROUP_READY);
    long long now_ms = now_mono_ms(); /* then a clock of our own */
    for (int i = 0; i < 12; i++) {    /* six times hang_ms */
        kill(pid_of(s, 0), SIGSTOP);
        wait_until_stopped(pid_of(s, 0));
        group_tick(s->group, now_ms += 200);
        kill(pid_of(s, 0), SIGCONT);
    }
    assert_int_equal(group_restarts(s->group), 0);
    assert_int_equal(group_state(s->group), GROUP_READY);
    kill(pid_of(s, 0), SIGSTOP);
    wait_until_stopped(pid_of(s, 0));
    long long until_ms = now_mono_ms() + PATIENCE_MS; /* its last thread may stop a little later */
    while (group_restarts(s->group) == 0 && now_mono_ms() < until_ms)
        group_tick(s->group, now_ms += 200);
    assert_int_equal(group_restarts(s->group), 1);
}

/* As after a suspend of all of them: the clock begins when it is seen again. */
static void test_an_owner_that_stood_still_with_its_rank(void **state)
{
    struct scene *s = *state;
    make_fakes(s, "idle", 1);
    wait_for(s, GROUP_READY);
    kill(pid_of(s, 0), SIGSTOP);
    long long now_ms = now_mono_ms();
    for (int i = 0; i < 10; i++)
        now_ms = group_tick(s->group, now_ms + 100 * i) + 100000; /* a clock of our own */
    assert_int_equal(group_state(s->group), GROUP_READY);
    kill(pid_of(s, 0), SIGCONT);
}

static void test_an_owner_that_stood_still_blames_nobody(void **state)
{
    struct scene *s = *state;
    struct group_options options = options_for(s, program(s, "tests/chaos/faulty_worker"), DEMO, 1);
    make_group(s, &options);
    wait_for(s, GROUP_READY);
    run(s, make_batch(8, 4, SLOW));
    group_tick(s->group, now_mono_ms());
    group_tick(s->group, now_mono_ms() + 100000);
    assert_int_equal(group_state(s->group), GROUP_READY);
    struct batch *b = take(s, BATCH_DONE);
    batch_free(&b);
}

static void test_a_hang_while_draining(void **state)
{
    struct scene *s = *state;
    struct group_options options = options_for(s, program(s, "tests/chaos/faulty_worker"), DEMO, 1);
    options.hang_ms = 500;
    make_group(s, &options);
    wait_for(s, GROUP_READY);
    run(s, make_batch(1, 4, HANGS));
    group_stop(s->group);
    long long started_ms = now_mono_ms();
    wait_for(s, GROUP_STOPPED);
    assert_in_range(now_mono_ms() - started_ms, 400, 20000);
    struct batch *b = take(s, BATCH_LOST_RUNNING);
    batch_free(&b);
}

static void test_a_rank_that_does_not_stop(void **state)
{
    struct scene *s = *state;
    make_fakes(s, "never-stops", 2);
    wait_for(s, GROUP_READY);
    long long started_ms = now_mono_ms();
    group_stop(s->group);
    wait_for(s, GROUP_STOPPED);
    assert_in_range(now_mono_ms() - started_ms, 400, 20000);
    assert_int_equal(waitpid(-1, NULL, WNOHANG), -1);
}

/* ---- ranks that keep to no agreement ---- */

static void test_broken_agreements(void **state)
{
    static const struct {
        const char *habit, *words;
        int exit_code;
    } cases[] = {{"disagrees", "disagrees with the others", -1}, {"fails", "no such luck", -1},
        {"writes-nothing", "another hand-over", -1}, {"writes-less", "expected 3 values", -1},
        {"one-for-all", "hung", -1}, {"exits", "exit code 5", 5}};
    struct scene *s = *state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        int exit_code;
        make_fakes(s, cases[i].habit, 2);
        wait_for(s, GROUP_READY);
        run(s, make_batch(3, 4, 20));
        assert_text_has(wait_for_failure(s, &exit_code), cases[i].words);
        assert_int_equal(exit_code, cases[i].exit_code);
        struct batch *b = take(s, BATCH_LOST_RUNNING);
        assert_int_equal(b->lost_exit, exit_code);
        batch_free(&b);
        group_free(&s->group);
    }
}

static void test_messages_that_do_not_count(void **state)
{
    struct scene *s = *state;
    make_fakes(s, "nonsense", 1);
    wait_for(s, GROUP_READY);
    for (int i = 0; i < 3; i++) {
        run(s, make_batch(2, 4, 20));
        struct batch *b = take(s, BATCH_DONE);
        assert_true(b->values[0] == 0.5f && b->values[1] == 0.5f);
        batch_free(&b);
    }
    assert_int_equal(group_restarts(s->group), 0);
}

static void test_ready_is_every_rank(void **state)
{
    struct scene *s = *state;
    struct group_options options = options_for(s, s->here, "fake/half-ready", 2);
    int exit_code;
    options.start_ms = 300;
    make_group(s, &options);
    assert_text_has(wait_for_failure(s, &exit_code), "not ready in time");
}

int main(int argc, char **argv)
{
    if (argc > 1)
        fake_worker(argc, argv);
    const struct CMUnitTest tests[] = {TEST(test_any_number_of_ranks),
        TEST(test_slots_and_capacities), TEST(test_stop_waits_for_batches),
        TEST(test_freed_with_work_in_flight), TEST(test_a_killed_rank_ends_the_incarnation),
        TEST(test_a_rank_killed_while_idle), TEST(test_a_stopped_rank_is_a_hang),
        TEST(test_a_rank_stopped_while_idle_or_starting),
        TEST(test_a_rank_that_is_stopped_at_times),
        TEST(test_an_owner_that_stood_still_with_its_rank),
        TEST(test_an_owner_that_stood_still_blames_nobody), TEST(test_a_hang_while_draining),
        TEST(test_a_rank_that_does_not_stop), TEST(test_broken_agreements),
        TEST(test_messages_that_do_not_count), TEST(test_ready_is_every_rank)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
