/* batch_check.c - the lines of a batch are read before any is scored: whether each is a request, and
 * all are for one model, or one ensemble (batches_private.h). */
#include "broker/http/batches_private.h"

#include <string.h>

#include "schema/log.h"

#define STEP_LINES 2000
#define MOST_ERRORS 100
#define CHUNK_ROWS 1000
#define CHUNK_BYTES (4 << 20)

static void add_error(struct run *r, uint32_t k, const char *code, const struct err *e)
{
    if (json_array_size(r->errors) < MOST_ERRORS)
        json_array_append_new(
            r->errors, json_pack("{s:s, s:s, s:I, s:o}", "code", code, "message", e->msg, "line",
                           (json_int_t)r->lines.places[k].number, "param",
                           e->field[0] ? json_string(e->field) : json_null()));
}

static int is_other(const struct run *r, const struct ask *ask)
{
    if (ask->asks.model != r->model || ask->n_all != r->n_all)
        return 1;
    for (int k = 0; k < r->n_all; k++)
        if (!card_choice_is(&ask->all[k], &r->all[k]))
            return 1;
    return 0;
}

static void note_adapter(struct run *r, const struct card_choice *choice)
{
    char *name = choice->adapter ? card_choice_name(choice) : NULL;
    if (!r->adapters)
        r->adapters = json_object();
    if (name)
        json_object_set_new(r->adapters, name, json_true());
    free(name);
}

/* All lines are for one model, perhaps with adapters of it, or for one ensemble. */
static int check_model(
    struct run *r, const struct batch_line *line, const char **code, struct err *e)
{
    struct ask ask;
    ask_init(&ask, r->card);
    int rc = ask_choose(&ask, line->body, e);
    *code = "model_not_found";
    if (rc == 0 && !r->model) {
        r->model = ask.asks.model;
        r->n_all = ask.n_all;
        memcpy(r->all, ask.all, sizeof r->all);
    } else if (rc == 0 && is_other(r, &ask)) {
        *code = "mismatched_model";
        rc = err_field(e, ASSAY_EBADREQ, "body.model",
            "expected the %s of the lines before, of %.100s, found %.100s",
            r->n_all > 0 ? "models" : "model", r->model->name, ask.model);
    }
    note_adapter(r, &ask.asks);
    for (int k = 0; rc == 0 && k < ask.n_all; k++)
        note_adapter(r, &ask.all[k]);
    ask_release(&ask);
    return rc;
}

static void check_line(struct run *r, uint32_t k)
{
    struct batch_line line;
    struct err e = {0};
    const char *code;
    int rc = batch_lines_read(&r->lines, k, r->route->path, &line, &code, &e);
    if (rc == 0 && seen_add(r->seen, line.custom_id)) {
        code = "duplicate_custom_id";
        rc = err_field(&e, ASSAY_EBADREQ, "custom_id",
            "`custom_id`: expected another than in the lines before, found '%.80s' again",
            line.custom_id);
    }
    if (rc == 0)
        rc = check_model(r, &line, &code, &e);
    if (rc != 0)
        add_error(r, k, code, &e);
    batch_line_release(&line);
}

static int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* A chunk is a small part of a message, and of what the broker's queue holds. */
static int64_t chunk_bytes(const struct card *card)
{
    const json_t *limits = json_object_get(card->info, "limits");
    int64_t queued = json_integer_value(json_object_get(limits, "max_queued_bytes"));
    int64_t most = least(CHUNK_BYTES, card->max_message_bytes / 2);
    return queued > 0 ? least(most, queued / 4) : most;
}

static int is_chosen(const struct run *r, const struct card_model *model)
{
    int n = model == r->model;
    for (int k = 0; k < r->n_all; k++)
        n += r->all[k].model == model;
    return n > 0;
}

/* The broker's map of a model, with the adapters that the batch's lines name alone. */
static json_t *model_of(const struct run *r, const struct card_model *model)
{
    json_t *map = json_copy((json_t *)model->json), *adapters = json_array(), *adapter;
    size_t k;
    json_array_foreach(json_object_get(model->json, "adapters"), k, adapter)
    {
        const struct card_choice choice = {model, card_adapter(model, k)};
        char *name = card_choice_name(&choice);
        if (json_object_get(r->adapters, name))
            json_array_append(adapters, adapter);
        free(name);
    }
    json_object_set_new(map, "adapters", adapters);
    return map;
}

/* What of the broker's info the batch needs to the end: its model or models, as clients call them, in
 * the broker's order, since its first one has names of its own. */
static json_t *info_of(const struct run *r)
{
    const struct card *card = r->card;
    json_t *names = json_array(), *models = json_array();
    for (int i = 0; is_chosen(r, &card->models[0]) && i < card->n_names; i++)
        json_array_append_new(names, json_string(card->names[i]));
    for (int k = 0; k < card->n_models; k++) {
        const struct card_model *m = &card->models[k];
        if (is_chosen(r, m))
            json_array_append_new(models, json_pack("{s:s, s:s, s:o}", "name", m->name, "mode",
                                              m->mode, "model", model_of(r, m)));
    }
    return json_pack("{s:s, s:O, s:o, s:[], s:o}", "state", "ready", "limits",
        json_object_get(card->info, "limits"), "models", models, "workers", "names", names);
}

static int go_on(struct batches *bs, struct batch *b)
{
    struct run *r = b->run;
    struct err e = {0};
    json_t *counts =
        json_pack("{s:I, s:i, s:i}", "total", (json_int_t)r->lines.n, "completed", 0, "failed", 0);
    json_t *fields = json_pack("{s:s, s:I, s:o}", "status", "in_progress", "in_progress_at",
        now_s(), "request_counts", counts);
    json_t *own = json_pack("{s:o, s:s, s:s, s:s, s:I, s:I}", "info", info_of(r), "model",
        r->model->name, "digest", r->model->digest, "mode", r->model->mode, "chunk_rows",
        (json_int_t)least(CHUNK_ROWS, r->card->max_rows), "chunk_bytes",
        (json_int_t)chunk_bytes(r->card));
    json_object_update_new(own, batch_unsent());
    if (batch_set(bs, b, fields, own, &e) == 0)
        return 1;
    log_warn("event=batch_not_begun id=%s reason=\"%s\"", b->id, e.msg);
    return batch_wait(b, BATCH_FULL_MS);
}

int batch_check(struct batches *bs, struct batch *b)
{
    struct run *r = b->run;
    if (r->lines.n == 0)
        return batch_fail(bs, b, "empty_file", "the input file has no lines");
    if (!r->card && !(r->card = link_card_since(bs->options.link, r->began_us)))
        return batch_wait(b, BATCH_POLL_MS);
    for (int i = 0; i < STEP_LINES && r->checked < r->lines.n; i++)
        check_line(r, r->checked++);
    if (r->checked < r->lines.n)
        return 1;
    if (json_array_size(r->errors) == 0) {
        r->checked = 0;
        return go_on(bs, b);
    }
    return batch_end(bs, b, "failed",
        json_pack("{s:{s:s, s:O}}", "errors", "object", "list", "data", r->errors));
}
