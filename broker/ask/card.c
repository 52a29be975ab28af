/* card.c - see card.h. */
#include "broker/ask/card.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "schema/alloc.h"

#define LIST_BYTES 300 /* of the names in a refusal */

static const char *text_in(const json_t *map, const char *key)
{
    const char *text = json_string_value(json_object_get(map, key));
    return text ? text : "";
}

static int64_t number_in(const json_t *map, const char *key)
{
    return json_integer_value(json_object_get(map, key));
}

/* ---- reading ---- */

/* Counts the model's groups by their first ranks. */
static void read_groups(struct card_model *m, const json_t *workers)
{
    json_t *worker;
    size_t k;
    json_array_foreach(workers, k, worker)
    {
        if (number_in(worker, "rank") != 0 || strcmp(text_in(worker, "model"), m->name) != 0)
            continue;
        m->n_groups++;
        m->is_ready |= strcmp(text_in(worker, "state"), "ready") == 0;
    }
    m->n_groups = m->n_groups > 0 ? m->n_groups : 1;
}

static int read_model(
    struct card_model *m, const json_t *entry, const json_t *workers, struct err *e)
{
    const json_t *model = json_object_get(entry, "model");
    const json_t *pooling = json_object_get(model, "pooling");
    if (!json_is_object(model) || !json_is_object(pooling) || !*text_in(entry, "name"))
        return err_set(e, ASSAY_EBADMSG, "info: expected models with their pooling, found none");
    m->json = model;
    m->name = text_in(entry, "name");
    m->mode = text_in(entry, "mode");
    m->pool_type = text_in(pooling, "type");
    m->activation = text_in(pooling, "activation");
    m->digest = text_in(model, "digest");
    m->recipe = json_string_value(json_object_get(model, "recipe"));
    m->max_len = number_in(model, "max_len");
    m->n_labels = number_in(model, "n_labels");
    read_groups(m, workers);
    return 0;
}

static int read_models(struct card *c, struct err *e)
{
    const json_t *models = json_object_get(c->info, "models"), *entry;
    size_t n = json_array_size(models), k;
    int rc = 0;
    if (n == 0 || n > CARD_MAX_MODELS)
        return err_set(
            e, ASSAY_EBADMSG, "info: expected 1 to %d models, found %zu", CARD_MAX_MODELS, n);
    c->models = xcalloc(n, sizeof *c->models);
    json_array_foreach(models, k, entry)
    {
        if (rc == 0)
            rc = read_model(&c->models[k], entry, json_object_get(c->info, "workers"), e);
    }
    c->n_models = rc == 0 ? (int)n : 0;
    if (rc == 0 && c->n_names == 0)
        c->names[c->n_names++] = c->models[0].name;
    return rc;
}

int card_new(struct card **out, json_t *info, const char *const *names, int n_names, struct err *e)
{
    struct card *c = xcalloc(1, sizeof *c);
    const json_t *limits = json_object_get(info, "limits");
    atomic_init(&c->references, 1);
    c->info = info;
    for (int i = 0; i < n_names && i < CARD_MAX_NAMES; i++)
        c->names[c->n_names++] = names[i];
    c->state = text_in(info, "state");
    c->started_ms = number_in(info, "started_ms");
    c->max_rows = number_in(limits, "max_rows_per_message");
    c->max_message_bytes = number_in(limits, "max_message_bytes");
    int rc = read_models(c, e);
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
    free(c->models);
    free(c);
}

const struct card_model *card_model_named(const struct card *card, const char *name)
{
    for (int k = 0; k < card->n_models; k++)
        if (strcmp(card->models[k].name, name) == 0)
            return &card->models[k];
    return NULL;
}

int card_is_alike(const struct card_model *a, const struct card_model *b)
{
    return a == b || (strcmp(a->mode, b->mode) == 0 && strcmp(a->digest, b->digest) == 0);
}

/* The broker's map of an adapter; NULL: it has none of that name. */
static const json_t *adapter_named(const struct card_model *model, const char *name)
{
    const json_t *adapters = json_object_get(model->json, "adapters"), *adapter;
    size_t k;
    json_array_foreach(adapters, k, adapter)
    {
        const char *found = text_in(adapter, "name");
        if (found && strcmp(found, name) == 0)
            return adapter;
    }
    return NULL;
}

int card_choice_stands(const struct card_choice *then, const struct card *now)
{
    const struct card_model *model = card_model_named(now, then->model->name);
    if (!model || !card_is_alike(then->model, model))
        return 0;
    if (!then->adapter)
        return 1;
    const json_t *a = adapter_named(then->model, then->adapter),
                 *b = adapter_named(model, then->adapter);
    return a && b && json_equal(a, b);
}

int card_choice_is_named(const struct card_choice *then, const struct card *now)
{
    const struct card_model *model = card_model_named(now, then->model->name);
    return model && (!then->adapter || adapter_named(model, then->adapter));
}

int card_is_ready(const struct card *card)
{
    int n = 0;
    for (int k = 0; k < card->n_models; k++)
        n += card->models[k].is_ready;
    return strcmp(card->state, "ready") == 0 && n == card->n_models;
}

const char *card_label(const struct card_model *model, uint32_t k)
{
    return json_string_value(json_array_get(json_object_get(model->json, "labels"), k));
}

const char *card_adapter(const struct card_model *model, size_t k)
{
    const json_t *adapters = json_object_get(model->json, "adapters");
    return k < json_array_size(adapters) ? text_in(json_array_get(adapters, k), "name") : NULL;
}

/* ---- names ---- */

/* Is it the adapter's NAME, or MODEL/NAME? */
static int is_adapter(const struct card_model *m, const char *adapter, const char *name)
{
    size_t n = strlen(m->name);
    if (strcmp(adapter, name) == 0)
        return 1;
    return strncmp(name, m->name, n) == 0 && name[n] == '/' && strcmp(name + n + 1, adapter) == 0;
}

/* Is the k-th model called so? The first one has the names that it is served under. */
static int is_model(const struct card *card, int k, const char *name)
{
    if (k > 0)
        return strcmp(card->models[k].name, name) == 0;
    for (int i = 0; i < card->n_names; i++)
        if (strcmp(card->names[i], name) == 0)
            return 1;
    return 0;
}

/* Returns how many things have this name; *choice is the last of them. */
static int count_named(const struct card *card, const char *name, struct card_choice *choice)
{
    const char *adapter;
    int n = 0;
    for (int k = 0; k < card->n_models; k++) {
        const struct card_model *m = &card->models[k];
        if (is_model(card, k, name)) {
            *choice = (struct card_choice){m, NULL};
            n++;
        }
        for (size_t i = 0; (adapter = card_adapter(m, i)); i++)
            if (is_adapter(m, adapter, name)) {
                *choice = (struct card_choice){m, adapter};
                n++;
            }
    }
    return n;
}

char *card_adapter_name(const struct card *card, const struct card_model *model, const char *name)
{
    struct card_choice any;
    size_t size = strlen(model->name) + strlen(name) + 2;
    char *text = xcalloc(size, 1);
    if (count_named(card, name, &any) == 1)
        snprintf(text, size, "%s", name);
    else
        snprintf(text, size, "%s/%s", model->name, name);
    return text;
}

int card_choice_is(const struct card_choice *a, const struct card_choice *b)
{
    const char *x = a->adapter ? a->adapter : "", *y = b->adapter ? b->adapter : "";
    return a->model == b->model && strcmp(x, y) == 0;
}

char *card_choice_name(const struct card_choice *choice)
{
    const char *model = choice->model->name, *adapter = choice->adapter;
    size_t size = strlen(model) + (adapter ? strlen(adapter) : 0) + 2;
    char *text = xcalloc(size, 1);
    snprintf(text, size, "%s%s%s", model, adapter ? "/" : "", adapter ? adapter : "");
    return text;
}

/* Appends a name to the list, or dots where it has no room. */
static void list_name(char *list, const char *name)
{
    size_t n = strlen(list);
    const char *comma = n > 0 ? ", " : "";
    if (n + strlen(name) + 6 < LIST_BYTES)
        snprintf(list + n, LIST_BYTES - n, "%s%s", comma, name);
    else if (n < 2 || strcmp(list + n - 2, "..") != 0)
        snprintf(list + n, LIST_BYTES - n, "%s..", comma);
}

static void list_names(const struct card *card, char list[LIST_BYTES])
{
    const char *adapter;
    list[0] = '\0';
    for (int i = 0; i < card->n_names; i++)
        list_name(list, card->names[i]);
    for (int k = 1; k < card->n_models; k++)
        list_name(list, card->models[k].name);
    for (int k = 0; k < card->n_models; k++)
        for (size_t i = 0; (adapter = card_adapter(&card->models[k], i)); i++) {
            char *name = card_adapter_name(card, &card->models[k], adapter);
            list_name(list, name);
            free(name);
        }
}

int card_find(const struct card *card, const char *model, struct card_choice *choice, struct err *e)
{
    char list[LIST_BYTES];
    *choice = (struct card_choice){&card->models[0], NULL};
    int n = model && *model ? count_named(card, model, choice) : 1;
    if (n == 1)
        return 0;
    list_names(card, list);
    if (n > 1)
        return err_field(e, ASSAY_EBADREQ, "model",
            "The name `%.100s` stands for several models or adapters. Valid names: %s.", model,
            list);
    return err_field(e, ASSAY_EADAPTER, "model",
        "The model `%.100s` does not exist. Valid names: %s.", model, list);
}
