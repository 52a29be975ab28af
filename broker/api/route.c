/* route.c - one model's rows are judged as ever; an ensemble's are judged once for each of its
 * models, and their sequences are put end to end (route.h). */
#include "broker/api/route.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "schema/alloc.h"
#include "schema/utf8.h"

#define SHOWN 80
#define MOST_TOKENS                                                                                \
    (1u << 26) /* of all sequences of an ensemble's row: the database keeps one record */

_Static_assert(REQUEST_MODELS_MOST == STORE_MEMBERS, "a row's models are the members of its route");
_Static_assert(CATALOG_MOST == STORE_MODELS, "all that are served are in the catalog");

int route_base(const struct admit *a, const struct request_models *of_message, uint32_t given,
    uint32_t *id, struct err *e)
{
    const struct catalog_model *m = NULL;
    *id = 0;
    if (!a->catalog)
        return of_message->n == 0
                   ? 0
                   : err_field(e, ASSAY_EMODEL, "model", "expected none: the broker has no list");
    if (of_message->n > 0 && !of_message->is_list) {
        int rc = catalog_find(a->catalog, a->pins, "model", of_message->of[0], &m, e);
        if (rc != 0)
            return rc;
    }
    *id = m ? m->id : given != CATALOG_NONE ? given : catalog_first(a->catalog)->id;
    return catalog_of_id(a->catalog, *id)
               ? 0
               : err_set(e, ASSAY_ESTATE, "the model of the job is not served any more");
}

/* "MODEL" or "MODEL/ADAPTER" */
static struct slice split(struct slice name, struct slice *adapter)
{
    const uint8_t *slash = memchr(name.at, '/', name.len);
    struct slice model = {name.at, slash ? (size_t)(slash - name.at) : name.len};
    *adapter = (struct slice){0};
    if (slash)
        *adapter = (struct slice){slash + 1, name.len - model.len - 1};
    return model;
}

/* Has a model of that name the adapter? One that is not current counts, too: the message's job may
 * have begun with it. */
static int has_adapter(const struct catalog *c, struct slice model, struct slice adapter)
{
    uint32_t found = ADAPTERS_UNKNOWN;
    for (uint32_t i = 0; found == ADAPTERS_UNKNOWN && i < c->n; i++) {
        const struct model_info *info = c->of[i].info;
        if (!slice_is(model, info->name))
            continue;
        if (info->lock)
            pthread_mutex_lock(info->lock);
        found = adapters_find(&info->adapters, (const char *)adapter.at, adapter.len);
        if (info->lock)
            pthread_mutex_unlock(info->lock);
    }
    return found != ADAPTERS_UNKNOWN;
}

static int check_name(const struct admit *a, struct slice name, const char *field, struct err *e)
{
    const struct catalog_model *m;
    struct slice adapter, model = split(name, &adapter);
    int rc = catalog_find(a->catalog, a->pins, field, model, &m, e);
    if (rc == 0 && adapter.at && !has_adapter(a->catalog, model, adapter))
        rc = err_field(e, ASSAY_EADAPTER, field,
            "expected an adapter that is loaded for %s, found '%.*s'", m->info->name,
            (int)(adapter.len < SHOWN ? adapter.len : SHOWN), (const char *)adapter.at);
    return rc;
}

int route_check_list(const struct admit *a, const struct request_models *of_message, struct err *e)
{
    int rc = 0;
    for (uint32_t i = 0; rc == 0 && a->catalog && of_message->is_list && i < of_message->n; i++) {
        char field[24];
        snprintf(field, sizeof field, "models[%u]", i);
        rc = check_name(a, of_message->of[i], field, e);
    }
    return rc;
}

/* Judges rows for this model from now on. */
static void use(struct admit *a, const struct catalog_model *m)
{
    size_t k = (size_t)(m - a->catalog->of);
    if (!a->composers[k])
        a->composers[k] = composer_new(m->text);
    a->composer = a->composers[k];
    a->model = m->info;
}

static void refuse(struct admit *a, const struct row_request *q, const struct err *e,
    const char *field, struct store_row *out)
{
    *out = (struct store_row){.client_id = q->id,
        .shape = q->shape == ROW_REFUSED ? ROW_IDS : q->shape,
        .pool = {POOL_LAST, ACTIVATION_NONE, POOL_NO_STEP_TOKEN},
        .error_code = e->code,
        .error_message = a->message};
    snprintf(a->message, sizeof a->message, "%s%s%.400s", field, field[0] ? ": " : "", e->msg);
    utf8_make_printable(a->message);
}

/* ---- one model ---- */

/* A row of another model than its job's, which is cut to that one's limit: the job knows the limit
 * of its own model only, and would go on under another one. */
static int check_cut(const struct row_request *q, struct err *e)
{
    if (!q->truncation.truncate || q->truncation.max_length > 0)
        return 0;
    return err_field(e, ASSAY_EBADREQ, "max_length",
        "expected it beside truncate in a row of another model than its job's");
}

static void route_to_one(struct admit *a, uint32_t base, const struct catalog_model *m,
    const struct row_request *q, struct store_row *out)
{
    struct err e = {0};
    if (m->id != base && check_cut(q, &e) != 0) {
        refuse(a, q, &e, e.field, out);
        return;
    }
    use(a, m);
    admit_row(a, q, out);
    out->models[0] = m->id;
    if (a->catalog->n_current == 1 || (m->id == base && !out->adapter.at))
        return;
    snprintf(a->route, sizeof a->route, "%s/%.*s", m->info->name, (int)out->adapter.len,
        out->adapter.at ? (const char *)out->adapter.at : "");
    out->adapter = slice_of(a->route);
}

/* ---- several ---- */

/* What is collected of an ensemble's row. */
struct joined {
    struct store_row row;
    const struct text_model *text; /* of the first model */
    uint32_t n_models;             /* so far */
    int has_positions;
};

/* Ids mean the same to both, if their tokenizers are known to be the same. */
static int check_ids(const struct joined *j, const struct catalog_model *m, struct err *e)
{
    char what[96] = "one of them has none";
    if (m->text == j->text)
        return 0;
    if (j->text->tokenizer && m->text->tokenizer &&
        !tokenizer_differs(j->text->tokenizer, m->text->tokenizer, what, sizeof what))
        return 0;
    return err_set(e, ASSAY_EBADREQ,
        "ids: expected text, as the tokenizers of these models differ (%s), and so the same ids "
        "may be other texts",
        what);
}

/* Are all of them scored in the same way? */
static int check_pool(const struct joined *j, const struct pooling *own, struct err *e)
{
    const struct pooling *first = &j->row.pool;
    if (own->type == POOL_STEP && first->step_token != own->step_token)
        return err_set(e, ASSAY_EBADREQ,
            "models: expected models with one step token, found %d and %d; score the row by each "
            "by itself",
            first->step_token, own->step_token);
    if (first->type != own->type || first->activation != own->activation)
        return err_set(e, ASSAY_EBADREQ,
            "models: expected a pool in the row, with type and activation, as the models would "
            "score it by %s %s and %s %s",
            pool_type_name(first->type), activation_name(first->activation),
            pool_type_name(own->type), activation_name(own->activation));
    return 0;
}

/* One number from each for each sequence, which can be compared. */
static int check_member(const struct joined *j, const struct store_row *one, struct err *e)
{
    int is_compared = row_shape_is_choice(one->shape) || one->shape == ROW_PAIR;
    if (one->shape == ROW_STEPS || one->n_values != one->n_parts ||
        (!is_compared && one->n_parts != 1))
        return err_set(e, ASSAY_EBADREQ,
            "models: expected a row with one score, or responses, documents or a pair with one for "
            "each, found one of %u values (steps go through one model each)",
            one->n_values);
    if ((uint64_t)j->row.n_tokens + one->n_tokens > MOST_TOKENS)
        return err_set(e, ASSAY_ETOOLONG, "models: expected at most %u tokens in all, found more",
            MOST_TOKENS);
    return j->n_models > 0 ? check_pool(j, &one->pool, e) : 0;
}

/* A larger array with the first n numbers of the old one, which is freed. */
static void *grow(void *old, uint32_t n, uint32_t room)
{
    int32_t *more = xcalloc(room, sizeof *more);
    if (n > 0)
        memcpy(more, old, n * sizeof *more);
    free(old);
    return more;
}

static void make_room(struct admit *a, const struct joined *j, const struct store_row *one)
{
    uint32_t n_tokens = j->row.n_tokens + one->n_tokens, n_parts = j->row.n_parts + one->n_parts;
    if (n_tokens > a->joined_room)
        a->joined = grow(a->joined, j->row.n_tokens, a->joined_room = 2 * n_tokens);
    if (n_parts <= a->joined_parts_room)
        return;
    a->joined_parts_room = 2 * n_parts;
    a->joined_ends = grow(a->joined_ends, j->row.n_parts, a->joined_parts_room);
    a->joined_positions = grow(a->joined_positions, j->row.n_parts, a->joined_parts_room);
}

/* Puts the sequences of one model behind those of the models before. */
static void join(struct admit *a, struct joined *j, const struct store_row *one)
{
    uint32_t begin = 0;
    if (j->n_models++ == 0) {
        j->row = *one;
        j->row.n_tokens = j->row.n_parts = 0;
    }
    make_room(a, j, one);
    memcpy(a->joined + j->row.n_tokens, one->ids, one->n_tokens * sizeof *one->ids);
    for (uint32_t part = 0; part < one->n_parts; part++) {
        uint32_t at = j->row.n_parts + part,
                 end = one->n_parts > 1 ? one->ends[part] : one->n_tokens;
        a->joined_ends[at] = j->row.n_tokens + end;
        a->joined_positions[at] =
            one->n_positions > 0 ? one->positions[part] : (int32_t)(end - begin) - 1;
        begin = end;
    }
    j->has_positions |= one->n_positions > 0;
    j->row.n_tokens += one->n_tokens;
    j->row.n_parts += one->n_parts;
    j->row.is_cut |= one->is_cut;
}

/* Finds "MODEL" or "MODEL/ADAPTER", and adds it to the route. */
static int take_member(struct admit *a, struct slice name, const struct catalog_model **m,
    struct slice *adapter, struct err *e)
{
    int rc = catalog_find(a->catalog, a->pins, "models", split(name, adapter), m, e);
    if (rc == 0) {
        size_t n = strlen(a->route);
        snprintf(a->route + n, sizeof a->route - n, "%s%s/%.*s", n > 0 ? "," : "", (*m)->info->name,
            (int)adapter->len, adapter->at ? (const char *)adapter->at : "");
    }
    return rc;
}

/* Judges the row for one of its models. */
static int judge(struct admit *a, struct joined *j, const struct row_request *q, struct slice name,
    struct err *e)
{
    const struct catalog_model *m;
    struct row_request own = *q;
    struct store_row one;
    uint32_t k = j->n_models;
    int rc = take_member(a, name, &m, &own.adapter, e);
    if (rc != 0)
        return rc;
    if (k == 0)
        j->text = m->text;
    if (q->shape == ROW_IDS && (rc = check_ids(j, m, e)) != 0)
        return rc;
    use(a, m);
    admit_row(a, &own, &one);
    if (one.error_code)
        return err_set(e, one.error_code, "%.*s: %.400s", (int)name.len, (const char *)name.at,
            one.error_message);
    if ((rc = check_member(j, &one, e)) != 0)
        return rc;
    join(a, j, &one);
    j->row.models[k] = m->id;
    return 0;
}

static void route_to_several(struct admit *a, const struct row_request *q, struct store_row *out)
{
    struct err e = {0};
    struct joined j = {0};
    a->route[0] = '\0';
    int rc = q->adapter.at ? err_set(&e, ASSAY_EBADREQ,
                                 "adapter: expected none beside the message's models, found one")
                           : check_cut(q, &e);
    for (uint32_t i = 0; rc == 0 && i < q->models.n; i++)
        rc = judge(a, &j, q, q->models.of[i], &e);
    if (rc != 0) {
        refuse(a, q, &e, e.field, out);
        return;
    }
    *out = j.row;
    out->ids = a->joined;
    out->n_values = out->n_parts;
    out->adapter = slice_of(a->route);
    out->ends = a->joined_ends;
    out->positions = a->joined_positions;
    out->n_positions = j.has_positions ? out->n_parts : 0; /* one for each sequence, or for none */
}

void route_row(struct admit *a, uint32_t base, const struct row_request *q, struct store_row *out)
{
    struct err e = {0};
    const struct catalog_model *m = NULL;
    if (!a->catalog) {
        admit_row(a, q, out);
        return;
    }
    if (q->models.is_list) {
        route_to_several(a, q, out);
        return;
    }
    if (q->models.n > 0 && q->shape != ROW_REFUSED &&
        catalog_find(a->catalog, a->pins, "model", q->models.of[0], &m, &e) != 0) {
        refuse(a, q, &e, e.field, out);
        return;
    }
    route_to_one(a, base, m ? m : catalog_of_id(a->catalog, base), q, out);
}
