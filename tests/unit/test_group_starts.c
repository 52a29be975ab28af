/* test_group_starts.c - starts of a worker group that fail: again later, or never again. */
#include "tests/unit/group_fixture.h"

static void test_back_off(void **state)
{
    static const long long expected[] = {
        0, 500, 1000, 2000, 4000, 8000, 16000, 30000, 30000}; /* ms */
    struct scene *s = *state;
    struct group_options options = options_for(s, "/nonexistent/assay-worker", DEMO, 2);
    zmq_pollitem_t items[GROUP_MAX_RANKS + 1];
    long long now_ms = 1000; /* a clock of our own: nobody waits 90 s */
    int exit_code;
    make_group(s, &options);
    for (size_t i = 0; i < sizeof expected / sizeof expected[0]; i++) {
        long long next_ms = group_tick(s->group, now_ms);
        while (group_state(s->group) == GROUP_STARTING) {
            int n = group_poll_items(s->group, items, GROUP_MAX_RANKS + 1);
            assert_int_equal(n, 3);
            assert_true(zmq_poll(items, n, PATIENCE_MS) > 0);
            next_ms = group_tick(s->group, now_ms);
        }
        assert_int_equal(group_restarts(s->group), i + 1);
        assert_int_equal(next_ms - now_ms, expected[i]);
        if (expected[i] > 0)
            assert_int_equal(group_tick(s->group, next_ms - 1), next_ms);
        assert_int_equal(group_restarts(s->group), i + 1);
        now_ms = next_ms;
    }
    assert_text_has(group_last_failure(s->group, &exit_code), "exit code 127");
    assert_int_equal(exit_code, 127);
    group_stop(s->group);
    assert_int_equal(group_state(s->group), GROUP_STOPPED);
}

/* What does not pass is given up after three starts, all else after six. */
static void test_starts_that_are_hopeless(void **state)
{
    static const struct {
        const char *worker, *words;
        int starts, stays;
    } cases[] = {{"/nonexistent/assay-worker", "is a library missing?", 3, 1},
        {"/bin/false", "ended (exit code 1)", 6, 0}};
    struct scene *s = *state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct group_options options = options_for(s, cases[i].worker, DEMO, 1);
        zmq_pollitem_t items[GROUP_MAX_RANKS + 1];
        long long now_ms = 1000; /* a clock of our own */
        int exit_code, n;
        make_group(s, &options);
        while (!group_is_hopeless(s->group)) {
            now_ms = group_tick(s->group, now_ms);
            while (group_state(s->group) == GROUP_STARTING) {
                n = group_poll_items(s->group, items, GROUP_MAX_RANKS + 1);
                assert_true(zmq_poll(items, n, PATIENCE_MS) > 0);
                now_ms = group_tick(s->group, now_ms);
            }
            assert_true(group_failed_starts(s->group) <= cases[i].starts);
        }
        assert_int_equal(group_failed_starts(s->group), cases[i].starts);
        assert_int_equal(group_failure_stays(s->group), cases[i].stays);
        assert_text_has(group_last_failure(s->group, &exit_code), cases[i].words);
        group_free(&s->group);
    }
}

static void test_bad_checkpoints(void **state)
{
    static const char *const models[] = {"/nonexistent", "tests/unit", "tests/models/demo.jsonl"};
    struct scene *s = *state;
    for (size_t i = 0; i < sizeof models / sizeof models[0]; i++) {
        struct group_options options = options_for(s, program(s, "bin/assay-worker"), models[i], 2);
        int exit_code;
        make_group(s, &options);
        assert_text_has(wait_for_failure(s, &exit_code), models[i]); /* the rank's own words */
        assert_int_equal(exit_code, 78);
        group_free(&s->group);
    }
}

static void test_no_directory_for_a_socket(void **state)
{
    struct scene *s = *state;
    char dir[200];
    int exit_code;
    struct group_options options = options_for(s, s->here, "fake/", 1);
    memset(dir, 'd', sizeof dir - 1);
    dir[0] = '/';
    dir[sizeof dir - 1] = '\0';
    options.run_dir = dir;
    make_group(s, &options);
    assert_text_has(wait_for_failure(s, &exit_code), "directory '/dddd");
}

static void test_another_mode_is_not_ready(void **state)
{
    struct scene *s = *state;
    struct group_options options = options_for(s, program(s, "bin/assay-worker"), DEMO, 1);
    int exit_code;
    options.mode = "device=cpu arithmetic=4 dtype=f32 quant=none tp=2 pp=1";
    make_group(s, &options);
    assert_text_has(wait_for_failure(s, &exit_code),
        "rank 0 computes otherwise than expected (device=cpu arithmetic=4 dtype=f32 quant=none "
        "tp=2 pp=1): "
        "device=cpu arithmetic=4 dtype=f32 quant=none tp=1 pp=1");
    group_free(&s->group);
    options.mode = "device=cpu arithmetic=4 dtype=f32 quant=none tp=1 pp=1";
    make_group(s, &options);
    wait_for(s, GROUP_READY);
}

static void test_options_out_of_range(void **state)
{
    struct scene *s = *state;
    struct group_options options = options_for(s, s->here, "fake/", 0);
    struct err e = {0};
    assert_int_equal(group_new(&s->group, &options, &e), ASSAY_EBADREQ);
    assert_null(s->group);
    options.tp = GROUP_MAX_RANKS + 1;
    assert_int_equal(group_new(&s->group, &options, &e), ASSAY_EBADREQ);
    assert_null(s->group);
    options.tp = 1;
    options.stage.n_slots = 0;
    assert_int_equal(group_new(&s->group, &options, &e), ASSAY_ETOOLARGE);
    assert_null(s->group);
}

int main(int argc, char **argv)
{
    if (argc > 1)
        fake_worker(argc, argv);
    const struct CMUnitTest tests[] = {TEST(test_back_off), TEST(test_starts_that_are_hopeless),
        TEST(test_bad_checkpoints), TEST(test_no_directory_for_a_socket),
        TEST(test_another_mode_is_not_ready), TEST(test_options_out_of_range)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
