/* side_class.c - see side_class.h. */
#include "broker/text/side_class.h"

#include <string.h>

#include "broker/text/split.h"

#define CONFIG "tokenizer_config.json"

struct reading {
    json_t *root;
    const json_t *settings;
    struct side_class *class;
    struct err *e;
};

/* ---- the class ---- */

static int strip_fast(const char *name)
{
    size_t n = strlen(name);
    return (int)(n > 4 && strcmp(name + n - 4, "Fast") == 0 ? n - 4 : n);
}

static int class_is(const char *name, const char *class)
{
    return strip_fast(name) == (int)strlen(class) && strncmp(name, class, strlen(class)) == 0;
}

/* Is "ByteLevel" written anywhere? Then a file is loaded as it is, whatever class is named. */
static int names_byte_level(const json_t *v)
{
    const char *key, *text = json_string_value(v);
    json_t *item;
    size_t k;
    if (text)
        return strcmp(text, "ByteLevel") == 0;
    json_array_foreach((json_t *)v, k, item) if (names_byte_level(item)) return 1;
    json_object_foreach((json_t *)v, key,
        item) if (strcmp(key, "ByteLevel") == 0 || names_byte_level(item)) return 1;
    return 0;
}

/* A type for which transformers takes its generic class where Llama's or Qwen2's is named. */
static int is_mistral(const char *type)
{
    static const char *const types[] = {
        "mistral", "mistral3", "ministral", "ministral3", "mixtral"};
    for (size_t i = 0; type && i < sizeof types / sizeof types[0]; i++)
        if (strcmp(type, types[i]) == 0)
            return 1;
    return 0;
}

static int choose_class(struct reading *s, const json_t *config)
{
    static const char *const generic[] = {
        "PreTrainedTokenizer", "TokenizersBackend", "PythonBackend", "LlamaTokenizer"};
    const char *type = json_string_value(json_object_get(config, "model_type"));
    const char *class = json_string_value(json_object_get(s->settings, "tokenizer_class"));
    if (!class)
        class = json_string_value(json_object_get(config, "tokenizer_class"));
    int is_qwen3 = type && strcmp(type, "qwen3") == 0;
    if (class && is_mistral(type) && class_is(class, "Qwen2Tokenizer"))
        class = NULL; /* transformers takes the generic one */
    s->class->is_qwen2 = (type && strcmp(type, "qwen2") == 0) ||
                         (class ? class_is(class, "Qwen2Tokenizer") : is_qwen3);
    s->class->is_llama = !s->class->is_qwen2 && class && class_is(class, "LlamaTokenizer") &&
                         !is_mistral(type) && !names_byte_level(s->root);
    for (size_t i = 0; class && !s->class->is_qwen2 && i < sizeof generic / sizeof generic[0]; i++)
        if (class_is(class, generic[i]))
            class = NULL;
    if (class && !s->class->is_qwen2)
        return err_set(s->e, ASSAY_EFORMAT,
            CONFIG ": tokenizer_class: expected Qwen2Tokenizer, PreTrainedTokenizerFast, "
                   "TokenizersBackend "
                   "or LlamaTokenizer, found '%.80s'",
            class);
    return 0;
}

/* ---- refusals ---- */

static int check_settings(const struct reading *s)
{
    const json_t *map = json_object_get(s->settings, "auto_map");
    if (json_is_array(map) || json_object_get(map, "AutoTokenizer"))
        return err_set(
            s->e, ASSAY_EFORMAT, CONFIG ": auto_map: a tokenizer that is code is not run");
    if (json_is_true(json_object_get(s->settings, "split_special_tokens")))
        return err_set(
            s->e, ASSAY_EFORMAT, CONFIG ": split_special_tokens: expected false, found true");
    if (json_is_true(json_object_get(s->settings, "fix_mistral_regex")))
        return err_set(s->e, ASSAY_EFORMAT,
            CONFIG ": fix_mistral_regex: expected false, found true, for which transformers puts "
                   "another pattern in tokenizer.json's place: save the tokenizer that it made "
                   "(tokenizer.backend_tokenizer.save), and set the key to false");
    if (json_array_size(json_object_get(s->settings, "fast_tokenizer_files")) > 0)
        return err_set(
            s->e, ASSAY_EFORMAT, CONFIG ": fast_tokenizer_files: expected none, found some");
    const json_t *add = json_object_get(s->settings, "add_special_tokens");
    if (add && !json_is_true(add))
        return err_set(s->e, ASSAY_EFORMAT,
            CONFIG ": add_special_tokens: expected no such key, at which transformers fails, found "
                   "another value than true");
    if (s->class->is_qwen2 && json_is_true(json_object_get(s->settings, "add_prefix_space")))
        return err_set(
            s->e, ASSAY_EFORMAT, CONFIG ": add_prefix_space: expected false, found true");
    return 0;
}

static int contradicts(const struct reading *s, const char *field, const char *expected)
{
    return err_set(s->e, ASSAY_EFORMAT,
        "tokenizer.json: %s: expected %s, as transformers' Qwen2Tokenizer has it whatever the file "
        "says, found "
        "another; send ids",
        field, expected);
}

static int has_text(const json_t *object, const char *key, const char *text)
{
    const char *found = json_string_value(json_object_get(object, key));
    return found && strcmp(found, text) == 0;
}

static int is_qwen2_pre_tokenizer(const json_t *v)
{
    const json_t *list = json_object_get(v, "pretokenizers");
    const json_t *split = json_array_get(list, 0), *bytes = json_array_get(list, 1);
    const char *regex =
        json_string_value(json_object_get(json_object_get(split, "pattern"), "Regex"));
    return has_text(v, "type", "Sequence") && json_array_size(list) == 2 &&
           has_text(split, "type", "Split") && regex && split_pattern_digits(regex) == 1 &&
           has_text(split, "behavior", "Isolated") &&
           !json_is_true(json_object_get(split, "invert")) &&
           has_text(bytes, "type", "ByteLevel") &&
           !json_is_true(json_object_get(bytes, "add_prefix_space")) &&
           json_is_false(json_object_get(bytes, "use_regex"));
}

/* Qwen2Tokenizer has its own normalizer and pre_tokenizer, whatever tokenizer.json says, so a file
 * that differs is refused. */
static int check_form(const struct reading *s)
{
    const json_t *n = json_object_get(s->root, "normalizer");
    const json_t *list = json_object_get(n, "normalizers");
    if (json_array_size(list) == 1)
        n = json_array_get(list, 0);
    const char *type = json_string_value(json_object_get(n, "type"));
    if (!type || strcmp(type, "NFC") != 0)
        return contradicts(s, "normalizer", "NFC");
    if (!is_qwen2_pre_tokenizer(json_object_get(s->root, "pre_tokenizer")))
        return contradicts(
            s, "pre_tokenizer", "Qwen2's pattern and ByteLevel without add_prefix_space");
    if (json_is_true(json_object_get(json_object_get(s->root, "model"), "ignore_merges")))
        return contradicts(s, "model.ignore_merges", "false");
    return 0;
}

/* LlamaTokenizer takes vocabulary and merges from the file, and has the rest of its own. */
static void take_llama_form(const struct reading *s)
{
    const json_t *prefix = json_object_get(s->settings, "add_prefix_space");
    int is_off = prefix && !json_is_null(prefix) && !json_is_true(prefix);
    int is_legacy = json_is_true(json_object_get(s->settings, "legacy"));
    json_t *model = json_object_get(s->root, "model");
    json_object_set_new(s->root, "normalizer", json_null());
    json_object_set_new(s->root, "pre_tokenizer",
        json_pack("{s:s, s:s, s:s, s:b}", "type", "Metaspace", "replacement", "\xe2\x96\x81",
            "prepend_scheme",
            is_off      ? "never"
            : is_legacy ? "always"
                        : "first",
            "split", 0));
    json_object_set_new(model, "byte_fallback", json_true());
    json_object_set_new(model, "fuse_unk", json_true());
    static const char *const none[] = {
        "unk_token", "dropout", "ignore_merges", "continuing_subword_prefix", "end_of_word_suffix"};
    for (size_t i = 0; json_is_object(model) && i < sizeof none / sizeof none[0]; i++)
        json_object_del(model, none[i]);
}

int side_class_read(
    struct side_class *c, json_t *root, const json_t *settings, const json_t *config, struct err *e)
{
    struct reading s = {root, settings, c, e};
    int rc = choose_class(&s, config);
    if (rc == 0)
        rc = check_settings(&s);
    if (rc == 0 && c->is_qwen2)
        rc = check_form(&s);
    if (rc == 0 && c->is_llama)
        take_llama_form(&s);
    return rc;
}
