/* test_config.c - config.json with a key more, or with two that contradict each other: the scores
 * are the reference's, or it is refused by name. The cases, with the reference's values, are
 * tests/vectors/config/scores.json, made by tests/reference/make_config_vectors.py. */
#include "tests/unit/model_fixture.h"

#define N_IDS 40

static char dir[] = "/tmp/assay-config-XXXXXX";

/* A checkpoint of the model's weights and its config, changed. */
static void write_checkpoint(const char *model, const json_t *change)
{
    char path[512], target[1024], cwd[512];
    assert_non_null(getcwd(cwd, sizeof cwd));
    snprintf(path, sizeof path, "tests/models/%s/config.json", model);
    json_t *config = json_load_file(path, 0, NULL);
    assert_int_equal(json_object_update(config, (json_t *)change), 0);
    snprintf(path, sizeof path, "%s/config.json", dir);
    assert_int_equal(json_dump_file(config, path, 0), 0);
    json_decref(config);
    snprintf(path, sizeof path, "%s/model.safetensors", dir);
    snprintf(target, sizeof target, "%s/tests/models/%s/model.safetensors", cwd, model);
    unlink(path);
    assert_int_equal(symlink(target, path), 0);
}

static void check_refused(const char *change, const char *words)
{
    struct model_config config;
    struct err e = {0};
    int rc = model_config_load(&config, dir, &e);
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
        .n_tokens = N_IDS, .pool_type = POOL_LAST, .n_values = (uint32_t)json_array_size(values)};
    assert_in_range(row.stage.n_values, 1, 8);
    scorer_open(&s, &cpu_ops, dir, "auto", 1, -1, 0, 1);
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
        char *text = json_dumps(change, JSON_COMPACT);
        write_checkpoint(json_string_value(json_object_get(v, "model")), change);
        if (word)
            check_refused(text, json_string_value(word));
        else
            check_scored(text, json_object_get(v, "values"));
        free(text);
    }
    json_decref(root);
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
    char path[512];
    (void)unused;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        snprintf(path, sizeof path, "%s/config.json", dir);
        FILE *f = fopen(path, "w");
        assert_non_null(f);
        fprintf(f,
            "{\"architectures\": [\"Qwen2ForSequenceClassification\"], \"hidden_size\": 64, "
            "\"intermediate_size\": 80, \"num_hidden_layers\": 2, \"num_attention_heads\": 4, "
            "\"num_key_value_heads\": 2, \"vocab_size\": 256, \"max_position_embeddings\": 64, "
            "\"rms_norm_eps\": 1e-6, \"rope_theta\": 5000, %s}",
            cases[i].text);
        assert_int_equal(fclose(f), 0);
        check_refused(cases[i].text, cases[i].words);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_key_is_honoured_or_refused),
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
