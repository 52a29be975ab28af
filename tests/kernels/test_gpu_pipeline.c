/* test_gpu_pipeline.c - pipeline stages on the GPU's table of operations: every value has the bits
 * and the mode that one stage gives, with a KV cache, quantized, with batches in flight, on several
 * ranks a stage; and what the device cannot share is refused. Run from the repository root.
 *
 * Kernels and libraries are doubles, or on a device (ASSAY_ON_DEVICE) the real ones; ASSAY_DEVICES
 * says how many devices there are, ASSAY_NO_FP8 that they are older than that. */
#include "tests/unit/pipeline_fixture.h"

#include "cuda/gpu.h"
#include "schema/log.h"
#include "tests/kernels/doubles/controls.h"
#include "tests/unit/reuse_fixture.h"

#define N_BATCHES PIPELINE_BUFFERS /* so that no stage writes over what is not read */

/* ---- one rank a stage ---- */

static void check_chain(const char *name, uint32_t n_stages, uint64_t bytes)
{
    static float whole[MAX_VALUES], found[MAX_VALUES];
    static struct rows rows;
    struct scorer without;
    struct chain chain;
    scorer_open(&without, &gpu_ops, name, "auto", 1);
    kv_cache_bytes = bytes;
    chain_open(&chain, name, n_stages);
    kv_cache_bytes = 0;
    srand(7);
    for (uint32_t turn = 0; turn < N_BATCHES; turn++) {
        double_set_seed(turn);
        make_batch(&rows, &without.model);
        memset(whole, 0, sizeof whole);
        memset(found, 0, sizeof found);
        score_rows(&without, &rows, whole);
        struct stage_batch b = batch_of_rows(&rows);
        chain_score(&chain, &b, found);
        assert_memory_equal(whole, found, sizeof whole);
    }
    for (uint32_t i = 0; i < n_stages; i++)
        assert_int_equal(chain.stages[i].model.tokens_reused > 0, bytes > 0);
    chain_close(&chain);
    scorer_close(&without);
    assert_int_equal(double_live_allocations(), 0);
}

static void test_stages(void **unused)
{
    (void)unused;
    check_chain("bf16", 2, 0);
    check_chain("window", 3, 1 << 20);
    quant_method = getenv("ASSAY_NO_FP8") ? "int8" : "fp8";
    check_chain("bf16", 2, 1 << 20);
    quant_method = "none";
}

/* ---- the mode ---- */

static void run_canary(struct scorer *s, struct pipeline *p, char *mode)
{
    float values[16];
    struct err e = {0};
    die_on(score_canary(&s->model, p, MAX_TOKENS, values, &e), &e);
    qwen2_reward_model_mode(&s->model, mode, MODEL_MODE_BYTES);
}

/* A stage without the head knows what is chosen for its products all the same. */
static void test_modes(void **unused)
{
    static const char *const names[] = {"reward", "seqcls", "openrlhf", "value-head", "lm-softmax"};
    (void)unused;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char whole[MODEL_MODE_BYTES], found[MODEL_MODE_BYTES];
        struct scorer one;
        struct chain chain;
        snprintf(head_option, sizeof head_option, "%s",
            strncmp(names[i], "lm-", 3) == 0 ? "lm:5,9:softmax" : "auto");
        scorer_open(&one, &gpu_ops, names[i], "auto", 1);
        run_canary(&one, NULL, whole);
        scorer_close(&one);
        chain_open(&chain, names[i], 2);
        for (uint32_t k = 0; k < 2; k++) {
            run_canary(&chain.stages[k], chain.pipelines[k], found);
            assert_string_equal(whole, found);
        }
        chain_close(&chain);
    }
    snprintf(head_option, sizeof head_option, "auto");
}

/* ---- batches in flight ---- */

/* Both stages have two batches in flight; the second may begin once the first is done with one. */
static void test_two_in_flight(void **unused)
{
    static float expected[2][MAX_VALUES], found[2][MAX_VALUES], untouched[1];
    static struct rows rows[2];
    static int32_t positions[MAX_TOKENS];
    struct scorer one;
    struct chain c;
    struct err e = {0};
    (void)unused;
    scorer_open(&one, &gpu_ops, "bf16", "auto", 1);
    chain_open(&c, "bf16", 2);
    struct scorer *first = &c.stages[0], *last = &c.stages[1];
    srand(3);
    for (int k = 0; k < 2; k++) {
        make_batch(&rows[k], &one.model);
        score_rows(&one, &rows[k], expected[k]);
    }
    for (int k = 0; k < 2; k++) {
        struct stage_batch b = batch_of_rows(&rows[k]);
        b.token.sequence = 7 + (uint64_t)k;
        die_on(score_batch(&first->model, c.pipelines[0], &b, b.ids, positions, untouched, &e), &e);
    }
    for (int k = 0; k < 2; k++) {
        assert_int_equal(gpu_ops.device->poll(first->device, 1), 1);
        pipeline_sent(c.pipelines[0]);
        struct stage_batch b = batch_of_rows(&rows[k]);
        b.token.sequence = 7 + (uint64_t)k;
        die_on(score_batch(&last->model, c.pipelines[1], &b, b.ids, positions, found[k], &e), &e);
    }
    for (int k = 0; k < 2; k++) {
        assert_int_equal(gpu_ops.device->poll(last->device, 1), 1);
        assert_memory_equal(
            expected[k], found[k], batch_of_rows(&rows[k]).n_values * sizeof *found[k]);
    }
    chain_close(&c);
    scorer_close(&one);
}

/* ---- several ranks a stage ---- */

/* A rank of 2 stages of 2 ranks: scores the batches that make_batch draws, after those before
 * it. */
static void score_as_rank(const char *name, uint32_t rank, const int *comm_fds, int pipeline_fd,
    float (*values)[MAX_VALUES])
{
    static struct rows rows;
    static int32_t positions[MAX_TOKENS];
    struct scorer s;
    struct pipeline *p;
    struct err e = {0};
    uint32_t stage = rank / 2;
    scorer_open_rank(&s, &gpu_ops, name, "auto", 1,
        (struct scorer_rank){comm_fds[stage], rank % 2, 2, stage, 2});
    struct pipeline_options o = {.rank = rank % 2,
        .n_ranks = 2,
        .pp_rank = stage,
        .n_pp_ranks = 2,
        .max_tokens = MAX_TOKENS,
        .hidden_size = s.model.config.hidden_size,
        .type = s.model.config.activation_type,
        .deadline_ms = DEADLINE_MS,
        .ops = s.ops->device,
        .device = s.device};
    die_on(pipeline_new(&p, pipeline_fd, &o, &e), &e);
    srand(7);
    for (uint32_t turn = 0; turn < N_BATCHES; turn++) {
        make_batch(&rows, &s.model);
        struct stage_batch b = batch_of_rows(&rows);
        b.token.sequence = turn + 1;
        die_on(score_batch(&s.model, p, &b, b.ids, positions, values[turn], &e), &e);
        assert_int_equal(s.ops->device->poll(s.device, 1), 1);
        if (stage == 0)
            pipeline_sent(p);
    }
    scorer_close(&s);
    pipeline_free(&p);
    _exit(0);
}

static void wait_for_all(const pid_t *pids, int n)
{
    int status;
    for (int i = 0; i < n; i++) {
        waitpid(pids[i], &status, 0);
        assert_int_equal(status, 0);
    }
}

/* The same on one stage of 2 ranks. */
static void score_as_one_stage(
    const char *name, uint32_t rank, int comm_fd, float (*values)[MAX_VALUES])
{
    static struct rows rows;
    struct scorer s;
    scorer_open_rank(&s, &gpu_ops, name, "auto", 1, (struct scorer_rank){comm_fd, rank, 2, 0, 1});
    srand(7);
    for (uint32_t turn = 0; turn < N_BATCHES; turn++) {
        make_batch(&rows, &s.model);
        score_rows(&s, &rows, values[turn]);
    }
    scorer_close(&s);
    _exit(0);
}

static int new_segment(uint64_t bytes)
{
    struct err e = {0};
    int fd = stage_segment_new(bytes, &e);
    die_on(fd < 0 ? fd : 0, &e);
    return fd;
}

static void test_stages_of_two_ranks(void **unused)
{
    enum { RANKS = 6 }; /* 0 and 1 are one stage, the others two */
    size_t bytes = sizeof(float[RANKS][N_BATCHES][MAX_VALUES]);
    float(*values)[N_BATCHES][MAX_VALUES] =
        mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    int comm_fds[3];
    pid_t pids[RANKS];
    (void)unused;
    if (getenv("ASSAY_DEVICES") && atoi(getenv("ASSAY_DEVICES")) < 2)
        skip();
    setenv("ASSAY_DOUBLE_DEVICES", "2", 1);
    setenv("ASSAY_DOUBLE_THREAD", "1", 1); /* a rank's device works while it waits for others */
    for (int i = 0; i < 3; i++)
        comm_fds[i] = new_segment(stage_comm_bytes(2));
    int pipeline_fd = new_segment(stage_pipeline_bytes(2, MAX_TOKENS, 64));
    fflush(NULL);
    for (uint32_t r = 0; r < 2; r++)
        if ((pids[r] = fork()) == 0)
            score_as_one_stage("bf16", r, comm_fds[2], values[r]);
    wait_for_all(pids, 2);
    for (uint32_t r = 0; r < 4; r++)
        if ((pids[r] = fork()) == 0)
            score_as_rank("bf16", r, comm_fds, pipeline_fd, values[2 + r]);
    wait_for_all(pids, 4);
    for (int r = 4; r < RANKS; r++) /* the last stage's */
        assert_memory_equal(values[0], values[r], sizeof values[0]);
    unsetenv("ASSAY_DOUBLE_DEVICES");
    unsetenv("ASSAY_DOUBLE_THREAD");
    for (int i = 0; i < 3; i++)
        close(comm_fds[i]);
    close(pipeline_fd);
    munmap(values, bytes);
}

#ifndef ASSAY_ON_DEVICE
static void test_memory_that_cannot_be_shared(void **unused)
{
    struct scorer s;
    struct pipeline *p;
    struct err e = {0};
    int fd = new_segment(stage_pipeline_bytes(2, 8, 16));
    (void)unused;
    scorer_open(&s, &gpu_ops, "bf16", "auto", 1);
    struct pipeline_options o = {.n_ranks = 1,
        .n_pp_ranks = 2,
        .max_tokens = 8,
        .hidden_size = 16,
        .ops = s.ops->device,
        .device = s.device};
    double_fail("cudaHostRegister", 1, cudaErrorMemoryAllocation);
    assert_int_equal(pipeline_new(&p, fd, &o, &e), ASSAY_EUNSUPPORTED);
    assert_non_null(strstr(e.msg, "cudaHostRegister"));
    assert_null(p);
    double_fail("", 1, 0); /* calls succeed again */
    scorer_close(&s);
    assert_int_equal(double_live_allocations(), 0);
    close(fd);
}
#endif

int main(int argc, char **argv)
{
    char directory[] = "/tmp/test_gpu_pipeline-XXXXXX", remembered[64];
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    cache_dir = mkdtemp(directory); /* shapes that models have in common are tried once */
    chain_ops = &gpu_ops;
    log_init("test", -1, LOG_LEVEL_ERROR);
#ifndef ASSAY_ON_DEVICE
    most_row_tokens = 140;
#endif
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_stages),
        cmocka_unit_test(test_modes),
        cmocka_unit_test(test_two_in_flight),
        cmocka_unit_test(test_stages_of_two_ranks),
#ifndef ASSAY_ON_DEVICE
        cmocka_unit_test(test_memory_that_cannot_be_shared),
#endif
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    snprintf(remembered, sizeof remembered, "%s/gemm-algorithms.txt", directory);
    unlink(remembered);
    rmdir(directory);
    return failed;
}
