/* ask_input.c - requests with an `input`, a `text` or `messages`: /classify, /v1/embeddings and
 * /pooling (ask.h). */
#include "broker/ask/ask.h"

#include <string.h>

#include "broker/ask/fields.h"
#include "schema/pooling.h"

static const struct field input_fields[] = {
    {"input", FIELD_TAKEN},
    {"add_special_tokens", FIELD_TAKEN},
    {"encoding_format", FIELD_TAKEN},
    {"embed_dtype", FIELD_TAKEN},
    {"endianness", FIELD_TAKEN},
    {"padding", FIELD_TAKEN},
    {"task", FIELD_TAKEN},
    {"pooling_type", FIELD_TAKEN},
    {NULL, FIELD_OFF},
};

static const struct field sglang_fields[] = {
    {"text", FIELD_TAKEN},
    {"input_ids", FIELD_TAKEN},
    {"lora_path", FIELD_TAKEN},
    {"sampling_params", FIELD_IGNORED},
    {"background", FIELD_IGNORED},
    {"http_worker_ipc", FIELD_IGNORED},
    {"input_embeds", FIELD_OFF},
    {"image_data", FIELD_OFF},
    {"video_data", FIELD_OFF},
    {"audio_data", FIELD_OFF},
    {"modalities", FIELD_OFF},
    {"embed_override_token_id", FIELD_OFF},
    {"embed_overrides", FIELD_OFF},
    {"positional_embed_overrides", FIELD_OFF},
    {"is_cross_encoder_request", FIELD_OFF},
    {"lora_id", FIELD_OFF},
    {NULL, FIELD_OFF},
};

/* `name` may only be `allowed`, if it is there. */
static int expect(const json_t *body, const char *name, const char *allowed, struct err *e)
{
    const char *value = NULL;
    int rc = field_text(body, name, &value, e);
    if (rc <= 0 || strcmp(value, allowed) == 0)
        return rc < 0 ? rc : 0;
    return err_field(
        e, ASSAY_EBADREQ, name, "`%s`: expected %s, found '%.40s'", name, allowed, value);
}

/* How values are written: as numbers, or base64 of float32 in this machine's order. */
static int take_encoding(struct ask *ask, const json_t *body, struct err *e)
{
    const char *format = "float", *order = "little";
    int rc = field_text(body, "encoding_format", &format, e);
    if (rc >= 0 && strcmp(format, "float") != 0 && strcmp(format, "base64") != 0)
        return err_field(e, ASSAY_EBADREQ, "encoding_format",
            "`encoding_format`: expected float or base64, found '%.40s'", format);
    ask->is_base64 = strcmp(format, "base64") == 0;
    if (rc >= 0)
        rc = expect(body, "embed_dtype", "float32", e);
    if (rc >= 0)
        rc = field_text(body, "endianness", &order, e);
    if (rc >= 0 && strcmp(order, "little") != 0 && strcmp(order, "native") != 0)
        return err_field(e, ASSAY_EBADREQ, "endianness",
            "`endianness`: expected little or native, found '%.40s'", order);
    return rc < 0 ? rc : 0;
}

/* Conversations have the chat template's fields, and nothing is put around what it writes; texts
 * and ids have none of them. */
static int take_form(const json_t *body, int is_chat, struct row_options *o, struct err *e)
{
    static const char *const of_chats[] = {
        "add_generation_prompt", "join_content", "chat_template_kwargs", "tools"};
    int special = !is_chat, rc = field_flag(body, "add_special_tokens", &special, e);
    o->text_is_bare = !special;
    if (rc < 0)
        return rc;
    if (is_chat && special)
        return err_field(e, ASSAY_EBADREQ, "add_special_tokens",
            "`add_special_tokens`: expected false with messages, found true: the chat template "
            "writes what stands around them");
    if (is_chat)
        return fields_take_chat(body, o, e);
    for (int i = 0; i < 4; i++)
        if (!field_is_off(json_object_get(body, of_chats[i])))
            return err_field(e, ASSAY_EBADREQ, of_chats[i],
                "`%s`: expected with messages, found with a text or token ids", of_chats[i]);
    return 0;
}

/* Either `input` or `messages`, and what belongs to it. */
static int add_rows(struct ask *ask, const json_t *body, struct row_options *o, struct err *e)
{
    const json_t *input = json_object_get(body, "input");
    const json_t *messages = json_object_get(body, "messages");
    const char *name = field_is_absent(messages) ? "input" : "messages";
    const json_t *given = field_is_absent(messages) ? input : messages;
    const json_t *first = json_array_get(given, 0);
    int is_chat = json_is_object(first) || json_is_object(json_array_get(first, 0));
    if (field_is_absent(input) == field_is_absent(messages))
        return err_field(e, ASSAY_EBADREQ, "input",
            "expected either `input` or `messages`, found %s",
            field_is_absent(input) ? "neither" : "both");
    if (given == messages && !is_chat)
        return err_field(e, ASSAY_EBADREQ, "messages",
            "`messages`: expected a list of objects with role and content");
    int rc = take_form(body, is_chat, o, e);
    return rc == 0 ? ask_add_input(ask, o, given, name, e) : rc;
}

/* pool_type: NULL for the model's own. */
static int decode_input(struct ask *ask, const json_t *body, const char *pool_type, struct err *e)
{
    static const struct field *const lists[] = {
        fields_common, fields_truncation, fields_chat, input_fields, NULL};
    struct row_options o;
    row_options_init(&o);
    int rc = fields_check(body, lists, e);
    ask_begin_rows(ask, &o);
    if (rc == 0)
        rc = expect(body, "padding", "do_not_pad", e);
    if (rc == 0)
        rc = take_encoding(ask, body, e);
    if (rc == 0)
        rc = fields_take_truncation(body, &o, e);
    if (rc == 0)
        rc = ask_take_pool(ask, body, pool_type, &o, e);
    if (rc == 0)
        rc = add_rows(ask, body, &o, e);
    row_options_release(&o);
    return rc == 0 ? ask_end(ask, e) : rc;
}

int ask_is_sglang(const json_t *body)
{
    return json_object_get(body, "text") || json_object_get(body, "input_ids");
}

/* `text`, else `input_ids`; a list of them is answered by a list. */
static int add_sglang(struct ask *ask, const json_t *body, struct row_options *o, struct err *e)
{
    const json_t *text = json_object_get(body, "text"), *ids = json_object_get(body, "input_ids");
    const json_t *input = field_is_absent(text) ? ids : text;
    const char *name = input == text ? "text" : "input_ids";
    if (field_is_absent(text) == field_is_absent(ids))
        return err_field(e, ASSAY_EBADREQ, name, "expected either `text` or `input_ids`");
    ask->is_sglang = 1;
    ask->is_single = json_is_string(input) || json_is_integer(json_array_get(input, 0));
    if ((input == text) != (json_is_string(input) || json_is_string(json_array_get(input, 0))))
        return err_field(e, ASSAY_EBADREQ, name, "`%s`: expected %s, found something else", name,
            input == text ? "a text or a list of texts" : "token ids or lists of them");
    return ask_add_input(ask, o, input, name, e);
}

static int decode_sglang(struct ask *ask, const json_t *body, struct err *e)
{
    static const struct field *const lists[] = {fields_common, sglang_fields, NULL};
    struct row_options o;
    row_options_init(&o);
    int rc = fields_check(body, lists, e);
    ask_begin_rows(ask, &o);
    if (rc == 0)
        rc = ask_take_pool(ask, body, NULL, &o, e);
    if (rc == 0)
        rc = add_sglang(ask, body, &o, e);
    row_options_release(&o);
    return rc == 0 ? ask_end(ask, e) : rc;
}

int ask_classify(struct ask *ask, const json_t *body, struct err *e)
{
    int rc = ask_needs_score(ask, e);
    if (rc != 0)
        return rc;
    if (!ask_is_sglang(body))
        return decode_input(ask, body, NULL, e);
    return decode_sglang(ask, body, e);
}

int ask_embeddings(struct ask *ask, const json_t *body, struct err *e)
{
    int rc = ask_needs_score(ask, e);
    return rc == 0 ? decode_input(ask, body, NULL, e) : rc;
}

/* vLLM pools ALL for a model whose task it takes for token_classify, as for every reward model. */
static int take_pool_type(
    const struct ask *ask, const json_t *body, const char **pool_type, struct err *e)
{
    const char *task = NULL, *own = ask->asks.model->pool_type;
    int is_step = strcmp(own, "STEP") == 0 || strcmp(own, "POSITIONS") == 0;
    *pool_type = is_step ? NULL : "ALL";
    int rc = field_text(body, "task", &task, e);
    if (rc > 0 && strcmp(task, "classify") == 0)
        *pool_type = NULL;
    else if (rc > 0 && strcmp(task, "token_classify") != 0)
        return err_field(e, ASSAY_EBADREQ, "task",
            "`task`: expected token_classify or classify, found '%.40s'", task);
    if (rc >= 0)
        rc = field_text(body, "pooling_type", pool_type, e);
    if (rc > 0 && pool_type_from_name(*pool_type, strlen(*pool_type)) < 0)
        return err_field(e, ASSAY_EBADREQ, "pooling_type",
            "`pooling_type`: expected ALL, LAST, CLS, MEAN or STEP, found '%.40s'", *pool_type);
    return rc < 0 ? rc : 0;
}

/* The mean is of one score from each model, not of as many as a text has tokens. */
static int needs_one(const struct ask *ask, const char *pool_type, struct err *e)
{
    const char *type = pool_type ? pool_type : ask->asks.model->pool_type;
    if (ask->n_all == 0 || !strcmp(type, "LAST") || !strcmp(type, "CLS") || !strcmp(type, "MEAN"))
        return 0;
    return err_field(e, ASSAY_EBADREQ, "pooling_type",
        "`pooling_type`: expected LAST, CLS or MEAN with several `models`, found %s", type);
}

int ask_pooling(struct ask *ask, const json_t *body, struct err *e)
{
    const char *pool_type;
    int rc = take_pool_type(ask, body, &pool_type, e);
    if (rc == 0)
        rc = needs_one(ask, pool_type, e);
    return rc == 0 ? decode_input(ask, body, pool_type, e) : rc;
}
