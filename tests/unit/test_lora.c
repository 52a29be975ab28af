/* test_lora.c - adapters: the values of the model that PEFT merged each into, rows of several of
 * them in one batch; a row's bits whatever its batch; and what is refused, by name. Run from the
 * repository root. */
#include "tests/unit/batch_invariance.h"

#include <sys/stat.h>

static const char *const files[] = {"lora/reward.json", "lora/seqcls.json"};

static void test_golden(void **unused)
{
    static float values[MAX_VALUES];
    (void)unused;
    for (int f = 0; f < 2; f++) {
        struct vector v = vector_open(files[f]);
        struct scorer s;
        count_values(&v);
        assert_true(v.n_rows == 24 && n_adapters == 3);
        scorer_open(&s, &cpu_ops, v.model, "auto", 2);
        score_all(&s, &v, values);
        scorer_close(&s);
        check_values(&v, values);
        vector_close(&v);
    }
}

static void test_tensor_parallel(void **unused)
{
    static float values[MAX_VALUES];
    (void)unused;
    for (int f = 0; f < 2; f++) {
        struct vector v = vector_open(files[f]);
        count_values(&v);
        score_ranks(&cpu_ops, &v, 2, values);
        check_values(&v, values);
        vector_close(&v);
    }
}

static void test_batch_invariance(void **unused)
{
    (void)unused;
    check_batch_invariance(files[0], 20);
    check_batch_invariance(files[1], 20);
}

/* Rows of the base have the bits that they have where no adapter is loaded. */
static void test_the_base_is_as_without_adapters(void **unused)
{
    static float with[MAX_VALUES], without[MAX_VALUES];
    struct vector v = vector_open(files[0]);
    struct scorer s;
    uint32_t base[MAX_ROWS], all[MAX_ROWS], n = 0, at = 0, compared = 0;
    (void)unused;
    for (uint32_t r = 0; r < v.n_rows; r++) {
        all[r] = r;
        if (v.rows[r].stage.adapter == 0)
            base[n++] = r;
    }
    scorer_open(&s, &cpu_ops, v.model, "auto", 2);
    score(&s, &v, all, v.n_rows, 1, with);
    scorer_close(&s);
    n_adapters = 0;
    scorer_open(&s, &cpu_ops, v.model, "auto", 2);
    score(&s, &v, base, n, 1, without);
    scorer_close(&s);
    for (uint32_t r = 0; r < v.n_rows; at += v.rows[r++].stage.n_values)
        if (v.rows[r].stage.adapter == 0) {
            assert_memory_equal(
                with + at, without + compared, v.rows[r].stage.n_values * sizeof *with);
            compared += v.rows[r].stage.n_values;
        }
    assert_int_equal(n, 6);
    vector_close(&v);
}

/* ---- what is refused ---- */

#define MADE "build/test-lora"

static void copy_file(const char *from, const char *to)
{
    char block[1 << 16];
    FILE *in = fopen(from, "rb"), *out = fopen(to, "wb");
    size_t n;
    assert_true(in && out);
    while ((n = fread(block, 1, sizeof block, in)) > 0)
        assert_int_equal(fwrite(block, 1, n, out), n);
    fclose(in);
    assert_int_equal(fclose(out), 0);
}

/* Opens reward-all with `change` merged into its config (null deletes a key). */
static int open_changed(const char *change, struct err *e)
{
    struct model_config c;
    struct lora_adapter a;
    json_t *config = json_load_file("tests/models/lora/reward-all/adapter_config.json", 0, NULL);
    json_t *with = json_loads(change, 0, NULL);
    assert_true(config && with);
    assert_int_equal(json_object_update(config, with), 0);
    mkdir(MADE, 0700);
    copy_file("tests/models/lora/reward-all/adapter_model.safetensors",
        MADE "/adapter_model.safetensors");
    assert_int_equal(json_dump_file(config, MADE "/adapter_config.json", 0), 0);
    json_decref(config);
    json_decref(with);
    die_on(model_config_load(&c, "tests/models/reward", "auto", e), e);
    int rc = lora_open(&a, MADE, &c, e);
    lora_close(&a);
    return rc;
}

static void test_refusals(void **unused)
{
    static const struct {
        const char *change, *part;
    } cases[] = {
        {"{\"use_dora\":true}", "use_dora: expected false"},
        {"{\"peft_type\":\"LOHA\"}", "peft_type: expected \"LORA\""},
        {"{\"bias\":\"all\"}", "bias: expected \"none\""},
        {"{\"bias\":\"lora_only\"}", "found \"lora_only\""},
        {"{\"lora_bias\":true}", "lora_bias"},
        {"{\"fan_in_fan_out\":true}", "fan_in_fan_out"},
        {"{\"layers_to_transform\":[0]}", "layers_to_transform"},
        {"{\"layer_replication\":[[0,1]]}", "layer_replication"},
        {"{\"exclude_modules\":[\"q_proj\"]}", "exclude_modules"},
        {"{\"use_qalora\":true}", "use_qalora"},
        {"{\"target_parameters\":[\"a\"]}", "target_parameters"},
        {"{\"trainable_token_indices\":[1]}", "trainable_token_indices"},
        {"{\"alora_invocation_tokens\":[1]}", "alora_invocation_tokens"},
        {"{\"something_new\":1}", "something_new"},
        {"{\"init_lora_weights\":\"pissa\"}", "init_lora_weights"},
        {"{\"r\":0}", "r: expected"},
        {"{\"r\":257}", "r: expected"},
        {"{\"r\":4}", "shape: expected [4, 64]"},
        {"{\"lora_alpha\":\"16\"}", "lora_alpha: expected a number"},
        {"{\"lora_alpha\":null}", "lora_alpha: expected a number"},
        {"{\"rank_pattern\":{\"q_.*\":7}}", "q_proj.lora_A.weight': shape: expected [7, 64]"},
        {"{\"rank_pattern\":{\"(q\":8}}", "rank_pattern['(q']: expected a module's name"},
        {"{\"alpha_pattern\":{\"layers.[0-9]{,2}.self_attn.q_proj\":8}}", "read alike"},
        {"{\"alpha_pattern\":{\"layers.[0-9]{1, 2}.self_attn.q_proj\":8}}", "read alike"},
        {"{\"alpha_pattern\":{\"[[:alpha:]]_proj\":8}}", "read alike"},
        {"{\"alpha_pattern\":{\"[]a[=b=]_proj\":8}}", "read alike"},
        {"{\"target_modules\":\".*{,2}\"}", "read alike"},
        {"{\"rank_pattern\":{\"(.|.|.){12}[!?].*\":8}}", "that are quickly tried"},
        {"{\"rank_pattern\":{\"q_proj\":0}}", "a rank from 1 to 256"},
        {"{\"rank_pattern\":{\"q_proj\":7}}", "q_proj.lora_A.weight': shape: expected [7, 64]"},
        {"{\"alpha_pattern\":{\"q_proj\":\"x\"}}", "alpha_pattern['q_proj']: expected a number"},
        {"{\"target_modules\":[\"q_proj\"]}", "k_proj.lora_A.weight': expected none"},
        {"{\"target_modules\":\"(\"}", "target_modules: expected an expression"},
        {"{\"target_modules\":\".*q_proj\"}", "k_proj.lora_A.weight': expected none"},
        {"{\"target_modules\":\"(.|.|.){12}[!?].*\"}", "an expression that is quickly tried"},
        {"{\"target_modules\":[]}", "target_modules: expected names"},
        {"{\"target_modules\":[\"c_attn\"]}", "expected none"},
        {"{\"modules_to_save\":[\"score\",\"embed_tokens\"]}",
            "modules_to_save: expected the head"},
        {"{\"modules_to_save\":null}", "of a head that modules_to_save does not name"},
    };
    struct err e;
    (void)unused;
    assert_int_equal(open_changed("{}", &e), 0);
    assert_int_equal(open_changed("{\"base_model_name_or_path\":\"x\",\"unknown\":null}", &e), 0);
    assert_int_equal(open_changed("{\"target_modules\":\"all-linear\"}", &e), 0);
    assert_int_equal(
        open_changed("{\"init_lora_weights\":\"eva\",\"eva_config\":{\"rho\":2.0}}", &e), 0);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        int rc = open_changed(cases[i].change, &e);
        if (rc == 0 || !strstr(e.msg, cases[i].part))
            fail_msg("%s: expected '%s', found %d: %s", cases[i].change, cases[i].part, rc, e.msg);
    }
}

/* Which key of a pattern counts for which module: as PEFT 0.21's get_pattern_key says. */
static void test_keys_are_expressions(void **unused)
{
    static const char *const modules[] = {"model.layers.0.mlp.up_proj",
        "model.layers.1.self_attn.q_proj", "model.layers.11.mlp.up_proj"};
    static const struct {
        const char *keys; /* of alpha_pattern; the first has 1, the second 2 */
        int alpha[3];     /* of each module; lora_alpha is 16 */
    } cases[] = {{"{\"up.proj\":1}", {1, 16, 1}}, {"{\"q_proj\":1}", {16, 1, 16}},
        {"{\"proj\":1}", {16, 16, 16}}, {"{\"self_attn\":1}", {16, 16, 16}},
        {"{\"layers.1..mlp.up_proj\":1}", {16, 16, 1}},
        {"{\"self.attn.q_proj\":1,\"q_proj\":2}", {16, 1, 16}}, {"{\"q|up_proj\":1}", {1, 16, 1}},
        {"{\"(q|up)_proj\":1}", {1, 1, 1}}, {"{\"model\":1}", {16, 16, 16}},
        {"{\"model.*\":1}", {1, 1, 1}}, {"{\"layers\\\\.\\\\d+\\\\.mlp\\\\..*\":1}", {1, 16, 1}},
        {"{\"up_pro\":1}", {16, 16, 16}}, {"{\".*1.*\":1}", {16, 1, 1}},
        {"{\"\":1,\"up_proj\":2}", {2, 16, 2}}, {"{\"layers[.][0-9]{1,2}[.]mlp.*\":1}", {1, 16, 1}},
        {"{\"[]\\\\[:u]p_proj\":1}", {1, 16, 1}}};
    struct model_config c;
    struct err e;
    (void)unused;
    die_on(model_config_load(&c, "tests/models/reward", "auto", &e), &e);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct lora_file *f;
        struct lora_module_config found;
        char change[256];
        snprintf(change, sizeof change, "{\"r\":1,\"lora_alpha\":16,\"alpha_pattern\":%s}",
            cases[i].keys);
        (void)open_changed(change, &e);
        die_on(lora_file_read(&f, MADE, &c, &e), &e);
        for (int k = 0; k < 3; k++) {
            die_on(lora_file_module(f, modules[k], &found, &e), &e);
            assert_true(found.scale == cases[i].alpha[k]);
        }
        lora_file_free(&f);
    }
}

/* Every way to cut or spoil the file short of its header is an error, and none is a crash. */
static void test_damaged_files(void **unused)
{
    struct err e;
    struct model_config c;
    struct lora_adapter a;
    (void)unused;
    assert_int_equal(open_changed("{}", &e), 0);
    die_on(model_config_load(&c, "tests/models/reward", "auto", &e), &e);
    for (long bytes = 0; bytes < 12000; bytes += 997) {
        assert_int_equal(truncate(MADE "/adapter_model.safetensors", 12000 - bytes), 0);
        assert_int_equal(lora_open(&a, MADE, &c, &e), ASSAY_EFORMAT);
        lora_close(&a);
    }
    remove(MADE "/adapter_model.safetensors");
    assert_int_not_equal(lora_open(&a, MADE, &c, &e), 0);
    assert_non_null(strstr(e.msg, "adapter_model.safetensors"));
    lora_close(&a);
    remove(MADE "/adapter_config.json");
    assert_int_not_equal(lora_open(&a, MADE, &c, &e), 0);
    assert_non_null(strstr(e.msg, "adapter_config.json"));
    lora_close(&a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_golden),
        cmocka_unit_test(test_tensor_parallel), cmocka_unit_test(test_batch_invariance),
        cmocka_unit_test(test_the_base_is_as_without_adapters), cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_damaged_files), cmocka_unit_test(test_keys_are_expressions)};
    skip_missing_isas();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
