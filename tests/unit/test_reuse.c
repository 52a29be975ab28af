/* test_reuse.c - batches after each other with a KV cache: every value has the bits that it has
 * without one, whatever is found there, kept, or driven out; and what is found need not be
 * computed. Run from the repository root. */
#include "tests/unit/pipeline_fixture.h"

#include "tests/unit/reuse_fixture.h"
#include "worker/kv_cache.h"

static const struct scorer_rank alone = {-1, 0, 1, 0, 1};

/* The most tokens that the model with a cache computes at once. */
static uint32_t chunk_tokens = MAX_TOKENS;

/* Bytes for so many tokens of the model, so that there is room for part of what comes. */
static uint64_t bytes_for(const struct scorer *s, uint32_t n_tokens)
{
    const struct model_config *c = &s->model.config;
    uint64_t kv = 2ull * model_config_rank_kv_heads(c, s->model.n_ranks) * c->head_dim;
    return n_tokens * sizeof(float) *
           (c->n_layers * (uint64_t)round_up((int64_t)kv, ROW_ELEMENTS) + ROW_ELEMENTS);
}

/* Random batches through a model without a cache and one with room for n_tokens. */
static void check_reuse(
    const char *name, uint32_t n_tokens, uint32_t n_batches, int threads, struct scorer_rank rank)
{
    static float whole[MAX_VALUES], found[MAX_VALUES];
    static struct rows rows;
    struct scorer without, with;
    uint64_t given = 0;
    scorer_open_rank(&without, &cpu_ops, name, "auto", threads, rank);
    kv_cache_bytes = bytes_for(&without, n_tokens);
    max_batch_tokens = chunk_tokens;
    scorer_open_rank(&with, &cpu_ops, name, "auto", threads, rank);
    max_batch_tokens = MAX_TOKENS;
    kv_cache_bytes = 0;
    assert_int_equal(
        qwen2_reward_model_max_tokens(&with.model), n_tokens >= 1024 ? chunk_tokens : MAX_TOKENS);
    assert_int_equal(with.model.kv_caches.n_slots, n_tokens);
    srand(7); /* all ranks the same rows */
    for (uint32_t turn = 0; turn < n_batches; turn++) {
        make_batch(&rows, &without.model);
        memset(whole, 0, sizeof whole);
        memset(found, 0, sizeof found);
        score_rows(&without, &rows, whole);
        given += score_rows(&with, &rows, found);
        assert_memory_equal(whole, found, sizeof whole);
    }
    assert_int_equal(with.model.tokens_given, given);
    if (chunk_tokens > KV_BLOCK_TOKENS) /* a chunk's last block is computed, whatever is kept */
        assert_true(with.model.tokens_reused > (n_tokens >= 1024 ? given / 8 : 0));
    assert_true(kv_cache_used(with.model.kv_cache) <= n_tokens / KV_BLOCK_TOKENS);
    scorer_close(&without);
    scorer_close(&with);
}

static void test_every_shape_of_model(void **unused)
{
    static const char *const names[] = {"seqcls", "reward", "process", "token", "seqcls-3-labels",
        "window", "window-layer-types", "qwen3", "llama-mha", "mqa", "head-dim-80", "head-dim-128",
        "odd-sizes", "rope-yarn", "quantized/pack-int4-group", "quantized/awq-int4"};
    (void)unused;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        check_reuse(names[i], 16384, 12, 2, alone);
}

/* From one block to plenty. */
static void test_every_size_of_cache(void **unused)
{
    static const uint32_t sizes[] = {16, 32, 160, 1024, 4096, 1 << 16};
    (void)unused;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        check_reuse(i % 2 ? "window" : "reward", sizes[i], 60, 1, alone);
}

static void test_types(void **unused)
{
    (void)unused;
    dtype = "bf16";
    check_reuse("window", 4096, 20, 2, alone);
    dtype = "auto";
    quant_method = "int8";
    check_reuse("reward", 4096, 20, 2, alone);
    quant_method = "none";
}

/* Rows of the same ids through other adapters share nothing. */
static void test_adapters(void **unused)
{
    (void)unused;
    n_adapters = 2;
    snprintf(adapter_options[0], sizeof adapter_options[0], "all=tests/models/lora/reward-all");
    snprintf(adapter_options[1], sizeof adapter_options[1], "half=tests/models/lora/reward-half");
    check_reuse("reward", 16384, 40, 2, alone);
    n_adapters = 0;
}

static void check_ranks(const char *name, uint32_t tp, uint32_t n_tokens)
{
    struct err e = {0};
    int fd = stage_segment_new(stage_comm_bytes(tp), &e), status;
    pid_t pids[4];
    assert_true(fd >= 0);
    for (uint32_t r = 0; r < tp; r++)
        if ((pids[r] = fork()) == 0) {
            check_reuse(name, n_tokens, 20, 1, (struct scorer_rank){fd, r, tp, 0, 1});
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
    (void)unused;
    check_ranks("tp-head-dim-64", 2, 8192);
    check_ranks("tp-12-4", 4, 1024);
    dtype = "bf16";
    check_ranks("seqcls", 2, 512);
    dtype = "auto";
}

/* A pipeline whose stages keep their own layers' keys and values, and one stage that keeps none. */
static void check_pipeline(const char *name, uint32_t n_stages, uint64_t bytes, uint32_t n_batches)
{
    static float whole[MAX_VALUES], found[MAX_VALUES];
    static struct rows rows;
    struct scorer without;
    struct chain chain;
    scorer_open(&without, &cpu_ops, name, "auto", 1);
    kv_cache_bytes = bytes;
    chain_open(&chain, name, n_stages);
    kv_cache_bytes = 0;
    srand(7);
    for (uint32_t turn = 0; turn < n_batches; turn++) {
        make_batch(&rows, &without.model);
        memset(whole, 0, sizeof whole);
        memset(found, 0, sizeof found);
        score_rows(&without, &rows, whole);
        struct stage_batch b = batch_of_rows(&rows);
        chain_score(&chain, &b, found);
        assert_memory_equal(whole, found, sizeof whole);
    }
    const struct qwen2_reward_model *first = &chain.stages[0].model;
    assert_true(first->tokens_reused > first->tokens_given / 16);
    for (uint32_t i = 1; i < n_stages; i++) {
        const struct qwen2_reward_model *m = &chain.stages[i].model;
        assert_int_equal(m->kv_caches.n_slots, first->kv_caches.n_slots);
        assert_int_equal(m->tokens_reused, first->tokens_reused);
        assert_true(qwen2_reward_model_kv_bytes(m) <= bytes);
        assert_true(!m->kv_caches.layers[0].data);
    }
    scorer_close(&without);
    chain_close(&chain);
}

static void test_pipeline(void **unused)
{
    (void)unused;
    check_pipeline("reward", 2, 1 << 20, 30);
    check_pipeline("window-layer-types", 3, 1 << 18, 30);
    check_pipeline("demo-process", 4, 1 << 20, 10);
    check_pipeline("demo-reward", 4, 1 << 20, 10);
    dtype = "bf16";
    check_pipeline("window", 2, 1 << 18, 20);
    dtype = "auto";
    quant_method = "int8";
    check_pipeline("demo-process", 3, 1 << 20, 10);
    quant_method = "none";
}

/* Batches and rows of more tokens than are computed at once. */
static void test_chunked_prefill(void **unused)
{
    static const uint32_t chunks[] = {16, 48, 160, 336};
    static const char *const names[] = {"reward", "window", "process", "seqcls-3-labels"};
    (void)unused;
    for (size_t i = 0; i < sizeof chunks / sizeof *chunks; i++)
        for (size_t k = 0; k < sizeof names / sizeof *names; k++) {
            chunk_tokens = chunks[i];
            check_reuse(names[k], k % 2 ? 1024 : 16384, 12, 2, alone);
        }
    chunk_tokens = 96;
    test_adapters(NULL);
    check_ranks("tp-12-4", 4, 1024);
    chunk_tokens = MAX_TOKENS;
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_every_shape_of_model),
        cmocka_unit_test(test_every_size_of_cache), cmocka_unit_test(test_types),
        cmocka_unit_test(test_adapters), cmocka_unit_test(test_tensor_parallel),
        cmocka_unit_test(test_pipeline), cmocka_unit_test(test_chunked_prefill)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
