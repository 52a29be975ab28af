/* test_config.c - config.json with a key more, or with two that contradict each other: the scores
 * are the reference's, or it is refused by name. The cases, with the reference's values, are
 * tests/vectors/config/scores.json, made by tests/reference/make_config_vectors.py. */
#include "tests/unit/model_fixture.h"

#define N_IDS 40

static char dir[] = "/tmp/assay-config-XXXXXX";

/* A checkpoint of the model's weights and its config, changed, without some keys. */
static void write_checkpoint(const char *model, const json_t *change, const json_t *without)
{
    size_t i;
    const json_t *key;
    char path[512], target[1024], cwd[512];
    assert_non_null(getcwd(cwd, sizeof cwd));
    snprintf(path, sizeof path, "tests/models/%s/config.json", model);
    json_t *config = json_load_file(path, 0, NULL);
    assert_int_equal(json_object_update(config, (json_t *)change), 0);
    json_array_foreach(without, i, key)
        assert_int_equal(json_object_del(config, json_string_value(key)), 0);
    snprintf(path, sizeof path, "%s/config.json", dir);
    assert_int_equal(json_dump_file(config, path, 0), 0);
    json_decref(config);
    snprintf(path, sizeof path, "%s/model.safetensors", dir);
    snprintf(target, sizeof target, "%s/tests/models/%s/model.safetensors", cwd, model);
    unlink(path);
    assert_int_equal(symlink(target, path), 0);
}

__attribute__((format(printf, 1, 2))) static void write_config(const char *format, ...)
{
    char path[512];
    va_list args;
    snprintf(path, sizeof path, "%s/config.json", dir);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    va_start(args, format);
    vfprintf(f, format, args);
    va_end(args);
    assert_int_equal(fclose(f), 0);
}

static void check_refused(const char *change, const char *words)
{
    struct model_config config;
    struct err e = {0};
    int rc = model_config_load(&config, dir, "auto", &e);
    if (rc == 0 || !strstr(e.msg, words) || !strstr(e.msg, "config.json"))
        fail_msg("%s: expected to be refused with '%s', found %d '%s'", change, words, rc, e.msg);
}

static void check_scored(const char *change, const json_t *values)
{
    int32_t ids[N_IDS];
    float expected[8], found[8];
    uint32_t order[] = {0};
    struct scorer s;
    struct vector_row row = {.ids = ids, .positions = ids, .expected = expected};
    struct vector v = {.rows = &row, .n_rows = 1};
    for (int i = 0; i < N_IDS; i++)
        ids[i] = 5 + i;
    row.stage = (struct stage_row){
        .n_tokens = N_IDS, .pool.type = POOL_LAST, .n_values = (uint32_t)json_array_size(values)};
    assert_in_range(row.stage.n_values, 1, 8);
    scorer_open(&s, &cpu_ops, dir, "auto", 1);
    score(&s, &v, order, 1, 1, found);
    scorer_close(&s);
    for (uint32_t i = 0; i < row.stage.n_values; i++) {
        double reference = json_number_value(json_array_get(values, i));
        if (!(fabs((double)found[i] - reference) <= 1e-4))
            fail_msg("%s: expected %.9g, found %.9g", change, reference, (double)found[i]);
    }
}

static void each_key_is_honoured_or_refused(void **unused)
{
    (void)unused;
    json_t *root = json_load_file("tests/vectors/config/scores.json", 0, NULL), *v;
    size_t i;
    assert_true(json_array_size(json_object_get(root, "cases")) > 100);
    json_array_foreach(json_object_get(root, "cases"), i, v)
    {
        const json_t *change = json_object_get(v, "change"), *word = json_object_get(v, "refused");
        char *text = json_dumps(v, JSON_COMPACT);
        write_checkpoint(
            json_string_value(json_object_get(v, "model")), change, json_object_get(v, "without"));
        if (word)
            check_refused(text, json_string_value(word));
        else
            check_scored(text, json_object_get(v, "values"));
        free(text);
    }
    json_decref(root);
}

/* What the classes fill in, as they print it; the sizes of tests/models would not show it. */
static void what_is_left_out_is_the_classes_default(void **unused)
{
    static const struct {
        const char *architecture, *keys;
        uint32_t n_kv_heads, head_dim, max_position, window;
    } cases[] = {
        {"Qwen2ForRewardModel", "", 32, 2, 32768, 0},
        {"Qwen2ForSequenceClassification", "", 32, 2, 32768, 0},
        {"Qwen2ForSequenceClassification", ", \"num_key_value_heads\": null", 64, 2, 32768, 0},
        {"Qwen2ForTokenClassification", ", \"use_sliding_window\": true", 32, 2, 32768, 4096},
        {"Qwen3ForSequenceClassification", "", 32, 128, 32768, 0},
        {"Qwen3ForSequenceClassification",
            ", \"num_key_value_heads\": null, \"use_sliding_window\": true", 64, 128, 32768, 4096},
        {"LlamaForSequenceClassification", "", 64, 2, 2048, 0},
        {"LlamaForSequenceClassification",
            ", \"num_key_value_heads\": null, \"use_sliding_window\": true", 64, 2, 2048, 0},
        {"LlamaForTokenClassification", "", 64, 2, 2048, 0},
        {"MistralForSequenceClassification", "", 8, 2, 131072, 4096},
        {"MistralForTokenClassification",
            ", \"num_key_value_heads\": null, \"sliding_window\": null", 64, 2, 131072, 0},
    };
    (void)unused;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct model_config c;
        struct err e = {0};
        write_config("{\"architectures\": [\"%s\"], \"hidden_size\": 128, \"vocab_size\": 256, "
                     "\"intermediate_size\": 80, \"num_hidden_layers\": 30, "
                     "\"num_attention_heads\": 64%s}",
            cases[i].architecture, cases[i].keys);
        if (model_config_load(&c, dir, "auto", &e) != 0)
            fail_msg("case %zu: %s", i, e.msg);
        assert_int_equal(c.n_kv_heads, cases[i].n_kv_heads);
        assert_int_equal(c.head_dim, cases[i].head_dim);
        assert_int_equal(c.max_position, cases[i].max_position);
        assert_int_equal(c.sliding_window, cases[i].window);
        assert_int_equal(c.layer_slides[27], cases[i].max_position == 131072 && c.sliding_window);
        assert_int_equal(c.layer_slides[28], cases[i].window > 0);
        assert_int_equal(c.n_labels, strstr(cases[i].architecture, "Reward") ? 1 : 2);
        assert_true(c.rope.theta == 10000 && c.rms_norm_eps == 1e-6f);
    }
}

/* What Python's json reads and JSON has not; a key twice, of which Python takes the last. */
static void what_is_not_json_is_refused(void **unused)
{
    static const struct {
        const char *text, *words;
    } cases[] = {{"\"rms_norm_eps\": NaN", "not JSON"}, {"\"rope_theta\": Infinity", "not JSON"},
        {"\"rope_theta\": {\"__float__\": \"Infinity\"}", "duplicate"},
        {"\"sliding_window\": {\"__float__\": \"NaN\"}, \"use_sliding_window\": true",
            "sliding_window: expected an integer"},
        {"\"rope_theta\": 10000.0", "duplicate"}};
    (void)unused;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        write_config(
            "{\"architectures\": [\"Qwen2ForSequenceClassification\"], \"hidden_size\": 64, "
            "\"intermediate_size\": 80, \"num_hidden_layers\": 2, "
            "\"num_attention_heads\": 4, \"num_key_value_heads\": 2, \"vocab_size\": 256, "
            "\"max_position_embeddings\": 64, \"rms_norm_eps\": 1e-6, "
            "\"rope_theta\": 5000, %s}",
            cases[i].text);
        check_refused(cases[i].text, cases[i].words);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_key_is_honoured_or_refused),
        cmocka_unit_test(what_is_left_out_is_the_classes_default),
        cmocka_unit_test(what_is_not_json_is_refused),
    };
    char path[512];
    if (!mkdtemp(dir))
        return 1;
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    snprintf(path, sizeof path, "%s/config.json", dir);
    unlink(path);
    snprintf(path, sizeof path, "%s/model.safetensors", dir);
    unlink(path);
    rmdir(dir);
    return failed;
}
