/* card.c - see card.h. */
#include "broker/http/card.h"

#include <stdlib.h>
#include <string.h>

#include "schema/alloc.h"

static const char *text_in(const json_t *map, const char *key)
{
    const char *text = json_string_value(json_object_get(map, key));
    return text ? text : "";
}

static int64_t number_in(const json_t *map, const char *key)
{
    return json_integer_value(json_object_get(map, key));
}

static int count_groups(const json_t *workers)
{
    json_t *worker;
    size_t k;
    int n = 1;
    json_array_foreach(workers, k, worker)
    {
        int64_t group = number_in(worker, "group");
        n = group >= n && group < 1024 ? (int)group + 1 : n;
    }
    return n;
}

static int read_model(struct card *c, const json_t *model, struct err *e)
{
    const json_t *pooling = json_object_get(model, "pooling");
    if (!json_is_object(model) || !json_is_object(pooling) || !*text_in(model, "name"))
        return err_set(e, ASSAY_EBADMSG, "info: expected a model with its pooling, found none");
    c->model = text_in(model, "name");
    c->pool_type = text_in(pooling, "type");
    c->activation = text_in(pooling, "activation");
    c->digest = text_in(model, "digest");
    c->recipe = json_string_value(json_object_get(model, "recipe"));
    c->max_len = number_in(model, "max_len");
    c->n_labels = number_in(model, "n_labels");
    if (c->n_names == 0)
        c->names[c->n_names++] = c->model;
    return 0;
}

int card_new(struct card **out, json_t *info, const char *const *names, int n_names, struct err *e)
{
    struct card *c = xcalloc(1, sizeof *c);
    const json_t *limits = json_object_get(info, "limits");
    atomic_init(&c->references, 1);
    c->info = info;
    for (int i = 0; i < n_names && i < CARD_MAX_NAMES; i++)
        c->names[c->n_names++] = names[i];
    c->mode = text_in(info, "mode");
    c->state = text_in(info, "state");
    c->started_ms = number_in(info, "started_ms");
    c->max_rows = number_in(limits, "max_rows_per_message");
    c->max_message_bytes = number_in(limits, "max_message_bytes");
    c->n_groups = count_groups(json_object_get(info, "workers"));
    int rc = read_model(c, json_object_get(info, "model"), e);
    *out = c;
    if (rc != 0)
        card_release(out);
    return rc;
}

struct card *card_hold(struct card *card)
{
    if (card)
        atomic_fetch_add(&card->references, 1);
    return card;
}

void card_release(struct card **card)
{
    struct card *c = *card;
    *card = NULL;
    if (!c || atomic_fetch_sub(&c->references, 1) > 1)
        return;
    json_decref(c->info);
    free(c);
}

int card_is_alike(const struct card *a, const struct card *b)
{
    return a == b || (strcmp(a->mode, b->mode) == 0 && strcmp(a->digest, b->digest) == 0);
}

int card_is_ready(const struct card *card)
{
    return strcmp(card->state, "ready") == 0;
}

const char *card_label(const struct card *card, uint32_t k)
{
    const json_t *labels = json_object_get(json_object_get(card->info, "model"), "labels");
    return json_string_value(json_array_get(labels, k));
}

static const char *find_adapter(const struct card *card, const char *model)
{
    json_t *adapter;
    size_t k;
    json_array_foreach(
        json_object_get(json_object_get(card->info, "model"), "adapters"), k, adapter)
    {
        if (strcmp(text_in(adapter, "name"), model) == 0)
            return text_in(adapter, "name");
    }
    return NULL;
}

int card_find(const struct card *card, const char *model, const char **adapter, const char **name,
    struct err *e)
{
    *adapter = NULL;
    *name = card->names[0];
    if (!model || !*model)
        return 0;
    for (int i = 0; i < card->n_names; i++)
        if (strcmp(card->names[i], model) == 0)
            return *name = card->names[i], 0;
    *adapter = *name = find_adapter(card, model);
    if (*adapter)
        return 0;
    return err_field(e, ASSAY_EADAPTER, "model",
        "The model `%.200s` does not exist. Valid names: %s%s.", model, card->names[0],
        card->n_names > 1 ? " and others" : "");
}
