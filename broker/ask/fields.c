/* fields.c - see fields.h. */
#include "broker/ask/fields.h"

#include <stdint.h>
#include <string.h>

#include "schema/msg_json.h"
#include "schema/pooling.h"
#include "schema/suggest.h"

const struct field fields_common[] = {
    {"model", FIELD_TAKEN},
    {"models", FIELD_TAKEN},
    {"user", FIELD_IGNORED},
    {"request_id", FIELD_IGNORED},
    {"rid", FIELD_IGNORED},
    {"priority", FIELD_IGNORED},
    {"cache_salt", FIELD_IGNORED},
    {"metadata", FIELD_IGNORED},
    {"service_tier", FIELD_IGNORED},
    {"store", FIELD_IGNORED},
    {"log_metrics", FIELD_IGNORED},
    {"routing_key", FIELD_IGNORED},
    {"stream", FIELD_OFF},
    {"dimensions", FIELD_OFF},
    {"normalize", FIELD_OFF},
    {"mm_processor_kwargs", FIELD_OFF},
    {"media_io_kwargs", FIELD_OFF},
    {"return_pooled_hidden_states", FIELD_OFF},
    {"use_activation", FIELD_TAKEN},
    {"softmax", FIELD_TAKEN},
    {"activation", FIELD_TAKEN},
    {NULL, FIELD_OFF},
};

const struct field fields_truncation[] = {
    {"truncate_prompt_tokens", FIELD_TAKEN},
    {"truncation_side", FIELD_TAKEN},
    {NULL, FIELD_OFF},
};

const struct field fields_chat[] = {
    {"messages", FIELD_TAKEN},
    {"add_generation_prompt", FIELD_TAKEN},
    {"chat_template_kwargs", FIELD_TAKEN},
    {"tools", FIELD_TAKEN},
    {"join_content", FIELD_TAKEN},
    {"continue_final_message", FIELD_OFF},
    {"chat_template", FIELD_OFF},
    {NULL, FIELD_OFF},
};

int field_is_absent(const json_t *value)
{
    return !value || json_is_null(value);
}

int field_is_off(const json_t *v)
{
    if (field_is_absent(v))
        return 1;
    if (json_is_string(v))
        return json_string_length(v) == 0;
    if (json_is_array(v) || json_is_object(v))
        return json_array_size(v) == 0 && json_object_size(v) == 0;
    return json_is_false(v) || (json_is_number(v) && json_number_value(v) == 0);
}

static const struct field *find(const struct field *const *lists, const char *name)
{
    for (; *lists; lists++)
        for (const struct field *f = *lists; f->name; f++)
            if (strcmp(f->name, name) == 0)
                return f;
    return NULL;
}

static int refuse_unknown(const struct field *const *lists, const char *name, struct err *e)
{
    struct suggestion s;
    char near[128];
    suggestion_begin(&s, name);
    for (; *lists; lists++)
        for (const struct field *f = *lists; f->name; f++)
            suggestion_try(&s, f->name);
    return err_field(e, ASSAY_EBADREQ, name,
        "unknown field `%.80s`: it might change the scores, so it is not ignored%s", name,
        suggestion_text(&s, "", near, sizeof near));
}

int fields_check(const json_t *body, const struct field *const *lists, struct err *e)
{
    const char *name;
    json_t *v;
    json_object_foreach((json_t *)body, name, v)
    {
        const struct field *f = find(lists, name);
        if (!f)
            return refuse_unknown(lists, name, e);
        if (f->use == FIELD_OFF && !field_is_off(v))
            return err_field(e, ASSAY_EBADREQ, name,
                "`%s` is not supported: expected it absent, found a value that would change the "
                "scores",
                name);
    }
    return 0;
}

int field_text(const json_t *body, const char *name, const char **value, struct err *e)
{
    const json_t *v = json_object_get(body, name);
    if (field_is_absent(v))
        return 0;
    if (!json_is_string(v) || strlen(json_string_value(v)) != json_string_length(v))
        return err_field(e, ASSAY_EBADREQ, name, "`%s`: expected a string", name);
    *value = json_string_value(v);
    return 1;
}

int field_flag(const json_t *body, const char *name, int *value, struct err *e)
{
    const json_t *v = json_object_get(body, name);
    if (field_is_absent(v))
        return 0;
    if (!json_is_boolean(v))
        return err_field(e, ASSAY_EBADREQ, name, "`%s`: expected true or false", name);
    *value = json_is_true(v);
    return 1;
}

int field_int(const json_t *body, const char *name, json_int_t min, json_int_t max,
    json_int_t *value, struct err *e)
{
    const json_t *v = json_object_get(body, name);
    if (field_is_absent(v))
        return 0;
    if (!json_is_integer(v) || json_integer_value(v) < min || json_integer_value(v) > max)
        return err_field(e, ASSAY_EBADREQ, name,
            "`%s`: expected an integer from %" JSON_INTEGER_FORMAT " to %" JSON_INTEGER_FORMAT,
            name, min, max);
    *value = json_integer_value(v);
    return 1;
}

int fields_take_truncation(const json_t *body, struct row_options *o, struct err *e)
{
    json_int_t most = 0;
    const char *side = NULL;
    int cuts = field_int(body, "truncate_prompt_tokens", -1, INT32_MAX, &most, e);
    int rc = cuts < 0 ? cuts : field_text(body, "truncation_side", &side, e);
    if (rc < 0)
        return rc;
    if (side && strcmp(side, "left") != 0 && strcmp(side, "right") != 0)
        return err_field(e, ASSAY_EBADREQ, "truncation_side",
            "`truncation_side`: expected left or right, found '%.40s'", side);
    if (cuts == 0)
        return 0;
    if (most == 0)
        return err_field(e, ASSAY_EBADREQ, "truncate_prompt_tokens",
            "`truncate_prompt_tokens`: expected -1 or at least 1, found 0: no token would be left");
    msg_bool(row_options_add(o, "truncate"), 1);
    if (most > 0)
        msg_int(row_options_add(o, "max_length"), most);
    if (side)
        msg_str(row_options_add(o, "truncation_side"), side);
    return 0;
}

/* `flag` and its activation: true asks for the one named, false for the raw values. */
static int take_flag(const json_t *body, const char *flag, const char *when_true,
    const char **activation, struct err *e)
{
    int on = 0, rc = field_flag(body, flag, &on, e);
    if (rc <= 0)
        return rc;
    const char *wanted = on ? when_true : "none";
    if (*activation && (!wanted || strcmp(*activation, wanted) != 0))
        return err_field(e, ASSAY_EBADREQ, flag,
            "`%s`: expected what the other fields say of the activation, found otherwise", flag);
    if (wanted)
        *activation = wanted;
    return 0;
}

static int take_activation(
    const json_t *body, const struct card_model *model, const char **activation, struct err *e)
{
    int is_flag = json_is_boolean(json_object_get(body, "activation"));
    /* Where the model has an activation of its own, that is what `true` asks for. */
    const char *own = strcmp(model->activation, "none") == 0 ? "config" : NULL;
    int rc = is_flag ? take_flag(body, "activation", own, activation, e)
                     : field_text(body, "activation", activation, e);
    if (rc >= 0 && !is_flag && *activation &&
        activation_from_name(*activation, strlen(*activation)) < 0)
        return err_field(e, ASSAY_EBADREQ, "activation",
            "`activation`: expected none, softmax, sigmoid, class1 or config, found '%.40s'",
            *activation);
    if (rc >= 0)
        rc = take_flag(body, "softmax", "softmax", activation, e);
    if (rc >= 0)
        rc = take_flag(body, "use_activation", own, activation, e);
    return rc < 0 ? rc : 0;
}

int fields_take_pool(const json_t *body, const struct card_model *model, const char *pool_type,
    struct row_options *o, struct err *e)
{
    const char *activation = NULL;
    int rc = take_activation(body, model, &activation, e);
    if (rc != 0 || (!activation && !pool_type))
        return rc;
    struct msg_writer *w = row_options_add(o, "pool");
    msg_map(w, (pool_type != NULL) + (activation != NULL));
    if (pool_type)
        msg_key_str(w, "type", pool_type);
    if (activation)
        msg_key_str(w, "activation", activation);
    return 0;
}

int fields_take_chat(const json_t *body, struct row_options *o, struct err *e)
{
    static const char *const flags[] = {"add_generation_prompt", "join_content"};
    const json_t *arguments = json_object_get(body, "chat_template_kwargs");
    const json_t *tools = json_object_get(body, "tools");
    for (int i = 0; i < 2; i++) {
        int on = 0, rc = field_flag(body, flags[i], &on, e);
        if (rc < 0)
            return rc;
        if (on)
            msg_bool(row_options_add(o, flags[i]), 1);
    }
    if (!field_is_absent(arguments) && !json_is_object(arguments))
        return err_field(
            e, ASSAY_EBADREQ, "chat_template_kwargs", "`chat_template_kwargs`: expected an object");
    if (json_object_size(arguments) > 0)
        msg_json(row_options_add(o, "chat_template_kwargs"), arguments);
    if (!field_is_absent(tools))
        msg_json(row_options_add(o, "tools"), tools);
    return 0;
}
