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

/* ---- ensembles ---- */

/* Names with commas between, which no model's name has. */
static json_t *split_names(const char *text)
{
    json_t *names = json_array();
    for (const char *end = text; end; text = end + 1) {
        end = strchr(text, ',');
        json_array_append_new(names, json_stringn(text, end ? (size_t)(end - text) : strlen(text)));
    }
    return names;
}

static int add_member(struct ask *ask, const char *name, struct err *e)
{
    struct card_choice *one = &ask->all[ask->n_all];
    int rc = card_find(ask->card, name, one, e);
    if (rc != 0)
        return rc;
    for (int k = 0; k < ask->n_all; k++)
        if (card_choice_is(one, &ask->all[k]))
            return err_field(e, ASSAY_EBADREQ, "models",
                "`models`: expected different models, found '%.100s' again", name);
    ask->n_all++;
    return 0;
}

static char *join_names(const json_t *names)
{
    const json_t *name;
    size_t k, size = 1, at = 0;
    json_array_foreach(names, k, name) size += json_string_length(name) + 1;
    char *text = xcalloc(size, 1);
    json_array_foreach(names, k, name) at +=
        (size_t)snprintf(text + at, size - at, "%s%s", k > 0 ? "," : "", json_string_value(name));
    return text;
}

static int choose_all(struct ask *ask, const json_t *names, struct err *e)
{
    size_t n = json_array_size(names);
    int rc = 0;
    if (!json_is_array(names) || n < 2 || n > CARD_MOST_CHOSEN)
        return err_field(e, ASSAY_EBADREQ, "models",
            "`models`: expected a list of 2 to %d names; one alone is for `model`",
            CARD_MOST_CHOSEN);
    for (size_t k = 0; rc == 0 && k < n; k++) {
        const json_t *text = json_array_get(names, k);
        const char *name = json_string_value(text);
        int is_name = name && *name && strlen(name) == json_string_length(text); /* no NUL */
        rc = is_name ? add_member(ask, name, e)
                     : err_field(e, ASSAY_EBADREQ, "models",
                           "`models`: expected names that are not empty, without NUL bytes");
    }
    if (rc != 0)
        return rc;
    ask->asks = ask->all[0];
    free(ask->model);
    ask->model = join_names(names);
    return 0;
}

/* Returns 1 where the body names several models. */
static int choose_ensemble(
    struct ask *ask, const json_t *body, const char *model, const char *lora, struct err *e)
{
    const json_t *models = json_object_get(body, "models");
    struct card_choice one;
    struct err other;
    int is_list = !field_is_absent(models);
    int is_text = model && strchr(model, ',') && card_find(ask->card, model, &one, &other) != 0;
    ask->n_all = 0;
    if (!is_list && !is_text)
        return 0;
    if ((is_list && model && *model) || (lora && *lora))
        return err_field(e, ASSAY_EBADREQ, "models",
            "`models`: expected neither `model` nor `lora_path` beside several models");
    json_t *names = is_list ? json_incref((json_t *)models) : split_names(model);
    int rc = choose_all(ask, names, e);
    json_decref(names);
    return rc == 0 ? 1 : rc;
}

int ask_choose(struct ask *ask, const json_t *body, struct err *e)
{
    const char *model = NULL, *lora = NULL;
    int rc = field_text(body, "model", &model, e);
    if (rc >= 0)
        rc = field_text(body, "lora_path", &lora, e);
    if (rc >= 0)
        rc = choose_ensemble(ask, body, model, lora, e);
    if (rc != 0)
        return rc < 0 ? rc : 0;
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
    if (ask->n_all > 0) {
        struct msg_writer *w = row_options_add(o, "models");
        msg_array(w, (uint32_t)ask->n_all);
        for (int k = 0; k < ask->n_all; k++) {
            char *name = card_choice_name(&ask->all[k]);
            msg_str(w, name);
            free(name);
        }
        return;
    }
    if (ask->names_model && ask->asks.model != &ask->card->models[0])
        msg_str(row_options_add(o, "model"), ask->asks.model->name);
    if (ask->asks.adapter)
        msg_str(row_options_add(o, "adapter"), ask->asks.adapter);
}

static int needs_score(const struct card_model *model, struct err *e)
{
    const char *type = model->pool_type;
    if (strcmp(type, "STEP") != 0 && strcmp(type, "POSITIONS") != 0 && strcmp(type, "ALL") != 0)
        return 0;
    return err_set(e, ASSAY_EBADREQ,
        "this endpoint gives one result a text, and the model scores positions (%s): use /pooling",
        type);
}

int ask_needs_score(const struct ask *ask, struct err *e)
{
    int rc = needs_score(ask->asks.model, e);
    for (int k = 1; rc == 0 && k < ask->n_all; k++)
        rc = needs_score(ask->all[k].model, e);
    return rc;
}

int ask_take_pool(const struct ask *ask, const json_t *body, const char *pool_type,
    struct row_options *o, struct err *e)
{
    int is_true = json_is_true(json_object_get(body, "activation")) ||
                  json_is_true(json_object_get(body, "use_activation"));
    for (int k = 1; is_true && k < ask->n_all; k++)
        if (strcmp(ask->all[k].model->activation, ask->asks.model->activation) != 0)
            return err_field(e, ASSAY_EBADREQ, "use_activation",
                "expected an activation by its name, since the models' own differ (%s and %s)",
                ask->asks.model->activation, ask->all[k].model->activation);
    return fields_take_pool(body, ask->asks.model, pool_type, o, e);
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
    return rc == 0 ? ask_take_pool(ask, body, NULL, o, e) : rc;
}
