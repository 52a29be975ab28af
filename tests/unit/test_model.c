/* test_model.c - the model in process, without a broker: every golden vector, at every
 * tensor-parallel size that its shape allows; and a row's bits against its company. Run from the
 * repository root. */
#include "tests/unit/model_fixture.h"

static void check_alone(const struct vector *v)
{
    static float values[MAX_VALUES];
    struct scorer s;
    count_values(v);
    scorer_open(&s, &cpu_ops, v->model, "auto", 2, -1, 0, 1);
    score_all(&s, v, values);
    scorer_close(&s);
    check_values(v, values);
}

static void test_golden(void **unused)
{
    (void)unused;
    each_vector(check_alone);
}

static void check_parallel(const struct vector *v)
{
    static float alone[MAX_VALUES], first[MAX_VALUES], second[MAX_VALUES];
    struct scorer s;
    scorer_open(&s, &cpu_ops, v->model, "auto", 1, -1, 0, 1);
    score_all(&s, v, alone);
    scorer_close(&s);
    for (int i = 0; i < v->n_tp; i++) {
        if (v->tp[i] == 1)
            continue;
        score_ranks(&cpu_ops, v, (uint32_t)v->tp[i], first);
        score_ranks(&cpu_ops, v, (uint32_t)v->tp[i], second);
        check_values(v, first);
        for (uint32_t k = 0; k < count_values(v); k++) {
            double scale = fabs((double)alone[k]) > 1 ? fabs((double)alone[k]) : 1;
            assert_true(fabs((double)first[k] - (double)alone[k]) <= 1e-5 * scale);
            assert_memory_equal(&first[k], &second[k], sizeof first[k]);
        }
    }
}

static void test_tensor_parallel(void **unused)
{
    (void)unused;
    each_vector(check_parallel);
}

/* 100 random batchings of each of a few models: other rows, other order, pruned or not, other
 * threads and ISA. */
static void test_batch_invariance(void **unused)
{
    static const char *const names[] = {
        "seqcls.json", "reward.json", "window.json", "tp-12-4.json", "token.json"};
    static const struct {
        const char *isa;
        int threads;
    } ways[] = {{"auto", 2}, {"auto", 1}, {"auto", 3}, {"portable", 2}};
    static float alone[MAX_ROWS][ROW_VALUES], values[MAX_VALUES];
    (void)unused;
    srand(1);
    for (int f = 0; f < 5; f++) {
        struct vector v = vector_open(names[f]);
        for (uint32_t r = 0; r < v.n_rows; r++) {
            struct scorer s;
            assert_true(v.rows[r].stage.n_values <= 1024);
            if (r == 0)
                scorer_open(&s, &cpu_ops, v.model, "auto", 1, -1, 0, 1);
            score(&s, &v, &r, 1, 1, alone[r]);
            if (r + 1 == v.n_rows)
                scorer_close(&s);
        }
        for (int turn = 0; turn < 20; turn++) {
            struct scorer s;
            uint32_t order[MAX_ROWS], n = 0, tokens = 0, wanted = 1 + (uint32_t)rand() % 20;
            scorer_open(
                &s, &cpu_ops, v.model, ways[turn % 4].isa, ways[turn % 4].threads, -1, 0, 1);
            while (n < wanted) {
                order[n] = (uint32_t)rand() % v.n_rows;
                tokens += v.rows[order[n]].stage.n_tokens;
                if (tokens > MAX_TOKENS)
                    break;
                n++;
            }
            score(&s, &v, order, n, turn % 3, values);
            assert_same_bits(&v, order, n, values, alone);
            scorer_close(&s);
        }
        vector_close(&v);
    }
}

static void test_what_is_not_built_is_refused_by_name(void **unused)
{
    struct scorer s;
    struct err e = {0};
    struct tensor hidden;
    int32_t ids[] = {1, 2, 100000}, positions[] = {0, 1, 2};
    uint32_t cu[] = {0, 2}, all[] = {0, 3};
    struct attn_metadata meta = {1, cu, 2, NULL, 0, NULL};
    (void)unused;
    scorer_open(&s, &cpu_ops, "seqcls", "auto", 1, -1, 0, 1);
    assert_int_equal(
        qwen2_reward_model_forward(&s.model, ids, positions, &e, &meta, NULL, &hidden, &e),
        ASSAY_EUNSUPPORTED);
    assert_non_null(strstr(e.msg, "kv_caches"));
    assert_int_equal(
        qwen2_reward_model_forward(&s.model, ids, positions, NULL, &meta, &e, &hidden, &e),
        ASSAY_EUNSUPPORTED);
    assert_non_null(strstr(e.msg, "intermediate_tensors"));
    meta.prefix_segments = &e;
    assert_int_equal(
        qwen2_reward_model_forward(&s.model, ids, positions, NULL, &meta, NULL, &hidden, &e),
        ASSAY_EUNSUPPORTED);
    meta = (struct attn_metadata){1, all, 3, NULL, 0, NULL};
    assert_int_equal(
        qwen2_reward_model_forward(&s.model, ids, positions, NULL, &meta, NULL, &hidden, &e),
        ASSAY_EBADTOKEN);
    scorer_close(&s);
    struct cache_config cache = {1, 1, 1, "paged"};
    struct quant_config quant = {"fp4"};
    const char *name[] = {"adapter-x"};
    struct lora_config lora = {1, name, name};
    assert_int_equal(cache_config_check(&cache, &e), ASSAY_EUNSUPPORTED);
    assert_non_null(strstr(e.msg, "paged"));
    assert_int_equal(quant_config_check(&quant, &e), ASSAY_EUNSUPPORTED);
    assert_non_null(strstr(e.msg, "fp8"));
    assert_int_equal(lora_config_check(&lora, &e), ASSAY_EUNSUPPORTED);
    assert_non_null(strstr(e.msg, "adapter-x"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_golden),
        cmocka_unit_test(test_tensor_parallel), cmocka_unit_test(test_batch_invariance),
        cmocka_unit_test(test_what_is_not_built_is_refused_by_name)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
