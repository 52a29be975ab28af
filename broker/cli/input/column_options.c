/* column_options.c - takes the columns that say how a row is written and scored
 * (column_options.h). */
#include "broker/cli/input/column_options.h"

#include <stdio.h>
#include <string.h>

/* Media, which no model here reads. */
static const char *const media[] = {
    "images", "image", "image_url", "videos", "video", "audios", "audio", NULL};
/* Fields that say how a row is scored, under the names that they have in a message. */
static const char *const settings[] = {"pool", "truncate", "max_length", "truncation_side",
    "keep_last_token", "hf_pad_rule", "safe_text", "join_content", "add_special_tokens", "adapter",
    NULL};
/* Fields of `pool`; outside of it they are errors. */
static const char *const pool_fields[] = {"step_token", "positions", "activation", NULL};
/* Arguments of a chat template; the first two are fields of a row. */
static const char *const arguments[] = {"tools", "add_generation_prompt", "chat_template_kwargs",
    "continue_final_message", "chat_template", "enable_thinking", NULL};

int column_is_one_of(const char *const *keys, const char *key, size_t len)
{
    for (; *keys; keys++)
        if (strlen(*keys) == len && memcmp(*keys, key, len) == 0)
            return 1;
    return 0;
}

json_t *column_find(const json_t *line, const char *key)
{
    json_t *v = json_object_get(line, key);
    return json_is_null(v) ? NULL : v;
}

int column_is_empty(const json_t *v)
{
    return !v || json_is_null(v) || json_is_false(v) ||
           (json_is_string(v) && json_string_length(v) == 0) ||
           (json_is_array(v) && json_array_size(v) == 0) ||
           (json_is_object(v) && json_object_size((json_t *)v) == 0);
}

int column_options_has(const char *key, size_t len)
{
    return column_is_one_of(media, key, len) || column_is_one_of(arguments, key, len) ||
           column_is_one_of(settings, key, len) || column_is_one_of(pool_fields, key, len);
}

/* ---- a chat template's arguments ---- */

/* Some data sets keep the list of tools as JSON in a string. An empty list is one. */
static int take_tools(json_t *row, const json_t *v, struct err *e)
{
    if (!json_is_array(v) && column_is_empty(v))
        return 0;
    json_t *list = json_is_string(v)
                       ? json_loadb(json_string_value(v), json_string_length(v), 0, NULL)
                       : json_incref((json_t *)v);
    const json_t *other = json_object_get(row, "tools");
    int rc = !json_is_array(list) ? err_field(e, ASSAY_EBADREQ, "tools", "expected a list of tools")
             : other && !json_equal(other, list)
                 ? err_field(e, ASSAY_EBADREQ, "tools",
                       "expected one list of tools, found another in chat_template_kwargs")
                 : 0;
    if (rc == 0)
        json_object_set(row, "tools", list);
    json_decref(list);
    return rc;
}

static int take_generation_prompt(json_t *row, const json_t *v, struct err *e)
{
    const json_t *other = json_object_get(row, "add_generation_prompt");
    if (!json_is_boolean(v) || (other && !json_equal(other, v)))
        return err_field(e, ASSAY_EBADREQ, "add_generation_prompt",
            "expected true or false, found %s", json_is_boolean(v) ? "both" : "another");
    json_object_set(row, "add_generation_prompt", (json_t *)v);
    return 0;
}

/* Takes an argument that is a field of a message's row. Returns 1 if it is none. */
static int take_field(json_t *row, const char *key, const json_t *v, struct err *e)
{
    int is_tools = strcmp(key, "tools") == 0;
    if (!is_tools && strcmp(key, "add_generation_prompt") != 0)
        return 1;
    if (!v || json_is_null(v))
        return 0;
    return is_tools ? take_tools(row, v, e) : take_generation_prompt(row, v, e);
}

/* Takes those in chat_template_kwargs. What is no field of a row goes as it is: the broker says
 * which it takes. */
static int take_kwargs(json_t *row, const json_t *all, struct err *e)
{
    json_t *others = json_object(), *v;
    const char *key;
    int rc = column_is_empty(all) || json_is_object(all)
                 ? 0
                 : err_field(e, ASSAY_EBADREQ, "chat_template_kwargs", "expected an object");
    json_object_foreach((json_t *)all, key, v)
    {
        int found = rc == 0 ? take_field(row, key, v, e) : rc;
        if (found == 1)
            json_object_set(others, key, v);
        else
            rc = found;
    }
    if (rc == 0 && json_object_size(others) > 0)
        json_object_set(row, "chat_template_kwargs", others);
    json_decref(others);
    return rc;
}

static int beside_arguments(const char *key, struct err *e)
{
    return err_field(e, ASSAY_EBADREQ, key,
        "expected in chat_template_kwargs, found beside it; leave the column out where it is "
        "something else");
}

int column_options_take_arguments(json_t *row, const json_t *line, struct err *e)
{
    static const char *const never[] = {"continue_final_message", "chat_template"};
    int rc = 0;
    if (!column_is_empty(column_find(line, "enable_thinking")))
        return beside_arguments("enable_thinking", e);
    if (json_is_true(column_find(line, "thinking"))) /* a text is what the model thought */
        return beside_arguments("thinking", e);
    for (int i = 0; i < 2; i++)
        if (!column_is_empty(column_find(line, never[i])))
            return err_field(e, ASSAY_EBADREQ, never[i],
                "rows are written without this argument of the chat template");
    for (int i = 0; rc == 0 && i < 2; i++)
        rc = take_field(row, arguments[i], column_find(line, arguments[i]), e);
    return rc == 0 ? take_kwargs(row, column_find(line, "chat_template_kwargs"), e) : rc;
}

int column_options_refuse_arguments(const json_t *line, struct err *e)
{
    for (int i = 0; arguments[i]; i++)
        if (!column_is_empty(column_find(line, arguments[i])))
            return err_field(e, ASSAY_EBADREQ, arguments[i],
                "expected nothing that only a chat template writes beside query; leave it out to "
                "have the row scored without it");
    return 0;
}

/* ---- media ---- */

static int check_media(const json_t *object, const char *where, struct err *e)
{
    char field[64];
    for (int i = 0; media[i]; i++) {
        snprintf(field, sizeof field, "%s%s", where, media[i]);
        if (!column_is_empty(column_find(object, media[i])))
            return err_field(e, ASSAY_EBADREQ, field,
                "expected nothing: these models read text alone; leave it out to have the text "
                "scored without it");
    }
    return 0;
}

/* Looks for media in a list of messages, or in the lists in it (of responses). */
static int check_messages(const json_t *list, const char *name, struct err *e)
{
    json_t *message;
    size_t k;
    char where[80];
    json_array_foreach((json_t *)list, k, message)
    {
        int is_list = json_is_array(message);
        snprintf(where, sizeof where, "%.30s[%zu]%s", name, k, is_list ? "" : ".");
        int rc = is_list ? check_messages(message, where, e) : check_media(message, where, e);
        if (rc != 0)
            return rc;
    }
    return 0;
}

int column_options_check_media(const json_t *row, const json_t *line, struct err *e)
{
    const char *key;
    json_t *list;
    int rc = check_media(line, "", e);
    json_object_foreach((json_t *)row, key, list)
    {
        if (rc == 0)
            rc = check_messages(list, key, e);
    }
    return rc;
}

/* ---- how it is scored ---- */

/* Drops nulls, which data sets write into fields that a row does not use. */
static json_t *without_nulls(const json_t *pool)
{
    json_t *own = json_object(), *v;
    const char *key;
    json_object_foreach((json_t *)pool, key, v)
    {
        if (!json_is_null(v))
            json_object_set(own, key, v);
    }
    return own;
}

static int take_setting(json_t *row, const char *key, const json_t *v, struct err *e)
{
    static const char *const texts[] = {"adapter", "truncation_side", NULL};
    int is_pool = strcmp(key, "pool") == 0, is_number = strcmp(key, "max_length") == 0;
    int is_text = column_is_one_of(texts, key, strlen(key));
    if (!v)
        return 0;
    if (!(is_pool       ? json_is_object(v)
            : is_number ? json_is_integer(v)
            : is_text   ? json_is_string(v)
                        : json_is_boolean(v)))
        return err_field(e, ASSAY_EBADREQ, key,
            "expected %s, as in the row of a message, found another; leave the column out where it "
            "is something else",
            is_pool     ? "an object with type, step_token, positions or activation"
            : is_number ? "an integer"
            : is_text   ? "a string"
                        : "true or false");
    json_object_set_new(row, key, is_pool ? without_nulls(v) : json_incref((json_t *)v));
    return 0;
}

int column_options_take_settings(json_t *row, const json_t *line, struct err *e)
{
    int rc = 0;
    for (int i = 0; rc == 0 && settings[i]; i++)
        rc = take_setting(row, settings[i], column_find(line, settings[i]), e);
    for (int i = 0; rc == 0 && pool_fields[i]; i++)
        if (column_find(line, pool_fields[i]))
            rc = err_field(e, ASSAY_EBADREQ, pool_fields[i],
                "expected in pool, as in {\"pool\": {\"%s\": ..}}, found beside it; leave the "
                "column out where it is something else",
                pool_fields[i]);
    return rc;
}
