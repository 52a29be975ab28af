/* ask.c - what decoders share (ask.h). */
#include "broker/ask/ask.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "broker/ask/fields.h"
#include "schema/alloc.h"

#define JOB_ROOM 4096 /* of a message, beside its rows */

void ask_init(struct ask *ask, const struct card *card)
{
    *ask = (struct ask){.card = card, .asks.model = &card->models[0], .row_id = -1};
    rows_init(&ask->rows);
    ask->rows.max_rows = card->max_rows > 0 ? (uint32_t)card->max_rows : 1;
    ask->rows.max_bytes =
        card->max_message_bytes > JOB_ROOM ? (size_t)card->max_message_bytes - JOB_ROOM : 0;
}

void ask_release(struct ask *ask)
{
    rows_release(&ask->rows);
    json_decref(ask->documents);
    free(ask->model);
    *ask = (struct ask){0};
}

/* SGLang names an adapter beside the model that it is for. */
static int choose_adapter(struct ask *ask, const char *lora, struct err *e)
{
    const char *name, *chosen = ask->asks.adapter;
    for (size_t k = 0; (name = card_adapter(ask->asks.model, k)); k++)
        if (strcmp(name, lora) == 0 && (!chosen || strcmp(name, chosen) == 0)) {
            ask->asks.adapter = name;
            return 0;
        }
    if (chosen)
        return err_field(e, ASSAY_EBADREQ, "lora_path",
            "`lora_path`: expected the adapter that `model` names (%s), found '%.100s'", chosen,
            lora);
    return err_field(e, ASSAY_EADAPTER, "lora_path",
        "`lora_path`: the model %s has no adapter '%.100s'", ask->asks.model->name, lora);
}

static char *copy_text(const char *text)
{
    size_t n = strlen(text) + 1;
    return memcpy(xcalloc(n, 1), text, n);
}

int ask_choose(struct ask *ask, const json_t *body, struct err *e)
{
    const char *model = NULL, *lora = NULL;
    int rc = field_text(body, "model", &model, e);
    if (rc >= 0)
        rc = field_text(body, "lora_path", &lora, e);
    if (rc < 0)
        return rc;
    int has_model = model && *model, has_lora = lora && *lora;
    const char *name = has_model ? model : has_lora ? lora : NULL;
    rc = card_find(ask->card, name, &ask->asks, e);
    if (rc == 0 && has_model && has_lora)
        rc = choose_adapter(ask, lora, e);
    free(ask->model);
    ask->model = copy_text(name ? name : ask->card->names[0]);
    return rc;
}

int ask_decode(struct ask *ask, ask_decoder *decoder, const json_t *body, struct err *e)
{
    int rc = ask_choose(ask, body, e);
    return rc == 0 ? decoder(ask, body, e) : rc;
}

void ask_begin_rows(const struct ask *ask, struct row_options *o)
{
    if (ask->row_id >= 0)
        msg_int(row_options_add(o, "id"), ask->row_id);
    if (ask->names_model && ask->asks.model != &ask->card->models[0])
        msg_str(row_options_add(o, "model"), ask->asks.model->name);
    if (ask->asks.adapter)
        msg_str(row_options_add(o, "adapter"), ask->asks.adapter);
}

int ask_needs_score(const struct ask *ask, struct err *e)
{
    const char *type = ask->asks.model->pool_type;
    if (strcmp(type, "STEP") != 0 && strcmp(type, "POSITIONS") != 0 && strcmp(type, "ALL") != 0)
        return 0;
    return err_set(e, ASSAY_EBADREQ,
        "this endpoint gives one result a text, and the model scores positions (%s): use /pooling",
        type);
}

int ask_end(const struct ask *ask, struct err *e)
{
    if (ask->rows.n == 0)
        return err_set(e, ASSAY_EBADREQ, "expected at least one text to score, found none");
    return rows_check(&ask->rows, e);
}

static int is_message(const json_t *v)
{
    return json_is_object(v);
}

static int add_item(struct ask *ask, const struct row_options *o, const json_t *item,
    const char *where, struct err *e)
{
    const json_t *first = json_array_get(item, 0);
    if (json_is_string(item))
        return rows_add_text(&ask->rows, o, json_string_value(item), json_string_length(item), e);
    if (json_is_array(item) && is_message(first))
        return rows_add_messages(&ask->rows, o, item, e);
    if (json_is_array(item))
        return rows_add_ids(&ask->rows, o, item, where, e);
    return err_field(e, ASSAY_EBADREQ, where,
        "`%s`: expected a text, token ids or messages, found something else", where);
}

int ask_add_input(struct ask *ask, const struct row_options *o, const json_t *input,
    const char *name, struct err *e)
{
    const json_t *first = json_array_get(input, 0), *item;
    size_t k;
    int rc = 0;
    if (json_is_string(input) || json_is_integer(first) || is_message(first))
        return add_item(ask, o, input, name, e);
    if (!json_is_array(input) || json_array_size(input) == 0)
        return err_field(e, ASSAY_EBADREQ, name,
            "`%s`: expected a text, token ids, or a list of them that is not empty", name);
    json_array_foreach(input, k, item)
    {
        char where[64];
        if (rc != 0)
            return rc;
        snprintf(where, sizeof where, "%s[%zu]", name, k);
        rc = json_typeof(item) == json_typeof(first)
                 ? add_item(ask, o, item, where, e)
                 : err_field(e, ASSAY_EBADREQ, where,
                       "`%s`: expected the same type as the first, found another", where);
    }
    return rc;
}

int ask_begin_scores(struct ask *ask, const json_t *body, const struct field *const *lists,
    struct row_options *o, struct err *e)
{
    int rc = ask_needs_score(ask, e);
    if (rc == 0)
        rc = fields_check(body, lists, e);
    ask_begin_rows(ask, o);
    if (rc == 0)
        rc = fields_take_truncation(body, o, e);
    return rc == 0 ? fields_take_pool(body, ask->asks.model, NULL, o, e) : rc;
}
