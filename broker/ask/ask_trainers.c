/* ask_trainers.c - what trainers send to reward models of their own: OpenRLHF's /get_reward and
 * slime's /rm (ask.h). */
#include "broker/ask/ask.h"

#include <stdlib.h>
#include <string.h>

#include "broker/ask/fields.h"
#include "schema/alloc.h"

static const struct field get_reward_fields[] = {
    {"query", FIELD_TAKEN},
    {"prompts", FIELD_IGNORED}, /* stand in `query` already */
    {"labels", FIELD_IGNORED},
    {NULL, FIELD_OFF},
};

static const struct field rm_fields[] = {
    {"prompt", FIELD_TAKEN},
    {"response", FIELD_TAKEN},
    {"label", FIELD_IGNORED},
    {NULL, FIELD_OFF},
};

static int begin(struct ask *ask, const json_t *body, const struct field *own,
    struct row_options *o, struct err *e)
{
    const struct field *const lists[] = {fields_common, fields_truncation, own, NULL};
    return ask_begin_scores(ask, body, lists, o, e);
}

/* Whole texts, with the chat template's tokens in them: OpenRLHF's own server puts nothing around
 * them. */
int ask_get_reward(struct ask *ask, const json_t *body, struct err *e)
{
    const json_t *query = json_object_get(body, "query");
    struct row_options o;
    row_options_init(&o);
    o.text_is_bare = 1;
    int rc = begin(ask, body, get_reward_fields, &o, e);
    if (rc == 0 && !json_is_string(query) && !json_is_string(json_array_get(query, 0)))
        rc = err_field(e, ASSAY_EBADREQ, "query", "`query`: expected a list of texts");
    if (rc == 0)
        rc = ask_add_input(ask, &o, query, "query", e);
    row_options_release(&o);
    return rc == 0 ? ask_end(ask, e) : rc;
}

/* Does the text have a control token of a chat template? Then another template around it would
 * score another text than was meant. */
static int is_templated(const json_t *text)
{
    static const char *const marks[] = {"<|im_start|>", "<|im_end|>", "<|start_header_id|>",
        "<|eot_id|>", "<|begin_of_text|>", "[INST]", "<start_of_turn>", "<|user|>", "<|assistant|>",
        "<\xef\xbd\x9cUser\xef\xbd\x9c>"};
    for (size_t i = 0; i < sizeof marks / sizeof marks[0]; i++)
        if (memmem(json_string_value(text), json_string_length(text), marks[i], strlen(marks[i])))
            return 1;
    return 0;
}

/* How a prompt that is a text is read: ?prompt=chat (the default) or ?prompt=text. */
static int is_whole_text(const struct ask *ask, int *is_text, struct err *e)
{
    const char *said = ask->prompt_is;
    *is_text = said && strcmp(said, "text") == 0;
    if (*is_text || !said || strcmp(said, "chat") == 0)
        return 0;
    return err_field(e, ASSAY_EBADREQ, "prompt",
        "expected ?prompt=chat or ?prompt=text behind the path, found '?prompt=%.40s'", said);
}

static int add_text(struct ask *ask, struct row_options *o, const json_t *prompt,
    const json_t *response, struct err *e)
{
    size_t first = json_string_length(prompt), second = json_string_length(response);
    char *whole = xcalloc(first + second, 1);
    memcpy(whole, json_string_value(prompt), first);
    memcpy(whole + first, json_string_value(response), second);
    o->text_is_bare = 1;
    int rc = rows_add_text(&ask->rows, o, whole, first + second, e);
    free(whole);
    return rc;
}

static int add_sample(struct ask *ask, struct row_options *o, const json_t *body, struct err *e)
{
    const json_t *prompt = json_object_get(body, "prompt");
    const json_t *response = json_object_get(body, "response");
    int is_text, rc = is_whole_text(ask, &is_text, e);
    if (rc != 0)
        return rc;
    if (!json_is_string(response))
        return err_field(e, ASSAY_EBADREQ, "response", "`response`: expected a text");
    if (!json_is_string(prompt) && !json_is_object(json_array_get(prompt, 0)))
        return err_field(e, ASSAY_EBADREQ, "prompt", "`prompt`: expected a text or messages");
    if (is_text && !json_is_string(prompt))
        return err_field(e, ASSAY_EBADREQ, "prompt",
            "`prompt`: expected a text with ?prompt=text, found messages");
    if (is_text)
        return add_text(ask, o, prompt, response, e);
    if (json_is_string(prompt) && is_templated(prompt))
        return err_field(e, ASSAY_EBADREQ, "prompt",
            "`prompt`: found a chat template's tokens in it, and a template would be written "
            "around them: send it to /rm?prompt=text, to score prompt and response as one text");
    return rows_add_pair(&ask->rows, o, "prompt", prompt, "response", response, e);
}

int ask_rm(struct ask *ask, const json_t *body, struct err *e)
{
    struct row_options o;
    row_options_init(&o);
    int rc = begin(ask, body, rm_fields, &o, e);
    if (rc == 0)
        rc = add_sample(ask, &o, body, e);
    row_options_release(&o);
    return rc == 0 ? ask_end(ask, e) : rc;
}
