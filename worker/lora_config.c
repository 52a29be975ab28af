/* lora_config.c - adapter_config.json as PEFT reads it (lora.h).
 *
 * Which modules it means: a name in target_modules is a whole module name or its last parts, a
 * text is a regular expression that the whole name matches, "all-linear" are all of the layers'
 * linear modules. The keys of rank_pattern and alpha_pattern are regular expressions too, so a dot
 * in them is any character: the first key counts that matches the name's end, after a dot or from
 * its beginning (PEFT's get_pattern_key). */
#include "worker/lora.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "schema/alloc.h"
#include "schema/json.h"
#include "worker/config.h"
#include "worker/module_pattern.h"

#define FILE_NAME "adapter_config.json"
#define FILE_BYTES (8u << 20)

/* rank_pattern or alpha_pattern: the keys, and their values in the file. */
struct module_map {
    size_t n;
    struct module_pattern **keys; /* [n] owned */
    const json_t **values;        /* [n] */
};

struct lora_file {
    char path[4200];
    json_t *root; /* owned */
    struct json_file json;
    int64_t rank;
    double alpha;
    int is_rslora, has_head;
    int is_all;                     /* target_modules is "all-linear" */
    struct module_pattern *pattern; /* target_modules is another text */
    struct module_map ranks, alphas;
};

/* What a key's value must be. */
enum rule {
    READ,      /* anything: it is read below, or changes no score */
    FALSE_ONLY /* false, null or empty: anything else changes what is computed */
};

static const struct {
    const char *key;
    enum rule rule;
} keys[] = {
    {"peft_type", READ},
    {"r", READ},
    {"lora_alpha", READ},
    {"use_rslora", READ},
    {"rank_pattern", READ},
    {"alpha_pattern", READ},
    {"target_modules", READ},
    {"modules_to_save", READ},
    {"bias", READ},
    {"init_lora_weights", READ},
    {"eva_config", READ}, /* says how the training began */
    {"auto_mapping", READ},
    {"base_model_name_or_path", READ},
    {"inference_mode", READ},
    {"lora_dropout", READ},
    {"megatron_core", READ},
    {"peft_version", READ},
    {"qalora_group_size", READ},
    {"revision", READ},
    {"runtime_config", READ},
    {"task_type", READ},
    {"use_dora", FALSE_ONLY},
    {"fan_in_fan_out", FALSE_ONLY},
    {"lora_bias", FALSE_ONLY},
    {"layers_to_transform", FALSE_ONLY},
    {"layers_pattern", FALSE_ONLY},
    {"layer_replication", FALSE_ONLY},
    {"exclude_modules", FALSE_ONLY},
};

static int is_nothing(const json_t *v)
{
    return !v || json_is_null(v) || json_is_false(v) ||
           (json_is_array(v) && json_array_size(v) == 0) ||
           (json_is_object(v) && json_object_size(v) == 0);
}

/* Refuses a value, showing what was found. Returns the code. */
static int refuse(const struct lora_file *f, int code, const char *key, const char *expected,
    const json_t *found, struct err *e)
{
    char *text = found ? json_dumps(found, JSON_ENCODE_ANY | JSON_COMPACT) : NULL;
    err_set(
        e, code, "%s: %s: expected %s, found %.80s", f->path, key, expected, text ? text : "none");
    free(text);
    return code;
}

static int check_key(const struct lora_file *f, const char *key, const json_t *v, struct err *e)
{
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++)
        if (strcmp(keys[i].key, key) == 0)
            return keys[i].rule == READ || is_nothing(v)
                       ? 0
                       : refuse(f, ASSAY_EUNSUPPORTED, key,
                             "false, null or none (nothing else is built)", v, e);
    /* PEFT's newer variants: what is switched off changes nothing. */
    return is_nothing(v)
               ? 0
               : refuse(f, ASSAY_EUNSUPPORTED, key,
                     "a field that is known here, or null, for it may change scores", v, e);
}

static int check_keys(const struct lora_file *f, struct err *e)
{
    const char *key;
    json_t *value;
    int rc = 0;
    json_object_foreach(f->root, key, value)
    {
        rc = check_key(f, key, value, e);
        if (rc != 0)
            return rc;
    }
    return rc;
}

/* A text that must be one of these words. */
static int check_word(const struct lora_file *f, const char *key, const char *const *words,
    const char *expected, struct err *e)
{
    const json_t *v = json_object_get(f->root, key);
    const char *found = json_string_value(v);
    for (int i = 0; found && words[i]; i++)
        if (strcmp(found, words[i]) == 0)
            return 0;
    return !found && is_nothing(v) && strcmp(key, "peft_type") != 0
               ? 0
               : refuse(f, ASSAY_EUNSUPPORTED, key, expected, v, e);
}

/* Ways to begin the training that leave the base as it is. The others change its weights, and PEFT
 * does it again when it loads the adapter. */
static int check_init(const struct lora_file *f, struct err *e)
{
    static const char *const words[] = {"gaussian", "eva", "orthogonal", NULL};
    if (json_is_boolean(json_object_get(f->root, "init_lora_weights")))
        return 0;
    return check_word(f, "init_lora_weights", words,
        "true, false, gaussian, eva or orthogonal (others change the base's weights: convert the "
        "adapter, as PEFT's documentation of pissa and olora says)",
        e);
}

/* Adds what a key of `field` means. */
static int add_key(const struct lora_file *f, struct module_map *map, const char *field,
    const char *key, const json_t *value, struct err *e)
{
    char where[160], *text = xcalloc(strlen(key) + sizeof "(.*\\.)?()$", 1);
    size_t at;
    int is_rank = map == &f->ranks;
    snprintf(where, sizeof where, "%s['%.100s']", field, key);
    sprintf(text, "(.*\\.)?(%s)$", key);
    map->keys[map->n] = module_pattern_new(text, MODULE_BEGINNING, &at);
    free(text);
    if (!map->keys[map->n])
        return refuse(f, ASSAY_EUNSUPPORTED, where,
            "a module's name, or an expression that PCRE2 and Python read alike ({0,n}, no "
            "[:class:])",
            value, e);
    map->values[map->n++] = value;
    if (is_rank ? !json_is_integer(value) || json_integer_value(value) < 1 ||
                      json_integer_value(value) > LORA_MAX_RANK
                : !json_is_number(value) || !isfinite(json_number_value(value)))
        return refuse(
            f, ASSAY_EFORMAT, where, is_rank ? "a rank from 1 to 256" : "a number", value, e);
    return 0;
}

static int read_map(
    const struct lora_file *f, struct module_map *map, const char *field, struct err *e)
{
    const json_t *object = json_object_get(f->root, field);
    const char *key;
    json_t *value;
    int rc = 0;
    if (is_nothing(object))
        return 0;
    if (!json_is_object(object))
        return refuse(f, ASSAY_EFORMAT, field, "an object of module names", object, e);
    map->keys = xcalloc(json_object_size(object), sizeof *map->keys);
    map->values = xcalloc(json_object_size(object), sizeof *map->values);
    json_object_foreach((json_t *)object, key, value) /* jansson keeps the keys' order */
    {
        rc = add_key(f, map, field, key, value, e);
        if (rc != 0)
            return rc;
    }
    return rc;
}

static void release_map(struct module_map *map)
{
    for (size_t i = 0; i < map->n; i++)
        module_pattern_free(&map->keys[i]);
    free(map->keys);
    free(map->values);
}

static int read_numbers(struct lora_file *f, struct err *e)
{
    double limit = 1e9;
    const json_t *alpha = json_object_get(f->root, "lora_alpha");
    int rc = json_need_int(&f->json, "r", 1, LORA_MAX_RANK, &f->rank, e);
    if (rc == 0 && !json_is_number(alpha))
        rc = refuse(f, ASSAY_EFORMAT, "lora_alpha", "a number", alpha, e);
    if (rc == 0)
        rc = json_get_real(&f->json, "lora_alpha", -limit, limit, &f->alpha, e);
    if (rc >= 0)
        rc = json_get_bool(&f->json, "use_rslora", &f->is_rslora, e);
    if (rc >= 0)
        rc = read_map(f, &f->ranks, "rank_pattern", e);
    return rc >= 0 ? read_map(f, &f->alphas, "alpha_pattern", e) : rc;
}

/* ---- target_modules ---- */

static int read_targets(struct lora_file *f, struct err *e)
{
    size_t at;
    const json_t *v = json_object_get(f->root, "target_modules");
    const char *text = json_string_value(v);
    if (text) {
        f->is_all = strcasecmp(text, "all-linear") == 0;
        f->pattern = f->is_all ? NULL : module_pattern_new(text, MODULE_WHOLE, &at);
        return f->is_all || f->pattern
                   ? 0
                   : refuse(f, ASSAY_EUNSUPPORTED, "target_modules",
                         "an expression that PCRE2 and Python read alike ({0,n}, no [:class:])", v,
                         e);
    }
    for (size_t i = 0; i < json_array_size(v); i++)
        if (!json_is_string(json_array_get(v, i)))
            v = NULL;
    return json_array_size(v) > 0
               ? 0
               : refuse(f, ASSAY_EFORMAT, "target_modules", "names of modules, or a text",
                     json_object_get(f->root, "target_modules"), e);
}

/* Whether the name is `end`, or ends with it after a dot. */
static int ends_with(const char *name, const char *end)
{
    size_t n = strlen(name), m = strlen(end);
    return n >= m && strcmp(name + n - m, end) == 0 && (n == m || name[n - m - 1] == '.');
}

static int is_target(const struct lora_file *f, const char *module, int *is, struct err *e)
{
    const json_t *v = json_object_get(f->root, "target_modules");
    *is = f->is_all;
    for (size_t i = 0; i < json_array_size(v); i++)
        *is |= ends_with(module, json_string_value(json_array_get(v, i)));
    if (!f->pattern)
        return 0;
    int rc = module_pattern_matches(f->pattern, module);
    *is = rc == 1;
    return rc >= 0 ? 0
                   : refuse(f, ASSAY_EUNSUPPORTED, "target_modules",
                         "an expression that is quickly tried", v, e);
}

/* ---- modules_to_save ---- */

/* The head is the only module that may be another. PEFT adds both usual names of heads for sequence
 * classification, and passes over the one that the model does not have. */
static int read_saved(struct lora_file *f, const struct model_config *c, struct err *e)
{
    const json_t *v = json_object_get(f->root, "modules_to_save");
    if (is_nothing(v))
        return 0;
    if (!json_is_array(v))
        return refuse(f, ASSAY_EFORMAT, "modules_to_save", "a list of names", v, e);
    for (size_t i = 0; i < json_array_size(v); i++) {
        const char *name = json_string_value(json_array_get(v, i));
        if (name && strcmp(name, c->head_name) == 0)
            f->has_head = 1;
        else if (!name || (strcmp(name, "score") != 0 && strcmp(name, "classifier") != 0))
            return refuse(f, ASSAY_EUNSUPPORTED, "modules_to_save",
                "the head alone (other modules are not built)", v, e);
    }
    if (f->has_head && (c->head->kind == HEAD_TOKENS || c->head == &head_of_value || c->std > 0))
        return refuse(f, ASSAY_EUNSUPPORTED, "modules_to_save",
            "none, for a base that is scored by a language model's head, a value head of its own "
            "file, or a normalized one",
            v, e);
    return 0;
}

int lora_file_read(
    struct lora_file **out, const char *dir, const struct model_config *c, struct err *e)
{
    static const char *const types[] = {"LORA", NULL}, *const biases[] = {"none", NULL};
    struct lora_file *f = *out = xcalloc(1, sizeof *f);
    snprintf(f->path, sizeof f->path, "%.4000s/" FILE_NAME, dir);
    f->root = json_read_file(dir, FILE_NAME, FILE_BYTES, e);
    if (!f->root)
        return e->code;
    f->json = (struct json_file){f->path, "", f->root};
    int rc = check_word(f, "peft_type", types, "\"LORA\" (no other adapter is built)", e);
    if (rc == 0)
        rc = check_word(f, "bias", biases, "\"none\" (adapters of biases are not built)", e);
    if (rc == 0)
        rc = check_init(f, e);
    if (rc == 0)
        rc = check_keys(f, e);
    if (rc == 0)
        rc = read_numbers(f, e);
    if (rc == 0)
        rc = read_targets(f, e);
    return rc == 0 ? read_saved(f, c, e) : rc;
}

void lora_file_free(struct lora_file **out)
{
    struct lora_file *f = *out;
    if (!f)
        return;
    module_pattern_free(&f->pattern);
    release_map(&f->ranks);
    release_map(&f->alphas);
    json_decref(f->root);
    free(f);
    *out = NULL;
}

int lora_file_has_head(const struct lora_file *f)
{
    return f->has_head;
}

/* The value of the first key that means this module, or NULL. */
static int look_up(const struct lora_file *f, const struct module_map *map, const char *module,
    const json_t **value, struct err *e)
{
    *value = NULL;
    for (size_t i = 0; i < map->n; i++) {
        int rc = module_pattern_matches(map->keys[i], module);
        if (rc < 0)
            return refuse(f, ASSAY_EUNSUPPORTED,
                map == &f->ranks ? "rank_pattern" : "alpha_pattern",
                "expressions that are quickly tried", map->values[i], e);
        if (rc == 1) {
            *value = map->values[i];
            return 0;
        }
    }
    return 0;
}

int lora_file_module(
    const struct lora_file *f, const char *module, struct lora_module_config *out, struct err *e)
{
    const json_t *rank, *alpha;
    int rc = look_up(f, &f->ranks, module, &rank, e);
    if (rc == 0)
        rc = look_up(f, &f->alphas, module, &alpha, e);
    if (rc != 0)
        return rc;
    *out =
        (struct lora_module_config){.rank = (uint32_t)(rank ? json_integer_value(rank) : f->rank)};
    out->scale = (alpha ? json_number_value(alpha) : f->alpha) /
                 (f->is_rslora ? sqrt((double)out->rank) : (double)out->rank);
    return is_target(f, module, &out->is_target, e);
}
