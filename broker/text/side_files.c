/* side_files.c - see side_files.h. Tokens are objects as in tokenizer.json's added_tokens. If
 * `normalized` is absent, it is the opposite of `special`. */
#include "broker/text/side_files.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "broker/text/side_class.h"
#include "broker/text/side_names.h"
#include "broker/text/side_tokens.h"
#include "schema/alloc.h"
#include "schema/json.h"
#include "schema/log.h"
#include "schema/regular.h"

#define MAX_BYTES (64u << 20)
#define CONFIG "tokenizer_config.json"

struct side {
    json_t *root, *settings; /* tokenizer.json; tokenizer_config.json and what is merged into it */
    json_t *decoder;         /* array of tokens with ids, ascending */
    json_t *known;           /* object: from the text of such a token to the token */
    struct side_names names; /* what the settings name */
    struct side_tokens tokens; /* the tokens so far */
    struct side_class class;
    struct err *e;
};

/* Reads an object; an absent file gives an empty one. NULL and *e on failure. */
static json_t *read_optional(const char *dir, const char *name, struct err *e)
{
    if (!regular_is_in(dir, name))
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

/* ---- named tokens ---- */

/* Returns the standard tokens that count if the settings lack their key. */
static json_t *default_tokens(const struct side *s)
{
    static const char token[] = "<|endoftext|>"; /* Qwen2Tokenizer's default */
    const json_t *padding = json_object_get(s->root, "padding");
    if (s->class.is_qwen2)
        return json_pack(
            "{s:s, s:s, s:s}", "eos_token", token, "unk_token", token, "pad_token", token);
    if (s->class.is_llama)
        return json_pack(
            "{s:s, s:s, s:s}", "unk_token", "<unk>", "bos_token", "<s>", "eos_token", "</s>");
    const char *pad = json_string_value(json_object_get(padding, "pad_token"));
    return pad ? json_pack("{s:s}", "pad_token", pad) : json_object();
}

static int name_tokens(struct side *s)
{
    json_t *defaults = default_tokens(s);
    int rc = side_names_end(s->settings, s->known, defaults, &s->names, s->e);
    json_decref(defaults);
    return rc;
}

/* ---- added_tokens_decoder, or the older files ---- */

static int by_id(const void *a, const void *b)
{
    json_int_t x = json_integer_value(json_object_get(*(json_t *const *)a, "id"));
    json_int_t y = json_integer_value(json_object_get(*(json_t *const *)b, "id"));
    return (x > y) - (x < y);
}

/* Appends the map's values to the decoder, each with its id, ordered by id. */
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

/* Stores the token in the map by id, and among the known tokens by text. */
static void keep(struct side *s, json_t *map, const char *id, json_t *token)
{
    if (side_content(token))
        json_object_set(s->known, side_content(token), token);
    json_object_set_new(map, id, token);
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
        keep(s, map, key, token);
    }
    return 0;
}

/* Reads the files of a checkpoint without added_tokens_decoder. */
static void read_old_files(struct side *s, const json_t *added, json_t *map)
{
    const char *content;
    char key[32];
    json_t *v;
    size_t k;
    json_object_foreach((json_t *)added, content, v)
    {
        int special = side_names_is_special(s->settings, content);
        json_t *token = plain_token(content, special);
        snprintf(key, sizeof key, "%lld", (long long)json_integer_value(v));
        json_object_set_new(token, "normalized", json_boolean(!special)); /* special may change */
        keep(s, map, key, token);
    }
    json_array_foreach(json_object_get(s->root, "added_tokens"), k, v)
    {
        snprintf(key, sizeof key, "%lld", (long long)json_integer_value(json_object_get(v, "id")));
        keep(s, map, key, json_copy(v));
    }
}

/* ---- adding ---- */

static int is_same(const json_t *a, const json_t *b)
{
    const char *x = side_text(a), *y = side_text(b);
    return json_typeof(a) == json_typeof(b) && x && y && strcmp(x, y) == 0 &&
           (json_is_string(a) || side_same(a, b));
}

/* Appends the token unless its text exists already. A token that is named twice with different
 * flags is appended twice, and the later flags count. */
static void list_new(const struct side *s, json_t *list, const json_t *texts, json_t *token)
{
    const json_t *other;
    size_t k;
    const char *text = side_text(token);
    if (!text || side_tokens_find(&s->tokens, text) || json_object_get(texts, text))
        return;
    json_array_foreach(list, k, other) if (is_same(other, token)) return;
    json_array_append(list, token);
}

/* Returns the decoder's tokens, followed by the named ones that are new. */
static json_t *list_all(const struct side *s)
{
    json_t *list = json_array(), *texts = json_object(), *token;
    const char *key;
    size_t k;
    json_array_foreach(s->decoder, k, token)
    {
        json_array_append(list, token);
        if (side_content(token))
            json_object_set_new(texts, side_content(token), json_true());
    }
    json_object_foreach(s->names.named, key, token)
    {
        list_new(s, list, texts, token);
    }
    json_array_foreach(s->names.extra, k, token)
    {
        list_new(s, list, texts, token);
    }
    json_decref(texts);
    return list;
}

static int is_named(const struct side *s, const char *text)
{
    const char *key;
    json_t *v;
    json_object_foreach(
        s->names.named, key, v) if (side_text(v) && strcmp(side_text(v), text) == 0) return 1;
    return 0;
}

static void add_plain(struct side *s, const json_t *token)
{
    json_t *plain = side_text(token) ? plain_token(side_text(token), 1) : NULL;
    side_tokens_add(&s->tokens, plain);
    json_decref(plain);
}

static void add_listed(struct side *s)
{
    json_t *list = list_all(s), *token;
    size_t k;
    side_tokens_begin(&s->tokens);
    json_array_foreach(list, k, token)
    {
        if (json_is_string(token)) {
            add_plain(s, token);
            continue;
        }
        if (side_content(token) && is_named(s, side_content(token)))
            json_object_set_new(token, "special", json_true());
        side_tokens_add(&s->tokens, token);
    }
    json_decref(list);
}

/* Qwen2Tokenizer adds the named tokens once more, without flags. */
static void add_named_plain(struct side *s)
{
    const char *key;
    json_t *token;
    size_t k;
    side_tokens_begin(&s->tokens);
    json_object_foreach(s->names.named, key, token)
    {
        add_plain(s, token);
    }
    json_array_foreach(s->names.extra, k, token)
    {
        add_plain(s, token);
    }
}

/* Checks that a token of tokenizer.json exists and has the same id. The reader reports tokens
 * without an id. */
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

/* ---- all ---- */

/* Without added_tokens_decoder, two older files name the tokens. */
static int reads_old_files(const json_t *settings)
{
    const json_t *decoder = json_object_get(settings, "added_tokens_decoder");
    return !decoder || json_is_null(decoder);
}

static int list_tokens(struct side *s, const char *dir)
{
    json_t *decoder = json_object_get(s->settings, "added_tokens_decoder"), *map = json_object();
    int is_old = reads_old_files(s->settings), rc = 0;
    json_t *names = is_old ? read_optional(dir, "special_tokens_map.json", s->e) : json_object();
    json_t *added = is_old ? read_optional(dir, "added_tokens.json", s->e) : json_object();
    if (!names || !added)
        rc = s->e->code;
    else if (!is_old && !json_is_object(decoder))
        rc = err_set(
            s->e, ASSAY_EFORMAT, CONFIG ": added_tokens_decoder: expected an object or null");
    side_names_begin(s->settings);
    if (rc == 0)
        rc = side_names_merge(s->settings, names, s->e);
    if (rc == 0 && is_old)
        read_old_files(s, added, map);
    else if (rc == 0)
        rc = read_decoder(s, decoder, map);
    if (rc == 0)
        list_by_id(s, map);
    if (rc == 0)
        rc = name_tokens(s);
    json_decref(names);
    json_decref(added);
    json_decref(map);
    return rc;
}

static int add_all(struct side *s)
{
    json_t *token;
    size_t k;
    const json_t *own =
        s->class.is_qwen2 || s->class.is_llama ? NULL : json_object_get(s->root, "added_tokens");
    side_tokens_begin(&s->tokens);
    json_array_foreach((json_t *)own, k, token)
    {
        side_tokens_add(&s->tokens, token);
    }
    add_listed(s);
    if (s->class.is_qwen2)
        add_named_plain(s);
    int rc = check_kept(s);
    if (rc == 0)
        json_object_set(s->root, "added_tokens", s->tokens.list);
    return rc;
}

/* The id of a named token; -1: none. A text that is no token, as an empty one, has the unknown
 * token's. */
static int32_t named_id(const struct side *s, const char *name)
{
    const char *text = side_text(json_object_get(s->names.named, name));
    const json_t *token = text ? side_tokens_find(&s->tokens, text) : NULL;
    if (text && !token && strcmp(name, "unk_token") != 0)
        return named_id(s, "unk_token");
    return token ? (int32_t)json_integer_value(json_object_get(token, "id")) : -1;
}

static void name_texts(const struct side *s, json_t *texts)
{
    const char *name;
    json_t *token;
    json_object_foreach(s->names.named, name, token)
    {
        if (side_text(token))
            json_object_set_new(texts, name, json_string(side_text(token)));
    }
}

/* What side_class_read asks config.json for, or `model` where there is no such file. NULL: it
 * cannot be read. */
static json_t *read_model(const char *dir, const json_t *model, struct err *e)
{
    static const char *const keys[] = {"model_type", "tokenizer_class"};
    json_t *config = read_optional(dir, "config.json", e), *found = config ? json_object() : NULL;
    for (size_t i = 0; config && i < sizeof keys / sizeof *keys; i++)
        json_object_set(found, keys[i],
            json_object_get(json_object_size(config) > 0 ? config : model, keys[i]));
    json_decref(config);
    return found;
}

/* Beside an adapter a config.json may be another's. */
static int check_model_type(const json_t *found, const json_t *base, struct err *e)
{
    const char *own = json_string_value(json_object_get(found, "model_type"));
    const char *type = json_string_value(json_object_get(base, "model_type"));
    if (!base || (own && type && strcmp(own, type) == 0) || (!own && !type))
        return 0;
    return err_set(e, ASSAY_EFORMAT,
        "config.json: model_type: expected the base's, %.40s, which decides how a text is read, "
        "found %.40s; leave the file out of the adapter's directory",
        type ? type : "none", own ? own : "none");
}

int side_files_apply(
    json_t *root, const char *dir, const json_t *model, struct side_facts *facts, struct err *e)
{
    struct err why = {0};
    struct side s = {.root = root,
        .decoder = json_array(),
        .known = json_object(),
        .names = {json_object(), json_array()},
        .e = &why};
    side_tokens_init(&s.tokens, json_object_get(json_object_get(root, "model"), "vocab"));
    json_t *config = read_model(dir, model, &why);
    s.settings = config ? read_optional(dir, CONFIG, &why) : NULL;
    int rc = s.settings ? check_model_type(config, model, &why) : why.code;
    if (rc == 0)
        rc = side_class_read(&s.class, root, s.settings, config, &why);
    if (rc == 0)
        rc = list_tokens(&s, dir);
    if (rc == 0)
        rc = add_all(&s);
    *facts = (struct side_facts){.ids = {-1, -1, -1}, .texts = json_object(), .model = config};
    if (rc == 0)
        rc = side_truncation_read(s.settings, root, &facts->truncation, &why);
    if (rc == 0)
        facts->ids = (struct special_ids){
            named_id(&s, "bos_token"), named_id(&s, "eos_token"), named_id(&s, "pad_token")};
    if (rc == 0)
        name_texts(&s, facts->texts);
    json_t *const parts[] = {s.settings, s.decoder, s.known, s.names.named, s.names.extra};
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++)
        json_decref(parts[i]);
    side_tokens_release(&s.tokens);
    if (rc != 0)
        *e = why;
    return rc;
}

int side_files_check(const char *dir, struct err *e)
{
    static const char *const names[] = {
        "config.json", CONFIG, "special_tokens_map.json", "added_tokens.json"};
    int rc = 0, n = 2;
    for (int i = 0; rc == 0 && i < n; i++) {
        json_t *v = read_optional(dir, names[i], e);
        rc = v ? 0 : e->code;
        if (i == 1 && reads_old_files(v))
            n = 4;
        json_decref(v);
    }
    return rc;
}
