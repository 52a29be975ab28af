/* test_group_pipeline.c - a group of several pipeline stages: the bits of one stage, several
 * batches at a time, each in its turn; and which batch is to blame when a rank dies
 * (group_fixture.h). */
#include "tests/unit/group_fixture.h"

#define KILLS 7   /* in the first stage, which embeds */
#define HIDDEN 96 /* of DEMO */

static struct group_options pipeline_of(
    struct scene *s, const char *worker, const char *model, uint32_t tp, uint32_t pp)
{
    struct group_options o = options_for(s, worker, model, tp);
    o.pp = pp;
    o.hidden_size = HIDDEN;
    o.stage.n_slots = 8;
    return o;
}

/* Batches one behind the other, and their values. */
static void score(struct scene *s, uint32_t tp, uint32_t pp, float values[8][5])
{
    struct group_options options = pipeline_of(s, program(s, "bin/assay-worker"), DEMO, tp, pp);
    make_group(s, &options);
    wait_for(s, GROUP_READY);
    for (int turn = 0; turn < 8; turn++)
        run(s, make_batch(5, 9 + (uint32_t)turn, 20 + turn));
    assert_int_equal(group_in_flight(s->group), 8);
    for (int turn = 0; turn < 8; turn++) {
        struct batch *b = take(s, BATCH_DONE); /* in the order of hand-over */
        assert_int_equal(b->n_values, 5);
        assert_int_equal(b->rows[0]->n_tokens, 9 + turn);
        memcpy(values[turn], b->values, sizeof values[turn]);
        batch_free(&b);
    }
    assert_int_equal(group_restarts(s->group), 0);
    group_free(&s->group);
}

static void test_same_bits_as_one_stage(void **state)
{
    static const struct {
        uint32_t tp, pp;
    } cases[] = {{1, 2}, {1, 3}, {2, 1}, {2, 2}, {2, 3}};
    float one[8][5], several[8][5], *expected = one[0];
    score(*state, 1, 1, one);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        if (cases[i].tp == 2 && cases[i].pp == 1) { /* what those after it are compared with */
            score(*state, 2, 1, one);
            continue;
        }
        memset(several, 0, sizeof several);
        score(*state, cases[i].tp, cases[i].pp, several);
        assert_memory_equal(expected, several, sizeof several);
    }
}

static void test_too_many_ranks(void **state)
{
    struct scene *s = *state;
    struct group_options options = pipeline_of(s, program(s, "bin/assay-worker"), DEMO, 4, 5);
    struct err e = {0};
    assert_int_equal(group_new(&s->group, &options, &e), ASSAY_EBADREQ);
    assert_text_has(e.msg, "expected 1 to 16, found 4 times 5");
    options.pp = 0;
    assert_int_equal(group_new(&s->group, &options, &e), ASSAY_EBADREQ);
    options.tp = 1;
    options.pp = 4; /* the demo has three layers */
    int exit_code;
    make_group(s, &options);
    assert_text_has(wait_for_failure(s, &exit_code), "pp 4 does not fit");
    assert_int_equal(exit_code, 78);
}

/* A batch kills the first stage's rank while an older one is in the second stage, which is slow (it
 * stands still). The other may have been told to run that too. */
static void test_the_batch_of_the_stage_that_dies_is_to_blame(void **state)
{
    struct scene *s = *state;
    struct group_options options =
        pipeline_of(s, program(s, "tests/chaos/faulty_worker"), DEMO, 1, 3);
    int exit_code;
    options.hang_ms = 10000;
    make_group(s, &options);
    for (int turn = 0; turn < 3; turn++) {
        struct batch *kills = make_batch(5, 4, SLOW); /* time for what was said before it */
        kills->rows[4]->ids[0] = KILLS;
        wait_for(s, GROUP_READY);
        kill(pid_of(s, 1), SIGSTOP);
        run(s, make_batch(8, 9, 20));
        run(s, kills);
        run(s, make_batch(3, 4, 21));
        assert_text_has(wait_for_failure(s, &exit_code), "rank 0 ended (signal 9)");
        struct batch *first = take(s, BATCH_LOST_WAITING), *second = take(s, BATCH_LOST_RUNNING),
                     *third = take(s, BATCH_LOST_WAITING);
        assert_true(first->n_rows == 8 && second->n_rows == 5 && third->n_rows == 3);
        batch_free(&first);
        batch_free(&second);
        batch_free(&third);
    }
}

/* Someone kills a rank of a stage to which nothing has come yet: no batch is to blame. Then one of
 * the stage that runs it. */
static void test_a_rank_without_work_blames_no_batch(void **state)
{
    struct scene *s = *state;
    struct group_options options =
        pipeline_of(s, program(s, "tests/chaos/faulty_worker"), DEMO, 1, 2);
    int exit_code;
    make_group(s, &options);
    for (uint32_t rank = 1; rank < 2; rank--) {
        wait_for(s, GROUP_READY);
        run(s, make_batch(8, 4, SLOW));
        kill(pid_of(s, rank), SIGKILL);
        wait_for_failure(s, &exit_code);
        struct batch *b = take(s, rank == 1 ? BATCH_LOST_WAITING : BATCH_LOST_RUNNING);
        assert_int_equal(b->lost_signal, SIGKILL);
        batch_free(&b);
    }
    wait_for(s, GROUP_READY);
}

static void test_a_hang_blames_the_batch_that_hangs(void **state)
{
    struct scene *s = *state;
    struct group_options options =
        pipeline_of(s, program(s, "tests/chaos/faulty_worker"), DEMO, 1, 3);
    int exit_code;
    options.hang_ms = 500;
    make_group(s, &options);
    wait_for(s, GROUP_READY);
    run(s, make_batch(8, 4, 20));
    run(s, make_batch(2, 4, HANGS));
    run(s, make_batch(8, 4, 21));
    assert_text_has(wait_for_failure(s, &exit_code), "hung");
    struct batch *first = take(s, BATCH_DONE), *hangs = take(s, BATCH_LOST_RUNNING),
                 *last = take(s, BATCH_LOST_WAITING);
    assert_true(first->n_rows == 8 && hangs->n_rows == 2 && last->n_rows == 8);
    batch_free(&first);
    batch_free(&hangs);
    batch_free(&last);
}

/* A rank of the last stage says that it is done before it was given the batch. */
static void test_done_too_early(void **state)
{
    struct scene *s = *state;
    struct group_options options = pipeline_of(s, s->here, "fake/early", 1, 2);
    int exit_code;
    make_group(s, &options);
    wait_for(s, GROUP_READY);
    run(s, make_batch(3, 4, 20));
    assert_text_has(
        wait_for_failure(s, &exit_code), "rank 1 is done with a batch that it was not given");
    struct batch *b = take(s, BATCH_LOST_WAITING);
    batch_free(&b);
}

int main(int argc, char **argv)
{
    if (argc > 1)
        fake_worker(argc, argv);
    const struct CMUnitTest tests[] = {TEST(test_same_bits_as_one_stage), TEST(test_too_many_ranks),
        TEST(test_the_batch_of_the_stage_that_dies_is_to_blame),
        TEST(test_a_rank_without_work_blames_no_batch),
        TEST(test_a_hang_blames_the_batch_that_hangs), TEST(test_done_too_early)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
