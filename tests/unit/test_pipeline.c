/* test_pipeline.c - pipeline parallelism: the split of the layers is vLLM's; 2, 3 and 4 stages give
 * every value of the golden vectors the bits that one stage gives, for every architecture, type,
 * quantization and adapter; a stage reads its own tensors and no others, and is as strict about all
 * of them; and what is refused, by name. Run from the repository root. */
#include "tests/unit/pipeline_fixture.h"

#include "worker/load.h"

static void test_split(void **unused)
{
    /* As vLLM's get_pp_indices gives them. */
    static const struct {
        uint32_t n_layers, n, layers[10];
    } cases[] = {{28, 1, {28}}, {32, 4, {8, 8, 8, 8}}, {22, 4, {5, 6, 6, 5}}, {5, 3, {2, 2, 1}},
        {4, 3, {1, 2, 1}}, {3, 2, {2, 1}}, {7, 3, {2, 3, 2}}, {6, 4, {1, 2, 2, 1}},
        {7, 4, {2, 2, 2, 1}}, {4, 4, {1, 1, 1, 1}}, {43, 10, {4, 4, 4, 4, 4, 4, 5, 5, 5, 4}}};
    (void)unused;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct model_config c = {.n_layers = cases[i].n_layers};
        uint32_t end = 0;
        for (uint32_t k = 0; k < cases[i].n; k++) {
            struct layer_range r = model_config_pp_layers(&c, k, cases[i].n);
            assert_int_equal(r.first, end);
            assert_int_equal(r.end - r.first, cases[i].layers[k]);
            end = r.end;
        }
        assert_int_equal(end, cases[i].n_layers);
    }
}

static void test_more_stages_than_layers(void **unused)
{
    struct model_config c = {.n_layers = 4};
    struct err e = {0};
    (void)unused;
    assert_int_equal(model_config_check_pp(&c, 4, &e), 0);
    assert_int_equal(model_config_check_pp(&c, 5, &e), ASSAY_EFORMAT);
    assert_non_null(strstr(e.msg, "pp 5 does not fit: expected at least 1 and at most"));
    assert_non_null(strstr(e.msg, "num_hidden_layers (4)"));
    assert_int_equal(model_config_check_pp(&c, 0, &e), ASSAY_EFORMAT);
}

/* ---- bits ---- */

static void score_chain(const struct vector *v, uint32_t n, float *values)
{
    uint32_t order[MAX_ROWS], at = 0;
    struct chain c;
    chain_open(&c, v->model, n);
    for (uint32_t r = 0; r < v->n_rows;) {
        uint32_t rows = 0;
        while (r < v->n_rows && rows < 5 && (rows + 1) * 512 <= MAX_TOKENS)
            order[rows++] = r++;
        struct stage_batch b = batch_of(v, order, rows);
        chain_score(&c, &b, values + at);
        at += b.n_values;
    }
    chain_close(&c);
}

static uint32_t layers_of(const char *model)
{
    char dir[512];
    struct model_config c;
    struct err e = {0};
    snprintf(dir, sizeof dir, "tests/models/%s", model);
    die_on(model_config_load(&c, dir, head_option, &e), &e);
    return c.n_layers;
}

static int n_chains; /* that were compared */

static void check_chains(const struct vector *v)
{
    static float one[MAX_VALUES], several[MAX_VALUES];
    size_t bytes = count_values(v) * sizeof *one;
    uint32_t layers = layers_of(v->model);
    score_chain(v, 1, one);
    for (uint32_t n = 2; n <= layers && n <= MOST_STAGES; n++, n_chains++) {
        memset(several, 0, sizeof several);
        score_chain(v, n, several);
        assert_memory_equal(one, several, bytes);
    }
}

static void check_files(const char *const *files, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        struct vector v = vector_open(files[i]);
        int before = n_chains;
        check_chains(&v);
        assert_true(n_chains > before);
        vector_close(&v);
    }
}

static void test_every_architecture(void **unused)
{
    (void)unused;
    n_chains = 0;
    each_vector(check_chains);
    assert_true(n_chains > 40);
}

static void test_types(void **unused)
{
    static const char *const files[] = {"reward.json", "seqcls.json", "qwen3.json", "llama.json",
        "window-layer-types.json", "bf16.json", "f16.json", "tied.json"};
    (void)unused;
    dtype = "bf16";
    check_files(files, sizeof files / sizeof *files);
    dtype = "auto";
    quant_method = "int8";
    check_files(files, sizeof files / sizeof *files);
    quant_method = "none";
}

static void test_quantized_checkpoints(void **unused)
{
    static const char *const files[] = {"quantized/pack-int4-zeros.json",
        "quantized/pack-int4-channel.json", "quantized/gptq-int4-order.json",
        "quantized/awq-int4-kept.json", "quantized/fp8-blocks.json",
        "quantized/int-int8-groups.json", "quantized/float-fp8-tensor.json"};
    static const char *const rounded[] = {"rounded/float-fp8-static.json",
        "rounded/int-int8-static.json", "rounded/fp8-blocks.json", "rounded/fp8-static.json",
        "rounded/fp8-tensor.json"};
    (void)unused;
    check_files(files, sizeof files / sizeof *files);
    activations = "as-stored";
    check_files(rounded, sizeof rounded / sizeof *rounded);
    activations = NULL;
}

static void test_adapters(void **unused)
{
    static const char *const files[] = {"lora/reward.json", "lora/seqcls.json"};
    (void)unused;
    check_files(files, sizeof files / sizeof *files);
    n_adapters = 0;
}

/* ---- what a stage has ---- */

static int has_layer(const struct qwen2_layer *l)
{
    int n = (l->qkv_proj.parts[0].data != NULL) + (l->o_proj.parts[0].data != NULL) +
            (l->gate_up_proj.parts[1].data != NULL) + (l->down_proj.parts[0].data != NULL) +
            (l->input_layernorm != NULL) + (l->post_attention_layernorm != NULL);
    assert_true(n == 0 || n == 6);
    return n == 6;
}

static void check_stage(const struct qwen2_reward_model *m)
{
    int is_first = m->pp_rank == 0, is_last = m->pp_rank + 1 == m->n_pp_ranks;
    for (uint32_t i = 0; i < m->config.n_layers; i++)
        assert_int_equal(has_layer(&m->model.layers[i]), i >= m->own.first && i < m->own.end);
    assert_int_equal(m->model.embed_tokens.data != NULL, is_first);
    assert_int_equal(m->model.norm != NULL, is_last);
    assert_int_equal(m->score.second.parts[0].data != NULL, is_last);
}

/* A tied head's rows are the embedding's, which the first stage has whole. */
static void test_each_tensor_is_on_one_stage(void **unused)
{
    static const char *const names[] = {"demo-process", "demo-reward", "reward", "lm-softmax",
        "openrlhf", "quantized/awq-int4-kept"};
    (void)unused;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        struct chain c;
        snprintf(head_option, sizeof head_option, "%s",
            strncmp(names[i], "lm-", 3) == 0 ? "lm:5,9:softmax" : "auto");
        uint32_t n = layers_of(names[i]) < MOST_STAGES ? 2 : MOST_STAGES;
        chain_open(&c, names[i], n);
        for (uint32_t k = 0; k < n; k++)
            check_stage(&c.stages[k].model);
        chain_close(&c);
    }
    snprintf(head_option, sizeof head_option, "auto");
}

/* What a stage takes of the device's memory: half the layers' tables and KV cache, no head's
 * activations. */
static void test_memory(void **unused)
{
    struct qwen2_configs c = {
        .cache_config = {256, 256, 8, 0}, .quant_config = {"none"}, .n_ranks = 1, .n_pp_ranks = 1};
    struct device_options one = {0}, stage = {0};
    struct err e = {0};
    (void)unused;
    die_on(model_config_load(&c.config, "tests/models/quantized/pack-int4-zeros", "auto", &e), &e);
    qwen2_device_needs(&one, &c, &cpu_ops);
    c.n_pp_ranks = 2;
    qwen2_device_needs(&stage, &c, &cpu_ops);
    size_t tables = load_packed_bytes(&c.config, 2);
    assert_true(tables > 0 && load_packed_bytes(&c.config, 1) == tables / 2);
    assert_true(stage.arena_bytes + tables / 2 < one.arena_bytes);
}

/* ---- refusals ---- */

/* A copy of the model without one of its tensors: every stage says so, whosever it is. */
static void test_every_stage_checks_the_whole_checkpoint(void **unused)
{
    struct qwen2_configs c = {
        .cache_config = {8, 8, 1, 0}, .quant_config = {"none"}, .n_ranks = 1, .n_pp_ranks = 2};
    struct err e = {0};
    const char *dir = "tests/models/seqcls";
    (void)unused;
    die_on(model_config_load(&c.config, dir, "auto", &e), &e);
    c.config.n_layers++; /* the file lacks the last layer; or has one too many */
    for (int turn = 0; turn < 2; turn++, c.config.n_layers -= 2)
        for (c.pp_rank = 0; c.pp_rank < 2 && c.config.n_layers > 1; c.pp_rank++) {
            struct scorer s = {.ops = &cpu_ops};
            struct device_options o = {.n_threads = 1, .isa = "auto"};
            die_on(weights_open(&s.weights, dir, &e), &e);
            die_on(
                model_choose_type(&c.config, "auto", &c.quant_config, s.weights, &cpu_ops, &e), &e);
            qwen2_device_needs(&o, &c, &cpu_ops);
            die_on(cpu_ops.device->open(&s.device, &o, &e), &e);
            die_on(qwen2_reward_model_init(&s.model, &c, &cpu_ops, s.device, &e), &e);
            assert_int_equal(
                qwen2_reward_model_load_weights(&s.model, s.weights, &e), ASSAY_EFORMAT);
            assert_non_null(strstr(e.msg, "layers.2."));
            scorer_close(&s);
        }
}

static void test_intermediate_tensors_that_do_not_belong(void **unused)
{
    static const int32_t ids[] = {1, 2, 3}, positions[] = {0, 1, 2};
    static const uint32_t cu[] = {0, 3};
    struct chain c;
    struct err e = {0};
    struct attn_metadata meta = {.n_rows = 1, .cu_seqlens = cu, .max_seqlen = 3};
    struct forward_inputs in = {.input_ids = ids, .positions = positions, .attn_metadata = &meta};
    struct intermediate_tensors out, given;
    (void)unused;
    chain_open(&c, "seqcls", 2);
    struct qwen2_reward_model *first = &c.stages[0].model, *last = &c.stages[1].model;
    assert_int_equal(qwen2_reward_model_forward(last, &in, &out, &e), ASSAY_EBADREQ);
    assert_non_null(strstr(e.msg, "intermediate_tensors: pipeline stage 1: expected those of the"));
    given = qwen2_reward_model_make_empty_intermediate_tensors(first, 3);
    in.intermediate_tensors = &given;
    assert_int_equal(qwen2_reward_model_forward(first, &in, &out, &e), ASSAY_EBADREQ);
    assert_non_null(strstr(e.msg, "intermediate_tensors: pipeline stage 0: expected NULL"));
    given = qwen2_reward_model_make_empty_intermediate_tensors(last, 2);
    assert_int_equal(qwen2_reward_model_forward(last, &in, &out, &e), ASSAY_EFORMAT);
    assert_non_null(strstr(e.msg, "intermediate_tensors: expected [3, "));
    given = qwen2_reward_model_make_empty_intermediate_tensors(last, 3);
    given.residual.cols--;
    assert_int_equal(qwen2_reward_model_forward(last, &in, &out, &e), ASSAY_EFORMAT);
    chain_close(&c);
}

/* A hand-over's tensors are of its token and its size, or refused. */
static void test_hand_overs_that_do_not_fit(void **unused)
{
    struct chain c;
    struct err e = {0};
    struct stage_token token = {.sequence = 7, .generation = 1}, other = token;
    (void)unused;
    chain_open(&c, "seqcls", 2);
    struct qwen2_reward_model *first = &c.stages[0].model, *last = &c.stages[1].model;
    struct intermediate_tensors three =
                                    qwen2_reward_model_make_empty_intermediate_tensors(first, 3),
                                four = qwen2_reward_model_make_empty_intermediate_tensors(last, 4),
                                same = qwen2_reward_model_make_empty_intermediate_tensors(last, 3);
    other.generation++;
    die_on(pipeline_send(c.pipelines[0], &token, &three, &e), &e);
    pipeline_sent(c.pipelines[0]);
    die_on(pipeline_receive(c.pipelines[1], &token, &same, &e), &e);
    assert_int_equal(pipeline_receive(c.pipelines[1], &token, &four, &e), ASSAY_EFORMAT);
    assert_non_null(strstr(e.msg, "hand-over 7: expected [4, "));
    assert_int_equal(pipeline_receive(c.pipelines[1], &other, &same, &e), ASSAY_EFORMAT);
    four.residual.rows = four.hidden_states.rows = MAX_TOKENS + 1;
    assert_int_equal(pipeline_send(c.pipelines[0], &token, &four, &e), ASSAY_ETOOLARGE);
    chain_close(&c);
}

static void test_a_segment_of_another_size(void **unused)
{
    struct err e = {0};
    struct pipeline *p;
    struct pipeline_options o = {.n_ranks = 1,
        .n_pp_ranks = 2,
        .max_tokens = 8,
        .hidden_size = 16,
        .deadline_ms = 1000,
        .ops = cpu_ops.device};
    int fd = stage_segment_new(stage_pipeline_bytes(3, 8, 16), &e);
    (void)unused;
    assert_true(fd >= 0);
    assert_int_equal(pipeline_new(&p, fd, &o, &e), ASSAY_EFORMAT);
    assert_null(p);
    o.n_pp_ranks = 3;
    die_on(pipeline_new(&p, fd, &o, &e), &e);
    pipeline_free(&p);
    close(fd);
}

/* Nothing comes: the process ends with the code of a rank whose peers are missing. */
static void test_nothing_comes(void **unused)
{
    struct chain c;
    struct err e = {0};
    struct stage_token token = {.sequence = 7};
    int status;
    (void)unused;
    chain_open(&c, "seqcls", 2);
    struct intermediate_tensors t =
        qwen2_reward_model_make_empty_intermediate_tensors(&c.stages[1].model, 1);
    pid_t pid = fork();
    if (pid == 0) {
        pipeline_receive(c.pipelines[1], &token, &t, &e);
        _exit(0);
    }
    waitpid(pid, &status, 0);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), COMM_EXIT_DEADLINE);
    chain_close(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_split),
        cmocka_unit_test(test_more_stages_than_layers), cmocka_unit_test(test_every_architecture),
        cmocka_unit_test(test_types), cmocka_unit_test(test_quantized_checkpoints),
        cmocka_unit_test(test_adapters), cmocka_unit_test(test_each_tensor_is_on_one_stage),
        cmocka_unit_test(test_memory),
        cmocka_unit_test(test_every_stage_checks_the_whole_checkpoint),
        cmocka_unit_test(test_intermediate_tensors_that_do_not_belong),
        cmocka_unit_test(test_hand_overs_that_do_not_fit),
        cmocka_unit_test(test_a_segment_of_another_size), cmocka_unit_test(test_nothing_comes)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
