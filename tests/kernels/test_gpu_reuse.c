/* test_gpu_reuse.c - the KV cache on the GPU's table of operations: batches after each other, some
 * of them in chunks, get every value with the bits that it has without a cache, on one rank and
 * several. Run from the repository root.
 *
 * Kernels and libraries are doubles, or on a device (ASSAY_ON_DEVICE) the real ones; ASSAY_DEVICES
 * says how many devices there are, ASSAY_NO_FP8 that they are older than that. */
#include "tests/unit/reuse_fixture.h"

#include "cuda/gpu.h"
#include "schema/log.h"
#include "tests/kernels/doubles/controls.h"
#include "worker/kv_cache.h"

static const struct scorer_rank alone = {-1, 0, 1, 0, 1};

/* A model, and so many random batches through it; tokens that its cache has room for, 0: plenty;
 * the most tokens that it computes at once, 0: any number. */
struct reuse_case {
    const char *name;
    uint32_t n_batches, n_tokens, chunk_tokens;
};

static uint64_t bytes_for(const struct scorer *s, uint32_t n_tokens)
{
    const struct model_config *c = &s->model.config;
    struct tensor layer = tensor_shaped(NULL, c->activation_type, n_tokens,
        2 * (int64_t)model_config_rank_kv_heads(c, s->model.n_ranks) * c->head_dim);
    return c->n_layers * tensor_bytes(layer) +
           tensor_bytes(tensor_shaped(NULL, DTYPE_F32, n_tokens, c->n_labels));
}

static void open_with_cache(struct scorer *s, const struct reuse_case *c,
    const struct scorer *without, struct scorer_rank r)
{
    uint32_t n_tokens = c->n_tokens ? c->n_tokens : 16384;
    kv_cache_bytes = bytes_for(without, n_tokens);
    max_batch_tokens = c->chunk_tokens ? c->chunk_tokens : MAX_TOKENS;
    scorer_open_rank(s, &gpu_ops, c->name, "auto", 1, r);
    kv_cache_bytes = 0;
    max_batch_tokens = MAX_TOKENS;
    assert_int_equal(s->model.kv_caches.n_slots, n_tokens);
    assert_int_equal(
        qwen2_reward_model_max_tokens(&s->model), c->chunk_tokens ? c->chunk_tokens : MAX_TOKENS);
}

static void check_reuse(const struct reuse_case *c, struct scorer_rank rank)
{
    static float whole[MAX_VALUES], found[MAX_VALUES];
    static struct rows rows;
    struct scorer without, with;
    scorer_open_rank(&without, &gpu_ops, c->name, "auto", 1, rank);
    open_with_cache(&with, c, &without, rank);
    srand(7); /* all ranks the same rows */
    for (uint32_t turn = 0; turn < c->n_batches; turn++) {
        double_set_seed(turn);
        make_batch(&rows, &without.model);
        memset(whole, 0, sizeof whole);
        memset(found, 0, sizeof found);
        score_rows(&without, &rows, whole);
        score_rows(&with, &rows, found);
        assert_memory_equal(whole, found, sizeof whole);
    }
    assert_true(with.model.tokens_reused > with.model.tokens_given / 8);
    scorer_close(&with);
    scorer_close(&without);
}

static void check_all(const struct reuse_case *cases, size_t n)
{
    for (size_t i = 0; i < n; i++)
        check_reuse(&cases[i], alone);
    assert_int_equal(double_live_allocations(), 0);
}

/* Both kernels of attention, a window, steps; with room for a part, and for all. */
static void test_reuse(void **unused)
{
    static const struct reuse_case cases[] = {
        {"head-dim-80", 3, 1024, 0},
        {"process", 4, 320, 0},
#if !defined(__SANITIZE_ADDRESS__)
        {"window", 3, 0, 0},
#endif
    };
    (void)unused;
    check_all(cases, sizeof cases / sizeof *cases);
}

static void test_quantized(void **unused)
{
    static const struct reuse_case c = {"bf16", 3, 0, 0};
    (void)unused;
    quant_method = getenv("ASSAY_NO_FP8") ? "int8" : "fp8";
    check_reuse(&c, alone);
    quant_method = "none";
}

/* Rows of the same ids through other adapters share nothing. */
static void test_adapters(void **unused)
{
    static const struct reuse_case c = {"reward", 4, 0, 0};
    (void)unused;
    n_adapters = 2;
    n_roots = 1;
    snprintf(adapter_options[0], sizeof adapter_options[0], "all=tests/models/lora/reward-all");
    snprintf(adapter_options[1], sizeof adapter_options[1], "half=tests/models/lora/reward-half");
    check_reuse(&c, alone);
    n_adapters = 0;
    n_roots = 6;
}

/* Batches and rows of more tokens than are computed at once. */
static void test_chunked_prefill(void **unused)
{
    static const struct reuse_case cases[] = {
        {"head-dim-80", 4, 0, 48}, {"seqcls-3-labels", 3, 1024, 96}};
    (void)unused;
    check_all(cases, sizeof cases / sizeof *cases);
}

static int n_devices(void)
{
    const char *n = getenv("ASSAY_DEVICES");
    return n ? atoi(n) : 4;
}

static void check_ranks(const struct reuse_case *c, uint32_t tp)
{
    struct err e = {0};
    int fd = stage_segment_new(stage_comm_bytes(tp), &e), status;
    pid_t pids[2];
    assert_true(fd >= 0 && tp <= 2);
    fflush(NULL);
    for (uint32_t r = 0; r < tp; r++)
        if ((pids[r] = fork()) == 0) {
            check_reuse(c, (struct scorer_rank){fd, r, tp, 0, 1});
            _exit(0);
        }
    for (uint32_t r = 0; r < tp; r++) {
        waitpid(pids[r], &status, 0);
        assert_int_equal(status, 0);
    }
    close(fd);
}

static void test_tensor_parallel(void **unused)
{
    static const struct reuse_case c = {"bf16", 3, 0, 64};
    (void)unused;
    if (n_devices() < 2)
        skip();
    setenv("ASSAY_DOUBLE_DEVICES", "2", 1);
    setenv("ASSAY_DOUBLE_THREAD", "1", 1); /* a rank's device works while it waits for others */
    check_ranks(&c, 2);
    unsetenv("ASSAY_DOUBLE_DEVICES");
    unsetenv("ASSAY_DOUBLE_THREAD");
}

/* A batch that is cut follows one that is in flight: both give what they give alone. */
static void test_chunks_behind_a_batch_in_flight(void **unused)
{
    static float expected[2][MAX_VALUES], found[2][MAX_VALUES];
    static struct rows rows[2];
    static int32_t positions[2][MAX_TOKENS];
    static const struct reuse_case c = {"process", 1, 0, 48};
    struct scorer without, with;
    struct err e = {0};
    (void)unused;
    scorer_open_rank(&without, &gpu_ops, c.name, "auto", 1, alone);
    open_with_cache(&with, &c, &without, alone);
    srand(3);
    for (uint32_t turn = 0; turn < 3; turn++) {
        double_set_seed(turn);
        for (int k = 0; k < 2; k++) {
            do
                make_batch(&rows[k], &without.model);
            while (rows[k].n > 4);
            score_rows(&without, &rows[k], expected[k]);
            struct stage_batch b = batch_of_rows(&rows[k]);
            die_on(score_batch(&with.model, NULL, &b, b.ids, positions[k], found[k], &e), &e);
        }
        assert_int_equal(gpu_ops.device->poll(with.device, 1), 1);
        assert_int_equal(gpu_ops.device->poll(with.device, 1), 1);
        assert_int_equal(gpu_ops.device->poll(with.device, 1), 0);
        for (int k = 0; k < 2; k++)
            assert_memory_equal(
                expected[k], found[k], batch_of_rows(&rows[k]).n_values * sizeof *found[k]);
    }
    scorer_close(&with);
    scorer_close(&without);
}

int main(int argc, char **argv)
{
    char directory[] = "/tmp/test_gpu_reuse-XXXXXX", remembered[64];
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    cache_dir = mkdtemp(directory); /* shapes that models have in common are tried once */
#ifndef ASSAY_ON_DEVICE
    most_row_tokens = 150; /* three tiles of attention */
#endif
    log_init("test", -1, LOG_LEVEL_ERROR);
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_reuse),
        cmocka_unit_test(test_quantized), cmocka_unit_test(test_adapters),
        cmocka_unit_test(test_chunked_prefill), cmocka_unit_test(test_tensor_parallel),
        cmocka_unit_test(test_chunks_behind_a_batch_in_flight)};
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    snprintf(remembered, sizeof remembered, "%s/gemm-algorithms.txt", directory);
    unlink(remembered);
    rmdir(directory);
    return failed;
}
