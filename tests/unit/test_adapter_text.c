/* test_adapter_text.c - the tokenizer's files beside an adapter: taken where they write rows as the
 * base's do, refused by name where they do not. Run from the repository root. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "broker/text/adapter_text.h"
#include "broker/text/compose.h"

static const char *const names[] = {"tokenizer.json", "tokenizer_config.json"};
static char here[] = "/tmp/assay-adapter-text-XXXXXX";

static json_t *parse(const char *text)
{
    json_t *v = json_loads(text, JSON_DECODE_ANY, NULL);
    assert_non_null(v);
    return v;
}

/* Writes a model's files into the folder, changed: each of `changes`, in the order of `names`, is
 * an object whose values replace or add what is there; NULL: none. */
static void write_files(const char *folder, const char *model, const char *const changes[2])
{
    for (int i = 0; i < 2; i++) {
        char path[256];
        snprintf(path, sizeof path, "tests/models/%s/%s", model, names[i]);
        json_t *v = json_load_file(path, 0, NULL);
        assert_non_null(v);
        if (changes[i]) {
            json_t *change = parse(changes[i]);
            assert_int_equal(json_object_update(v, change), 0);
            json_decref(change);
        }
        snprintf(path, sizeof path, "%s/%s/%s", here, folder, names[i]);
        assert_int_equal(json_dump_file(v, path, 0), 0);
        json_decref(v);
    }
}

static void write_config(const char *model_type)
{
    char path[256];
    json_t *v = json_pack("{s:s}", "model_type", model_type);
    snprintf(path, sizeof path, "%s/base/config.json", here);
    assert_int_equal(json_dump_file(v, path, 0), 0);
    json_decref(v);
}

static uint32_t max_length; /* that the last check found */

/* What the check says of the files in `adapter` beside those in `base`: "" if they are taken. */
static const char *check(void)
{
    static struct err e;
    struct text_model m = {0};
    struct text_options o = {.architecture = ""};
    char base[256], adapter[256];
    snprintf(base, sizeof base, "%s/base", here);
    snprintf(adapter, sizeof adapter, "%s/adapter", here);
    e = (struct err){0};
    assert_int_equal(text_model_load(&m, base, &o, &e), 0);
    assert_non_null(m.tokenizer);
    int rc = adapter_text_check(&m, &o, "a", adapter, &max_length, &e);
    text_model_release(&m);
    return rc == 0 ? "" : e.msg;
}

#define GENERIC "\"tokenizer_class\":\"PreTrainedTokenizerFast\""
#define FRAME(token)                                                                               \
    "{\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"Sequence\":{\"id\":"      \
    "\"A\",\"type_id\":0}},{\"SpecialToken\":{\"id\":\"" token "\",\"type_id\":0}}],\"pair\":[],"  \
    "\"special_tokens\":{\"" token "\":{\"id\":\"" token "\",\"ids\":[%d],\"tokens\":[\"" token    \
    "\"]}}}}"

static void test_what_little_differs(void **unused)
{
    static const struct {
        const char *base[2], *adapter[2], *words; /* "": it is taken */
    } cases[] = {
        {{NULL, NULL}, {NULL, NULL}, ""},
        {{NULL, "{" GENERIC "}"}, {"{\"normalizer\":null}", "{" GENERIC "}"},
            "difference in the normalizer"},
        {{NULL, NULL}, {NULL, "{\"pad_token\":\"<|im_end|>\"}"}, ""},
        {{NULL, "{\"chat_template\":\"{{ messages[0].content + pad_token }}\"}"},
            {NULL, "{\"chat_template\":\"{{ messages[0].content + pad_token }}\",\"pad_token\":"
                   "\"<|im_end|>\"}"},
            "expected the base's pad_token"},
        {{NULL, "{\"chat_template\":\"{{ messages[0].content + pad_token }}\"}"},
            {NULL, "{\"chat_template\":\"{{ messages[0].content + pad_token }}\"}"}, ""},
        {{NULL, NULL}, {NULL, "{\"truncation_side\":\"left\"}"},
            "expected the base's truncation_side"},
        {{NULL, NULL}, {NULL, "{\"bos_token\":\"<|im_end|>\"}"}, "expected the base's bos_token"},
        {{NULL, "{\"bos_token\":\"<|im_end|>\"}"}, {NULL, NULL}, "expected the base's bos_token"},
    };
    (void)unused;
    write_config("llama");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        write_files("base", "demo-reward", cases[i].base);
        write_files("adapter", "demo-reward", cases[i].adapter);
        const char *found = check();
        if (cases[i].words[0] ? !strstr(found, cases[i].words) : found[0] != '\0')
            fail_msg("case %zu: expected '%s', found '%s'", i, cases[i].words, found);
    }
}

static void test_another_token_behind_a_text(void **unused)
{
    char end[512], other[512];
    snprintf(end, sizeof end, FRAME("<|im_end|>"), 297);
    snprintf(other, sizeof other, FRAME("<|endoftext|>"), 295);
    (void)unused;
    write_config("llama");
    write_files("base", "demo-reward", (const char *const[2]){end, "{" GENERIC "}"});
    write_files("adapter", "demo-reward", (const char *const[2]){end, "{" GENERIC "}"});
    assert_string_equal(check(), "");
    write_files("adapter", "demo-reward", (const char *const[2]){other, "{" GENERIC "}"});
    assert_non_null(strstr(check(), "difference in the tokens before and behind a text"));
}

/* What LlamaTokenizer means depends on the model's type, which an adapter's directory does not
 * say. */
static void test_the_base_s_model_type_counts(void **unused)
{
    static const char *const llama[2] = {NULL, "{\"tokenizer_class\":\"LlamaTokenizer\"}"};
    (void)unused;
    write_config("mistral");
    write_files("base", "recipe-mistral", llama);
    write_files("adapter", "recipe-mistral", llama);
    assert_string_equal(check(), "");
}

static void test_another_model_type_beside_an_adapter(void **unused)
{
    char path[256];
    (void)unused;
    write_config("llama");
    write_files("base", "demo-reward", (const char *const[2]){NULL, "{" GENERIC "}"});
    write_files("adapter", "demo-reward", (const char *const[2]){NULL, NULL});
    snprintf(path, sizeof path, "%s/adapter/config.json", here);
    for (int same = 0; same < 2; same++) {
        json_t *v = json_pack("{s:s}", "model_type", same ? "llama" : "gpt2");
        assert_int_equal(json_dump_file(v, path, 0), 0);
        json_decref(v);
        const char *found = check();
        if (same)
            assert_string_equal(found, "");
        else
            assert_non_null(strstr(found, "expected the base's, llama"));
    }
    assert_int_equal(unlink(path), 0);
}

static void test_the_length_that_an_adapter_leaves(void **unused)
{
    (void)unused;
    write_config("llama");
    write_files("base", "demo-reward", (const char *const[2]){NULL, NULL});
    write_files("adapter", "demo-reward", (const char *const[2]){NULL, "{\"model_max_length\":8}"});
    assert_string_equal(check(), "");
    assert_int_equal(max_length, 8);
    write_files(
        "adapter", "demo-reward", (const char *const[2]){NULL, "{\"model_max_length\":1e30}"});
    assert_string_equal(check(), "");
    assert_int_equal(max_length, 0);
}

static void test_files_without_tokenizer_json(void **unused)
{
    char path[256];
    (void)unused;
    write_config("llama");
    write_files("base", "demo-reward", (const char *const[2]){NULL, NULL});
    write_files("adapter", "demo-reward", (const char *const[2]){NULL, NULL});
    snprintf(path, sizeof path, "%s/adapter/tokenizer.json", here);
    assert_int_equal(unlink(path), 0);
    assert_non_null(strstr(check(), "tokenizer_config.json: expected a tokenizer.json beside it"));
    write_files("adapter", "demo-reward", (const char *const[2]){NULL, NULL});
}

/* What the check says once `key` in this part of the adapter's tokenizer.json has this value. Of a
 * list its first is the part. */
static const char *check_with(const char *model, const char *in, const char *key, json_t *value)
{
    char path[256];
    write_files("adapter", model, (const char *const[2]){NULL, "{" GENERIC "}"});
    snprintf(path, sizeof path, "%s/adapter/tokenizer.json", here);
    json_t *root = json_load_file(path, 0, NULL), *part = json_object_get(root, in);
    part = json_is_array(part) ? json_array_get(part, 0) : part;
    assert_int_equal(json_object_set_new(part, key, value), 0);
    assert_int_equal(json_dump_file(root, path, 0), 0);
    json_decref(root);
    return check();
}

static void test_all_that_the_encoder_reads_is_compared(void **unused)
{
    static const struct {
        const char *model, *in, *key, *value, *words;
    } cases[] = {
        {"demo-reward", "model", "fuse_unk", "false", ""},
        {"demo-reward", "model", "ignore_merges", "true", ""}, /* each token is whole anyway */
        {"demo-reward", "added_tokens", "single_word", "true", "flags of the added tokens"},
        {"demo-reward", "added_tokens", "lstrip", "true", "flags of the added tokens"},
        {"demo-reward", "added_tokens", "normalized", "true", "flags of the added tokens"},
        {"recipe-mistral", "model", "byte_fallback", "true", ""},
        {"recipe-mistral", "model", "byte_fallback", "false",
            "unk_token, fuse_unk or byte_fallback"},
        {"recipe-mistral", "model", "fuse_unk", "false", "unk_token, fuse_unk or byte_fallback"},
        {"recipe-mistral", "model", "unk_token", "null", "unk_token, fuse_unk or byte_fallback"},
    };
    (void)unused;
    write_config("llama");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        write_files("base", cases[i].model, (const char *const[2]){NULL, "{" GENERIC "}"});
        const char *found =
            check_with(cases[i].model, cases[i].in, cases[i].key, parse(cases[i].value));
        if (cases[i].words[0] ? !strstr(found, cases[i].words) : found[0] != '\0')
            fail_msg("case %zu: expected '%s', found '%s'", i, cases[i].words, found);
    }
}

/* Merges as `left right`, as older files have them. */
static json_t *as_texts(const json_t *merges)
{
    json_t *texts = json_array(), *pair;
    size_t k;
    json_array_foreach((json_t *)merges, k, pair) json_array_append_new(
        texts, json_sprintf("%s %s", json_string_value(json_array_get(pair, 0)),
                   json_string_value(json_array_get(pair, 1))));
    return texts;
}

/* Two merges that change places show in the text of no single token. */
static void test_merges_are_compared(void **unused)
{
    (void)unused;
    write_config("llama");
    write_files("base", "demo-reward", (const char *const[2]){NULL, "{" GENERIC "}"});
    json_t *root = json_load_file("tests/models/demo-reward/tokenizer.json", 0, NULL);
    assert_non_null(root);
    json_t *merges = json_object_get(json_object_get(root, "model"), "merges");
    assert_string_equal(check_with("demo-reward", "model", "merges", as_texts(merges)), "");
    size_t last = json_array_size(merges) - 1;
    json_t *one = json_incref(json_array_get(merges, last - 1)); /* W-ork, and another word's */
    json_array_set(merges, last - 1, json_array_get(merges, last));
    json_array_set_new(merges, last, one);
    assert_non_null(strstr(check_with("demo-reward", "model", "merges", json_incref(merges)),
        "difference in the merges"));
    json_array_remove(merges, last);
    assert_non_null(strstr(check_with("demo-reward", "model", "merges", json_incref(merges)),
        "difference in the merges"));
    json_decref(root);
}

static int make_folders(void **unused)
{
    char path[256];
    (void)unused;
    if (!mkdtemp(here))
        return -1;
    snprintf(path, sizeof path, "%s/base", here);
    int rc = mkdir(path, 0700);
    snprintf(path, sizeof path, "%s/adapter", here);
    return rc == 0 ? mkdir(path, 0700) : rc;
}

/* Removes what the tests made. */
static int remove_folders(void **unused)
{
    static const char *const paths[] = {"base/tokenizer.json", "base/tokenizer_config.json",
        "base/config.json", "base", "adapter/tokenizer.json", "adapter/tokenizer_config.json",
        "adapter", ""};
    char path[256];
    (void)unused;
    for (size_t i = 0; i < sizeof paths / sizeof *paths; i++) {
        snprintf(path, sizeof path, "%s/%s", here, paths[i]);
        if (remove(path) != 0)
            return -1;
    }
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_what_little_differs),
        cmocka_unit_test(test_another_token_behind_a_text),
        cmocka_unit_test(test_the_base_s_model_type_counts),
        cmocka_unit_test(test_files_without_tokenizer_json),
        cmocka_unit_test(test_all_that_the_encoder_reads_is_compared),
        cmocka_unit_test(test_merges_are_compared),
        cmocka_unit_test(test_another_model_type_beside_an_adapter),
        cmocka_unit_test(test_the_length_that_an_adapter_leaves)};
    return cmocka_run_group_tests(tests, make_folders, remove_folders);
}
