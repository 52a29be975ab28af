/* side_names.c - the steps by which transformers decides what each special token is, in their
 * order (side_names.h). */
#include "broker/text/side_names.h"

#include <string.h>

#include "broker/text/side_tokens.h"

#define CONFIG "tokenizer_config.json"
#define MAP "special_tokens_map.json"

static const char extra_key[] = "extra_special_tokens",
                  additional_key[] = "additional_special_tokens",
                  specific_key[] = "model_specific_special_tokens";
/* For errors: the steps do not keep which of the two names a list had. */
static const char listed_key[] = "extra_special_tokens or additional_special_tokens";
static const char *const standard[] = {
    "bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"};
#define N_STANDARD (sizeof standard / sizeof standard[0])

static int is_standard(const char *key)
{
    for (size_t i = 0; i < N_STANDARD; i++)
        if (strcmp(key, standard[i]) == 0)
            return 1;
    return 0;
}

static int is_other(const char *key)
{
    size_t n = strlen(key);
    return n >= 6 && strcmp(key + n - 6, "_token") == 0 && !is_standard(key);
}

const char *side_text(const json_t *token)
{
    return json_is_string(token) ? json_string_value(token) : side_content(token);
}

/* Marks a token as coming from the map, where every object is a token. */
static const char from_map[] = " from the map"; /* not a key that anyone writes */

/* Does reading the settings make this object a token? */
static int is_typed(const json_t *v)
{
    const char *type = json_string_value(json_object_get(v, "__type"));
    return json_object_get(v, from_map) || (type && strcmp(type, "AddedToken") == 0);
}

static int is_token(const json_t *v)
{
    return json_is_string(v) || (is_typed(v) && side_content(v));
}

static int is_empty(const json_t *v)
{
    return !v || json_is_null(v) || json_is_false(v) ||
           (json_is_string(v) && json_string_length(v) == 0) ||
           (json_is_array(v) && json_array_size(v) == 0) ||
           (json_is_object(v) && json_object_size((json_t *)v) == 0);
}

static int bad_token(struct err *e, const char *key)
{
    return err_set(e, ASSAY_EFORMAT,
        CONFIG ": %.80s: expected a string, or an object with content whose \"__type\" is "
               "\"AddedToken\"; transformers fails at what is neither",
        key);
}

/* ---- begin ---- */

static void move(json_t *settings, const char *from, const char *to)
{
    json_object_set(settings, to, json_object_get(settings, from));
    json_object_del(settings, from);
}

static void take_objects(json_t *settings, json_t *specific)
{
    json_t *extra = json_object_get(settings, extra_key);
    if (!json_is_object(extra))
        return;
    json_object_update(specific, extra);
    json_object_del(settings, extra_key);
}

void side_names_begin(json_t *settings)
{
    const char *key;
    json_t *v, *specific = json_object();
    void *next;
    json_object_del(settings, "add_bos_token"); /* tokenizer.json decides what surrounds a text */
    json_object_del(settings, "add_eos_token");
    if (json_object_get(settings, additional_key) && is_empty(json_object_get(settings, extra_key)))
        move(settings, additional_key, extra_key);
    json_object_foreach_safe(settings, next, key, v)
    {
        if (!is_other(key) || !json_is_string(v))
            continue;
        json_object_set(specific, key, v);
        json_object_del(settings, key);
    }
    take_objects(settings, specific);
    if (json_object_size(specific) > 0)
        json_object_set(settings, specific_key, specific);
    json_decref(specific);
}

/* ---- merge ---- */

/* Copies a value of the map as a special token. What has no content is still not a token. */
static json_t *typed(const json_t *v)
{
    json_t *token = json_copy((json_t *)v);
    json_object_set_new(token, from_map, json_true());
    json_object_set_new(token, "special", json_true());
    return token;
}

static int merge_list(json_t *settings, const json_t *list, struct err *e)
{
    json_t *own = json_object_get(settings, extra_key), *all = json_array(), *v;
    size_t k;
    int rc = 0;
    if (!is_empty(own) && !json_is_array(own))
        rc = err_set(e, ASSAY_EFORMAT, CONFIG ": %s: expected a list beside " MAP "'s", extra_key);
    if (json_is_array(own))
        json_array_extend(all, own);
    json_array_foreach((json_t *)list, k, v)
    {
        if (json_object_get(v, "special") && rc == 0)
            rc = err_set(e, ASSAY_EFORMAT,
                MAP ": %s[%zu].special: expected no such key, at which transformers fails",
                extra_key, k);
        json_array_append_new(all, json_is_object(v) ? typed(v) : json_incref(v));
    }
    json_object_set_new(settings, extra_key, all);
    return rc;
}

/* These keys count in tokenizer_config.json only, so the map may not have them. */
static int check_map_key(const char *key, struct err *e)
{
    static const char *const elsewhere[] = {"split_special_tokens", "add_prefix_space",
        "add_bos_token", "add_eos_token", "add_special_tokens"};
    for (size_t i = 0; i < sizeof elsewhere / sizeof elsewhere[0]; i++)
        if (strcmp(key, elsewhere[i]) == 0)
            return err_set(
                e, ASSAY_EFORMAT, MAP ": %s: expected it in " CONFIG " alone, found it here", key);
    return 0;
}

int side_names_merge(json_t *settings, const json_t *map, struct err *e)
{
    const char *key;
    json_t *v;
    json_object_foreach((json_t *)map, key, v)
    {
        int is_extra = strcmp(key, extra_key) == 0, rc = check_map_key(key, e);
        if (rc == 0 && is_extra && json_is_array(v))
            rc = merge_list(settings, v, e);
        else if (json_is_object(v) && !is_extra)
            json_object_set_new(settings, key, typed(v));
        else if (rc == 0)
            json_object_set(settings, key, v);
        if (rc != 0)
            return rc;
    }
    json_t *specific = json_object_get(settings, specific_key);
    if (!json_is_object(json_object_get(settings, extra_key)))
        return 0;
    if (!specific)
        json_object_set_new(settings, specific_key, specific = json_object());
    if (!json_is_object(specific))
        return err_set(e, ASSAY_EFORMAT, CONFIG ": %s: expected an object", specific_key);
    take_objects(settings, specific);
    return 0;
}

static int says(const json_t *v, const char *content)
{
    return (json_is_string(v) || json_object_get(v, from_map)) && side_text(v) &&
           strcmp(side_text(v), content) == 0;
}

int side_names_is_special(const json_t *settings, const char *content)
{
    const json_t *v;
    size_t k;
    for (size_t i = 0; i < N_STANDARD; i++)
        if (says(json_object_get(settings, standard[i]), content))
            return 1;
    json_array_foreach(json_object_get(settings, extra_key), k, v) if (says(v, content)) return 1;
    return 0;
}

/* ---- end ---- */

static int name_all(struct side_names *names, const json_t *tokens, struct err *e)
{
    const char *key;
    json_t *v;
    json_object_foreach((json_t *)tokens, key, v)
    {
        if (!is_token(v))
            return bad_token(e, key);
        json_object_set(names->named, key, v);
    }
    return 0;
}

static int name_standard(const json_t *settings, const json_t *known, const json_t *defaults,
    struct side_names *names, struct err *e)
{
    for (size_t i = 0; i < N_STANDARD; i++) {
        json_t *v = json_object_get(settings, standard[i]);
        if (!v)
            v = json_object_get(defaults, standard[i]);
        else if (!json_is_null(v) && !is_token(v))
            return bad_token(e, standard[i]);
        else if (json_object_get(known, side_text(v)))
            v = json_object_get(known, side_text(v));
        json_object_set_new(names->named, standard[i], side_text(v) ? json_incref(v) : json_null());
    }
    return 0;
}

static int list_extra(const json_t *settings, struct side_names *names, struct err *e)
{
    const json_t *list = json_object_get(settings, extra_key);
    json_t *v;
    size_t k;
    if (!list || json_is_null(list) || json_is_object(list))
        return list ? name_all(names, list, e) : 0;
    if (!json_is_array(list))
        return err_set(
            e, ASSAY_EFORMAT, CONFIG ": %s: expected a list or an object of tokens", listed_key);
    json_array_foreach((json_t *)list, k, v)
    {
        if (!is_token(v))
            return bad_token(e, listed_key);
        json_array_append(names->extra, v);
    }
    return 0;
}

/* Names the objects under other *_token keys, then those that have names already. */
static int name_others(const json_t *settings, struct side_names *names, struct err *e)
{
    const json_t *specific = json_object_get(settings, specific_key);
    json_t *all = json_object(), *v;
    const char *key;
    int rc = 0;
    json_object_foreach((json_t *)settings, key, v) if (is_other(key) && is_token(v))
        json_object_set(all, key, v);
    if (specific && !json_is_null(specific) && (!json_is_object(specific) || is_typed(specific)))
        rc = err_set(
            e, ASSAY_EFORMAT, CONFIG ": %s: expected an object of names and tokens", specific_key);
    json_object_update(all, (json_t *)specific);
    if (rc == 0)
        rc = name_all(names, all, e);
    json_decref(all);
    return rc;
}

int side_names_end(json_t *settings, const json_t *known, const json_t *defaults,
    struct side_names *names, struct err *e)
{
    if (json_object_get(settings, additional_key) && !json_object_get(settings, extra_key))
        move(settings, additional_key, extra_key);
    int rc = name_standard(settings, known, defaults, names, e);
    if (rc == 0)
        rc = list_extra(settings, names, e);
    return rc == 0 ? name_others(settings, names, e) : rc;
}
