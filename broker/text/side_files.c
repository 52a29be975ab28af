/* side_files.c - see side_files.h. Tokens are objects as in tokenizer.json's added_tokens, `normalized`
 * perhaps absent: then it is what `special` is not. */
#include "broker/text/side_files.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "broker/text/side_tokens.h"
#include "schema/json.h"
#include "schema/log.h"

#define MAX_BYTES (64u << 20)
#define CONFIG "tokenizer_config.json"
#define N_NAMED 7 /* the first so many of a list of named tokens are the standard ones */

static const char *const named_keys[N_NAMED] = {
    "bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"};

struct side {
    json_t *root, *settings; /* tokenizer.json; tokenizer_config.json, and what is merged into it */
    json_t *decoder;         /* array of tokens with their ids, ascending */
    json_t *named, *extra;   /* arrays: a token or null; a token */
    json_t *special;         /* set of the texts of both */
    struct side_tokens tokens; /* what there is so far */
    int is_qwen2;              /* transformers' class is Qwen2Tokenizer */
    struct err *e;
};

static int is_there(const char *dir, const char *name)
{
    char path[4096];
    return snprintf(path, sizeof path, "%s/%s", dir, name) >= (int)sizeof path ||
           access(path, F_OK) == 0 || errno != ENOENT;
}

/* An object, empty where there is no such file; NULL with *e. */
static json_t *read_optional(const char *dir, const char *name, struct err *e)
{
    if (!is_there(dir, name))
        return json_object();
    json_t *v = json_read_file(dir, name, MAX_BYTES, e);
    if (v && !json_is_object(v)) {
        json_decref(v);
        err_set(e, ASSAY_EFORMAT, "%s: expected an object", name);
        return NULL;
    }
    return v;
}

static json_t *plain_token(const char *content, int special)
{
    return json_pack("{s:s, s:b}", "content", content, "special", special);
}

/* A string or an AddedToken; NULL for what is neither. */
static json_t *token_from(const json_t *v, int special)
{
    if (json_is_string(v))
        return plain_token(json_string_value(v), 1);
    json_t *token = side_content(v) ? json_copy((json_t *)v) : NULL;
    if (token && special)
        json_object_set_new(token, "special", json_true());
    return token;
}

/* ---- which class ---- */

static int strip_fast(const char *name)
{
    size_t n = strlen(name);
    return (int)(n > 4 && strcmp(name + n - 4, "Fast") == 0 ? n - 4 : n);
}

static int class_is(const char *name, const char *class)
{
    return strip_fast(name) == (int)strlen(class) && strncmp(name, class, strlen(class)) == 0;
}

static int choose_class(struct side *s, const json_t *config)
{
    static const char *const generic[] = {
        "PreTrainedTokenizer", "TokenizersBackend", "PythonBackend", "LlamaTokenizer"};
    const char *type = json_string_value(json_object_get(config, "model_type"));
    const char *class = json_string_value(json_object_get(s->settings, "tokenizer_class"));
    if (!class)
        class = json_string_value(json_object_get(config, "tokenizer_class"));
    int is_qwen3 = type && strcmp(type, "qwen3") == 0;
    s->is_qwen2 = (type && strcmp(type, "qwen2") == 0) ||
                  (class ? class_is(class, "Qwen2Tokenizer") : is_qwen3);
    for (size_t i = 0; class && !s->is_qwen2 && i < sizeof generic / sizeof generic[0]; i++)
        if (class_is(class, generic[i]))
            class = NULL;
    if (class && !s->is_qwen2)
        return err_set(s->e, ASSAY_EFORMAT,
            CONFIG ": tokenizer_class: expected Qwen2Tokenizer, PreTrainedTokenizerFast, "
                   "TokenizersBackend "
                   "or LlamaTokenizer, found '%.80s'",
            class);
    return 0;
}

/* ---- what is refused ---- */

static int check_settings(const struct side *s)
{
    const json_t *map = json_object_get(s->settings, "auto_map");
    if (json_is_array(map) || json_object_get(map, "AutoTokenizer"))
        return err_set(
            s->e, ASSAY_EFORMAT, CONFIG ": auto_map: a tokenizer that is code is not run");
    if (json_is_true(json_object_get(s->settings, "split_special_tokens")))
        return err_set(
            s->e, ASSAY_EFORMAT, CONFIG ": split_special_tokens: expected false, found true");
    if (json_array_size(json_object_get(s->settings, "fast_tokenizer_files")) > 0)
        return err_set(
            s->e, ASSAY_EFORMAT, CONFIG ": fast_tokenizer_files: expected none, found some");
    if (s->is_qwen2 && json_is_true(json_object_get(s->settings, "add_prefix_space")))
        return err_set(
            s->e, ASSAY_EFORMAT, CONFIG ": add_prefix_space: expected false, found true");
    return 0;
}

static int contradicts(const struct side *s, const char *field, const char *expected)
{
    return err_set(s->e, ASSAY_EFORMAT,
        "tokenizer.json: %s: expected %s, as transformers' Qwen2Tokenizer has it whatever the file "
        "says, found "
        "another; send ids",
        field, expected);
}

/* Qwen2Tokenizer takes of a tokenizer.json what it has no form of its own for. (What has none of the known
 * forms is refused by the reader.) */
static int check_form(const struct side *s)
{
    const json_t *n = json_object_get(s->root, "normalizer");
    const json_t *list = json_object_get(n, "normalizers");
    const json_t *split = json_array_get(
        json_object_get(json_object_get(s->root, "pre_tokenizer"), "pretokenizers"), 0);
    const char *regex =
        json_string_value(json_object_get(json_object_get(split, "pattern"), "Regex"));
    if (json_array_size(list) == 1)
        n = json_array_get(list, 0);
    const char *type = json_string_value(json_object_get(n, "type"));
    if (!type || strcmp(type, "NFC") != 0)
        return contradicts(s, "normalizer", "NFC");
    if (regex && strstr(regex, "\\p{N}{1,3}"))
        return contradicts(s, "pre_tokenizer", "digits one by one");
    if (json_is_true(json_object_get(json_object_get(s->root, "model"), "ignore_merges")))
        return contradicts(s, "model.ignore_merges", "false");
    return 0;
}

/* ---- what the files name ---- */

static int bad_token(const struct side *s, const char *key)
{
    return err_set(
        s->e, ASSAY_EFORMAT, CONFIG ": %.80s: expected a string, or an object with content", key);
}

/* What is no token is left to be refused where the settings are read. */
static json_t *token_or_bad(const json_t *v)
{
    json_t *token = token_from(v, 1);
    return token ? token : json_false();
}

/* special_tokens_map.json into the settings. */
static void merge_map(struct side *s, const json_t *map)
{
    const char *key;
    json_t *v, *item;
    size_t k;
    json_object_foreach((json_t *)map, key, v)
    {
        if (strcmp(key, "extra_special_tokens") == 0 && json_is_array(v)) {
            json_t *old = json_object_get(s->settings, key), *all = json_array();
            if (json_is_array(old))
                json_array_extend(all, old);
            json_array_foreach(v, k, item)
            {
                json_array_append_new(all, token_or_bad(item));
            }
            json_object_set_new(s->settings, key, all);
        } else if (json_is_object(v) && strcmp(key, "extra_special_tokens") != 0) {
            json_object_set_new(s->settings, key, token_or_bad(v));
        } else {
            json_object_set(s->settings, key, v);
        }
    }
}

/* Takes the token over; NULL: none of this name. */
static void append(struct side *s, json_t *list, json_t *token)
{
    if (!token)
        return;
    json_array_append_new(list, token);
    json_object_set_new(s->special, side_content(token), json_true());
}

static int name_tokens(struct side *s)
{
    static const char default_token[] = "<|endoftext|>"; /* of Qwen2Tokenizer */
    const json_t *padding = json_object_get(s->root, "padding");
    for (int i = 0; i < N_NAMED; i++) {
        const char *key = named_keys[i];
        const json_t *v = json_object_get(s->settings, key);
        json_t *token = NULL;
        int is_pad = strcmp(key, "pad_token") == 0;
        if (v && !json_is_null(v) && !(token = token_from(v, 0)))
            return bad_token(s, key);
        if (!v && s->is_qwen2 &&
            (is_pad || strcmp(key, "eos_token") == 0 || strcmp(key, "unk_token") == 0))
            token = plain_token(default_token, 1);
        else if (!v && !s->is_qwen2 && is_pad && json_is_object(padding))
            token = token_from(json_object_get(padding, "pad_token"), 0);
        append(s, s->named, token);
    }
    return 0;
}

static int is_standard(const char *key)
{
    for (int i = 0; i < N_NAMED; i++)
        if (strcmp(key, named_keys[i]) == 0)
            return 1;
    return 0;
}

/* image_token and the like, and extra_special_tokens as an object: named too. */
static int name_others(struct side *s)
{
    const char *key;
    json_t *v;
    for (int objects = 1; objects >= 0; objects--) /* in the order of transformers */
        json_object_foreach(s->settings, key, v)
        {
            size_t n = strlen(key);
            if (n > 6 && strcmp(key + n - 6, "_token") == 0 && !is_standard(key) &&
                (objects ? side_content(v) != NULL : json_is_string(v)))
                append(s, s->named, token_from(v, 0));
        }
    json_object_foreach(json_object_get(s->settings, "extra_special_tokens"), key, v)
    {
        json_t *token = token_from(v, 0);
        if (!token)
            return bad_token(s, "extra_special_tokens");
        append(s, s->named, token);
    }
    return 0;
}

static int list_extra(struct side *s)
{
    const json_t *list = json_object_get(s->settings, "extra_special_tokens");
    json_t *v;
    size_t k;
    if (list && !json_is_null(list) && !json_is_array(list) && !json_is_object(list))
        return bad_token(s, "extra_special_tokens");
    if (json_array_size(list) == 0 && json_object_size(list) == 0)
        list = json_object_get(s->settings, "additional_special_tokens");
    json_array_foreach((json_t *)list, k, v)
    {
        json_t *token = token_from(v, !json_object_get(v, "__type"));
        if (!token)
            return bad_token(s, "extra_special_tokens");
        append(s, s->extra, token);
    }
    return 0;
}

/* ---- added_tokens_decoder, or what stands for it ---- */

static int by_id(const void *a, const void *b)
{
    json_int_t x = json_integer_value(json_object_get(*(json_t *const *)a, "id"));
    json_int_t y = json_integer_value(json_object_get(*(json_t *const *)b, "id"));
    return (x > y) - (x < y);
}

/* The map's values, each with its id, in the order of the ids. */
static void list_by_id(struct side *s, json_t *map)
{
    size_t n = 0;
    const char *key;
    json_t *v, **list = xcalloc(json_object_size(map) + 1, sizeof *list);
    json_object_foreach(map, key, v)
    {
        json_object_set_new(v, "id", json_integer(strtoll(key, NULL, 10)));
        list[n++] = v;
    }
    qsort(list, n, sizeof *list, by_id);
    for (size_t i = 0; i < n; i++)
        json_array_append(s->decoder, list[i]);
    free(list);
}

static int read_decoder(struct side *s, const json_t *decoder, json_t *map)
{
    const char *key;
    json_t *v;
    json_object_foreach((json_t *)decoder, key, v)
    {
        char *end;
        json_t *token = side_content(v) ? json_copy(v) : NULL;
        long long id = strtoll(key, &end, 10);
        if (!token || *key == '\0' || *end != '\0' || id < 0) {
            json_decref(token);
            return err_set(s->e, ASSAY_EFORMAT,
                CONFIG ": added_tokens_decoder: expected ids and tokens, found '%.80s'", key);
        }
        json_object_set_new(map, key, token);
    }
    return 0;
}

static int is_special(const struct side *s, const char *content)
{
    return json_object_get(s->special, content) != NULL;
}

/* Of checkpoints without added_tokens_decoder. */
static void read_old_files(struct side *s, const json_t *added, json_t *map)
{
    const char *content;
    char key[32];
    json_t *v;
    size_t k;
    json_object_foreach((json_t *)added, content, v)
    {
        snprintf(key, sizeof key, "%lld", (long long)json_integer_value(v));
        json_object_set_new(map, key, plain_token(content, is_special(s, content)));
    }
    json_array_foreach(json_object_get(s->root, "added_tokens"), k, v)
    {
        snprintf(key, sizeof key, "%lld", (long long)json_integer_value(json_object_get(v, "id")));
        json_object_set_new(map, key, json_copy(v));
    }
}

/* ---- adding ---- */

static void add_decoder(struct side *s)
{
    json_t *token;
    size_t k;
    json_array_foreach(s->decoder, k, token)
    {
        const json_t *own =
            side_content(token) ? side_tokens_find(&s->tokens, side_content(token)) : NULL;
        if (own && side_same(own, token))
            continue;
        if (side_content(token) && is_special(s, side_content(token)) &&
            !side_flag(token, "special"))
            json_object_set_new(token, "special", json_true());
        side_tokens_add(&s->tokens, token);
    }
}

static void add_named(struct side *s)
{
    const json_t *lists[] = {s->named, s->extra};
    json_t *token;
    size_t k;
    for (int i = 0; i < 2; i++)
        json_array_foreach((json_t *)lists[i], k, token)
        {
            if (!side_content(token) || side_tokens_find(&s->tokens, side_content(token)))
                continue;
            if (i == 0)
                json_object_set_new(token, "special", json_true());
            side_tokens_add(&s->tokens, token);
        }
}

/* Qwen2Tokenizer adds what is named once more, without flags. */
static void add_plain(struct side *s)
{
    const json_t *lists[] = {s->named, s->extra};
    json_t *token;
    size_t k;
    for (int i = 0; i < 2; i++)
        json_array_foreach((json_t *)lists[i], k, token)
        {
            json_t *plain = side_content(token) ? plain_token(side_content(token), 1) : NULL;
            side_tokens_add(&s->tokens, plain);
            json_decref(plain);
        }
}

/* A token of tokenizer.json is there, under its id. What has no id is the reader's business. */
static int check_token(const struct side *s, const json_t *token, int ids)
{
    const char *content = side_content(token);
    const json_t *id = json_object_get(token, "id");
    if (!content || !*content || !json_is_integer(id))
        return 0;
    const json_t *own = side_tokens_find(&s->tokens, content);
    if (!own)
        return err_set(s->e, ASSAY_EFORMAT,
            CONFIG ": added_tokens_decoder: expected '%.80s', token %lld of tokenizer.json, found "
                   "it missing",
            content, (long long)json_integer_value(id));
    json_int_t theirs = json_integer_value(json_object_get(own, "id"));
    if (ids && theirs != json_integer_value(id))
        return err_set(s->e, ASSAY_EFORMAT,
            "tokenizer.json: added_tokens: '%.80s' has id %lld, but by its place among them "
            "and " CONFIG " transformers gives it %lld",
            content, (long long)json_integer_value(id), (long long)theirs);
    return 0;
}

static int check_kept(const struct side *s)
{
    json_t *token;
    size_t k;
    int rc = 0;
    for (int ids = 0; ids < 2; ids++)
        json_array_foreach(json_object_get(s->root, "added_tokens"), k, token)
        {
            if ((rc = check_token(s, token, ids)) != 0)
                return rc;
        }
    return 0;
}

/* ---- all of it ---- */

static int list_tokens(struct side *s, const char *dir)
{
    json_t *decoder = json_object_get(s->settings, "added_tokens_decoder"), *map = json_object();
    int is_old = !decoder || json_is_null(decoder), rc = 0;
    json_t *names = is_old ? read_optional(dir, "special_tokens_map.json", s->e) : json_object();
    json_t *added = is_old ? read_optional(dir, "added_tokens.json", s->e) : json_object();
    if (!names || !added)
        rc = s->e->code;
    if (rc == 0)
        merge_map(s, names);
    if (rc == 0)
        rc = name_tokens(s);
    if (rc == 0)
        rc = name_others(s);
    if (rc == 0)
        rc = list_extra(s);
    if (rc == 0 && is_old)
        read_old_files(s, added, map);
    else if (rc == 0)
        rc = read_decoder(s, decoder, map);
    if (rc == 0)
        list_by_id(s, map);
    json_decref(names);
    json_decref(added);
    json_decref(map);
    return rc;
}

static int add_all(struct side *s)
{
    json_t *token;
    size_t k;
    const json_t *own = s->is_qwen2 ? NULL : json_object_get(s->root, "added_tokens");
    json_array_foreach((json_t *)own, k, token)
    {
        side_tokens_add(&s->tokens, token);
    }
    add_decoder(s);
    add_named(s);
    if (s->is_qwen2)
        add_plain(s);
    int rc = check_kept(s);
    if (rc == 0)
        json_object_set(s->root, "added_tokens", s->tokens.list);
    return rc;
}

int side_files_apply(json_t *root, const char *dir, struct err *e)
{
    struct err why = {0};
    struct side s = {.root = root,
        .decoder = json_array(),
        .named = json_array(),
        .extra = json_array(),
        .special = json_object(),
        .e = &why};
    side_tokens_init(&s.tokens, json_object_get(json_object_get(root, "model"), "vocab"));
    json_t *config = read_optional(dir, "config.json", &why);
    s.settings = config ? read_optional(dir, CONFIG, &why) : NULL;
    int rc = s.settings ? choose_class(&s, config) : why.code;
    if (rc == 0)
        rc = check_settings(&s);
    if (rc == 0 && s.is_qwen2)
        rc = check_form(&s);
    if (rc == 0)
        rc = list_tokens(&s, dir);
    if (rc == 0)
        rc = add_all(&s);
    json_t *const parts[] = {config, s.settings, s.decoder, s.named, s.extra, s.special};
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++)
        json_decref(parts[i]);
    side_tokens_release(&s.tokens);
    if (rc != 0)
        *e = why;
    return rc;
}
