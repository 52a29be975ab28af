/* admit.c - checks a row's pooling, ids and positions in turn; the first fault becomes the row's
 * error (admit.h). */
#include "broker/api/admit.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "broker/api/truncation.h"
#include "schema/alloc.h"
#include "schema/ids.h"
#include "schema/utf8.h"

static void free_composers(struct admit *a)
{
    for (int k = 0; k < CATALOG_MOST; k++)
        composer_free(&a->composers[k]);
}

/* The composers of an earlier catalog may be of models that are gone. */
void admit_use(struct admit *a, const struct catalog *catalog, const struct catalog_pins *pins)
{
    if (catalog && a->composers_of != catalog->version) {
        free_composers(a);
        a->composers_of = catalog->version;
    }
    a->catalog = catalog;
    a->pins = pins;
}

void admit_leave(struct admit *a)
{
    if (!a->catalog)
        return;
    a->catalog = NULL;
    a->pins = NULL;
    a->composer = NULL;
    a->model = NULL;
}

void admit_release(struct admit *a)
{
    admit_leave(a);
    composer_free(&a->composer);
    free_composers(a);
    free(a->joined);
    free(a->joined_ends);
    free(a->joined_positions);
    free(a->ids);
    free(a->positions);
    free(a->ends);
    packed_writer_release(&a->packed);
    *a = (struct admit){0};
}

static void *make_room(void *buffer, uint32_t *room, uint32_t n)
{
    if (n <= *room)
        return buffer;
    free(buffer);
    *room = n;
    return xcalloc(n, sizeof(int32_t));
}

static void refuse(struct admit *a, struct store_row *out, int code, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

static void refuse(struct admit *a, struct store_row *out, int code, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    vsnprintf(a->message, sizeof a->message, fmt, args);
    va_end(args);
    utf8_make_printable(a->message);
    out->error_code = code;
    out->error_message = a->message;
}

/* ---- ids ---- */

/* Takes the row's sequences, end to end, as they were given. */
static void take_ids(struct admit *a, const struct row_request *q, struct store_row *out)
{
    struct err e = {0};
    struct composed *row = &a->composed;
    *row = (struct composed){.ends = &q->n_ids, .n = 1};
    if (q->shape != ROW_IDS && compose_row(a->composer, q, out->pool.step_token, row, &e) != 0) {
        refuse(a, out, e.code, "%s%s%s", e.field, e.field[0] ? ": " : "", e.msg);
        return;
    }
    uint32_t n = row->ends[row->n - 1];
    a->ids = make_room(a->ids, &a->ids_room, n);
    a->ends = make_room(a->ends, &a->ends_room, row->n);
    memcpy(a->ends, row->ends, row->n * sizeof *row->ends);
    if (q->shape == ROW_IDS)
        row_request_ids(q, a->ids);
    else if (n > 0)
        memcpy(a->ids, row->ids, n * sizeof *row->ids);
    if (q->shape == ROW_STEPS && row->n_positions > 0)
        out->pool.type = POOL_POSITIONS;
    out->n_parts = row->n;
    out->ids = a->ids;
    out->ends = a->ends;
    out->n_tokens = n;
}

/* Checks ids[i .. n). */
static void check_tokens(struct admit *a, struct store_row *out, const char *name,
    const int32_t *ids, uint32_t i, uint32_t n)
{
    uint32_t vocab_size = a->model->vocab_size;
    if (ids_are_below(ids + i, n - i, vocab_size))
        return;
    while (ids_are_below(&ids[i], 1, vocab_size))
        i++;
    if (ids[i] == INT32_MIN) /* row_request_ids */
        refuse(a, out, ASSAY_EBADTOKEN,
            "%stoken %u: expected an id from 0 to %u, found one beyond 32 bits", name, i,
            vocab_size - 1);
    else
        refuse(a, out, ASSAY_EBADTOKEN, "%stoken %u: expected an id from 0 to %u, found %d", name,
            i, vocab_size - 1, ids[i]);
}

/* Steps are answered in their order, so one may be cut away only with all behind it. */
static void check_steps_cut(
    struct admit *a, struct store_row *out, const int32_t *ids, uint32_t n, const struct kept *kept)
{
    uint32_t cut = 0, later = 0;
    for (uint32_t i = kept->head; i < n - kept->tail; i++)
        cut += ids[i] == out->pool.step_token;
    for (uint32_t i = n - kept->tail; i < n; i++)
        later += ids[i] == out->pool.step_token;
    if (cut > 0 && later > 0)
        refuse(a, out, ASSAY_ETOOLONG,
            "steps: expected at most %u tokens, found %u, and no step is cut away in front of "
            "another: truncation_side right without keep_last_token cuts the last ones",
            kept->head + kept->tail, n);
}

/* Checks the tokens that stay of a sequence, n at `ids`. */
static void check_kept(struct admit *a, struct store_row *out, const char *name, const int32_t *ids,
    uint32_t n, const struct kept *kept)
{
    check_tokens(a, out, name, ids, 0, kept->head);
    if (!out->error_code)
        check_tokens(a, out, name, ids, n - kept->tail, n);
    if (!out->error_code && out->shape == ROW_STEPS)
        check_steps_cut(a, out, ids, n, kept);
    out->is_cut |= kept->head + kept->tail < n;
    a->n_in_place = kept->head + kept->tail < n ? kept->head : n;
}

/* How the files have a text cut, in *own: the checkpoint's, or its adapter's where they leave less.
 * NULL: it is no text. */
static const struct side_truncation *own_truncation(
    const struct admit *a, const struct row_request *q, struct side_truncation *own)
{
    const struct side_truncation *base = composer_truncation(a->composer);
    const struct adapters *loaded = &a->model->adapters;
    if (q->shape == ROW_IDS || !base || !q->adapter.at || !q->truncation.truncate)
        return q->shape == ROW_IDS ? NULL : base;
    *own = *base;
    if (a->model->lock)
        pthread_mutex_lock(a->model->lock);
    uint32_t k = adapters_find(loaded, (const char *)q->adapter.at, q->adapter.len);
    uint32_t least = k == ADAPTERS_UNKNOWN ? 0 : loaded->at[k - 1].max_length;
    if (a->model->lock)
        pthread_mutex_unlock(a->model->lock);
    own->max_length = least > 0 && least < own->max_length ? least : own->max_length;
    return own;
}

/* Decides what stays of one sequence, which begins at `from`, and checks that. */
static struct kept check_part(struct admit *a, const struct row_request *q, struct store_row *out,
    uint32_t part, uint32_t from)
{
    char text[40];
    const char *name = row_shape_part(out->shape, part, text, sizeof text);
    struct err e = {0};
    struct kept kept = {0};
    int framed = a->composed.framed >> (part < 31 ? part : 31) & 1;
    struct side_truncation own;
    struct long_sequence s = {.n = a->ends[part] - from,
        .before = framed ? a->composed.before : 0,
        .behind = framed ? a->composed.behind : 0,
        .max_len = a->model->max_len,
        .own = own_truncation(a, q, &own)};
    if (s.n == 0)
        refuse(a, out, ASSAY_ENOTOKENS, "%sexpected at least one token, found none", name);
    else if (truncation_keep(q, &s, &kept, &e) != 0)
        refuse(a, out, e.code, "%s%s%s%s", name, e.field, e.field[0] ? ": " : "", e.msg);
    else
        check_kept(a, out, name, a->ids + from, s.n, &kept);
    return kept;
}

/* Checks each sequence and closes the gaps that truncation leaves. */
static void check_ids(struct admit *a, const struct row_request *q, struct store_row *out)
{
    uint32_t from = 0, to = 0;
    for (uint32_t part = 0; !out->error_code && part < out->n_parts; part++) {
        uint32_t end = a->ends[part];
        struct kept kept = check_part(a, q, out, part, from);
        if (kept.head > 0 && to != from)
            memmove(a->ids + to, a->ids + from, kept.head * sizeof *a->ids);
        if (kept.tail > 0)
            memmove(a->ids + to + kept.head, a->ids + end - kept.tail, kept.tail * sizeof *a->ids);
        from = end;
        a->ends[part] = to += kept.head + kept.tail;
    }
    out->n_tokens = out->error_code ? from : to;
}

/* ---- pooling ---- */

/* The token of a sequence that the model's pad rule pools (enum pad_rule). */
static uint32_t pooled_token(const struct model_info *m, const int32_t *ids, uint32_t n)
{
    uint32_t last = n - 1, first = 0;
    while (last > 0 && ids[last] == m->pad_token)
        last--;
    if (!m->pad_first)
        return last;
    while (first < n && ids[first] != m->pad_token)
        first++;
    return first == 0 ? n - 1 : first - 1;
}

/* Applies Hugging Face's rule for LAST: the last token that is not the pad token, in each sequence
 * (the first token when all are pad tokens). Where that is each sequence's last token, the row is
 * stored as without the rule: rows that are scored alike are stored alike. */
static void apply_pad_rule(struct admit *a, struct store_row *out)
{
    int padded = 0;
    a->positions = make_room(a->positions, &a->positions_room, out->n_parts);
    for (uint32_t part = 0, from = 0; part < out->n_parts; from = out->ends[part++]) {
        uint32_t n = out->ends[part] - from, at = pooled_token(a->model, out->ids + from, n);
        padded |= at != n - 1;
        a->positions[part] = (int32_t)at;
    }
    if (!padded)
        return;
    out->positions = a->positions;
    out->n_positions = out->n_parts;
}

static void check_positions(struct admit *a, const struct row_request *q, struct store_row *out)
{
    if (out->shape == ROW_STEPS) {
        out->positions = a->composed.positions;
        out->n_positions = a->composed.n_positions;
        if (out->is_cut)
            refuse(a, out, ASSAY_ETOOLONG,
                "steps: expected %u tokens or fewer: rows are not cut whose steps end in something "
                "else than a token that stands nowhere else",
                out->n_tokens);
        return;
    }
    out->n_positions = q->n_positions;
    if (out->n_positions > out->n_tokens) {
        refuse(a, out, ASSAY_EPOSITION,
            "expected at most as many positions as tokens, %u, found %u", out->n_tokens,
            out->n_positions);
        return;
    }
    out->positions = a->positions = make_room(a->positions, &a->positions_room, out->n_positions);
    row_request_positions(q, a->positions);
    for (uint32_t i = 0; i < out->n_positions; i++)
        if (out->positions[i] < 0 || (uint32_t)out->positions[i] >= out->n_tokens) {
            refuse(a, out, ASSAY_EPOSITION, "positions[%u]: expected 0 to %u, found %d", i,
                out->n_tokens - 1, out->positions[i]);
            return;
        } else if ((uint32_t)out->positions[i] >= a->n_in_place) {
            refuse(a, out, ASSAY_EPOSITION,
                "positions[%u]: expected one of the first %u tokens, which the cut left in place, "
                "found %d",
                i, a->n_in_place, out->positions[i]);
            return;
        }
}

static uint32_t count_steps(struct admit *a, struct store_row *out)
{
    uint32_t n = 0;
    if (out->pool.step_token < 0) {
        refuse(a, out, ASSAY_ENOSTEP,
            "the checkpoint's tokenizer names no step token; expected pool.step_token");
        return 0;
    }
    for (uint32_t i = 0; i < out->n_tokens; i++)
        n += out->ids[i] == out->pool.step_token;
    if (n == 0)
        refuse(a, out, ASSAY_ENOSTEP, "expected the step token %d in the row, found none",
            out->pool.step_token);
    return n;
}

static int asks_pad_rule(const struct model_info *m, const struct row_request *q)
{
    return q->hf_pad_rule == REQUEST_PAD_RULE_UNSAID ? m->pad_rule : q->hf_pad_rule;
}

/* Returns how many positions are pooled, over all sequences; refuses the row when there is none. */
static uint32_t resolve_pool(struct admit *a, const struct row_request *q, struct store_row *out)
{
    switch (out->pool.type) {
    case POOL_ALL:
        return out->n_tokens;
    case POOL_POSITIONS:
        check_positions(a, q, out);
        return out->n_positions;
    case POOL_STEP:
        return count_steps(a, out);
    case POOL_LAST:
        if (asks_pad_rule(a->model, q) && a->model->pad_token >= 0)
            apply_pad_rule(a, out);
        return out->n_parts;
    default:
        return out->n_parts;
    }
}

/* Are its sequences compared by one number each? */
static int is_compared(int shape)
{
    return row_shape_is_choice(shape) || shape == ROW_PAIR;
}

static void check_values(struct admit *a, const struct row_request *q, struct store_row *out)
{
    uint64_t each = activation_values(out->pool.activation, a->model->n_labels);
    uint64_t values = resolve_pool(a, q, out) * each;
    int many = each > 1 || out->pool.type == POOL_ALL || out->pool.type == POOL_STEP;
    if (!out->error_code && many && is_compared(out->shape))
        refuse(a, out, ASSAY_EMANY,
            "responses, documents and pairs are compared by one number each; this pooling and head "
            "give "
            "more: send each as a row of its own, or name another pool");
    if (!out->error_code && values > ADMIT_MAX_VALUES)
        refuse(a, out, ASSAY_ETOOLONG, "expected a row of at most %u values, found %llu",
            ADMIT_MAX_VALUES, (unsigned long long)values);
    out->n_values = out->error_code ? 0 : (uint32_t)values;
}

/* Results for steps are read as probabilities, so raw values must be asked for by name. */
static void check_activation(struct admit *a, const struct row_request *q, struct store_row *out)
{
    const struct model_info *m = a->model;
    int asked = q->pool.activation;
    if (m->n_labels < 2 && (asked == ACTIVATION_SOFTMAX || asked == ACTIVATION_CLASS1))
        refuse(a, out, ASSAY_EBADREQ,
            "pool.activation: %s needs a head of 2 labels or more, %s has %u",
            activation_name(asked), m->architecture, m->n_labels);
    if (q->shape == ROW_STEPS && out->pool.activation == ACTIVATION_NONE &&
        asked == ACTIVATION_DEFAULT)
        refuse(a, out, ASSAY_EBADREQ,
            "pool.activation: %s has none for steps; expected sigmoid for probabilities%s, or none "
            "for the raw values",
            m->architecture, m->n_labels > 1 ? " (with several labels softmax or class1)" : "");
}

static void check_type(struct admit *a, const struct row_request *q, struct store_row *out)
{
    int type = q->pool.type;
    if (q->shape == ROW_STEPS && type != POOL_DEFAULT && type != POOL_STEP)
        refuse(a, out, ASSAY_EBADREQ, "pool.type: steps are pooled by STEP, found %s",
            pool_type_name(type));
    if (is_compared(q->shape) && type == POOL_POSITIONS)
        refuse(a, out, ASSAY_EBADREQ,
            "pool.type: POSITIONS cannot be meant for several sequences; expected one row for "
            "each");
}

/* A recipe says how rows are pooled. A row that says the same is taken. */
static void check_recipe_pool(
    struct admit *a, const struct recipe *r, const struct row_request *q, struct store_row *out)
{
    const struct pooling *own = &a->model->pool, *asked = &q->pool;
    if (own->type == POOL_POSITIONS && asked->type == POOL_DEFAULT && !compose_is_written(q))
        refuse(a, out, ASSAY_EBADREQ,
            "pool.type: expected POSITIONS and the positions, found none: the recipe %s finds them "
            "in rows of steps alone",
            r->name);
    if (asked->type != POOL_DEFAULT && asked->type != own->type)
        refuse(a, out, ASSAY_EBADREQ, "pool.type: the recipe %s scores by %s, found %s", r->name,
            pool_type_name(own->type), pool_type_name(asked->type));
    if (asked->activation != ACTIVATION_DEFAULT && asked->activation != own->activation)
        refuse(a, out, ASSAY_EBADREQ, "pool.activation: the recipe %s has %s, found %s", r->name,
            activation_name(own->activation), activation_name(asked->activation));
    if (asked->step_token >= 0 && asked->step_token != own->step_token)
        refuse(a, out, ASSAY_EBADREQ, "pool.step_token: the recipe %s has %d, found %d", r->name,
            own->step_token, asked->step_token);
}

/* A recipe says which rows it is for, and how they are scored. r: the row's; NULL: none. */
static void check_recipe(
    struct admit *a, const struct recipe *r, const struct row_request *q, struct store_row *out)
{
    const struct model_info *m = a->model;
    struct err e = {0};
    if (compose_check_kind(r, q, &e) != 0)
        refuse(a, out, e.code, "%s: %s", e.field, e.msg);
    if (!r)
        return;
    check_recipe_pool(a, r, q, out);
    if (q->hf_pad_rule != REQUEST_PAD_RULE_UNSAID && q->hf_pad_rule != m->pad_rule)
        refuse(a, out, ASSAY_EBADREQ, "hf_pad_rule: the recipe %s has %s, found %s", r->name,
            m->pad_rule ? "true" : "false", q->hf_pad_rule ? "true" : "false");
}

/* Finds the adapter that the row names. */
static void take_adapter(struct admit *a, const struct row_request *q, struct store_row *out)
{
    const struct adapters *loaded = &a->model->adapters;
    const char *name = (const char *)q->adapter.at;
    int shown = (int)(q->adapter.len < 80 ? q->adapter.len : 80);
    if (a->model->lock)
        pthread_mutex_lock(a->model->lock);
    if (adapters_find(loaded, name, q->adapter.len) != ADAPTERS_UNKNOWN)
        out->adapter = q->adapter;
    else if (loaded->n == 0)
        refuse(a, out, ASSAY_EADAPTER, "no adapter is loaded, found '%.*s'", shown, name);
    else
        refuse(a, out, ASSAY_EADAPTER,
            "adapter: expected one of the %u that are loaded, as '%s', found '%.*s'", loaded->n,
            loaded->at[0].name, shown, name);
    if (a->model->lock)
        pthread_mutex_unlock(a->model->lock);
}

/* What is asked, and for the rest what is the model's or the recipe's (NULL: none). */
static struct pooling pooling_of(
    const struct model_info *m, const struct recipe *r, const struct row_request *q)
{
    struct pooling own = m->pool;
    own.step_token = compose_step_token(r, m->architecture, own.step_token);
    own = pooling_resolve(q->pool, own);
    if (q->shape == ROW_STEPS)
        own.type = m->pool.type == POOL_POSITIONS ? POOL_POSITIONS : POOL_STEP;
    return own;
}

void admit_row(struct admit *a, const struct row_request *q, struct store_row *out)
{
    const struct recipe *r = compose_recipe_of(a->model->recipe, a->model->architecture, q);
    struct row_request resolved = *q;
    int by_config = q->pool.activation == ACTIVATION_CONFIG;
    if (by_config)
        resolved.pool.activation = a->model->config_activation;
    q = &resolved;
    *out = (struct store_row){.client_id = q->id,
        .shape = q->shape,
        .truncates = q->truncation.truncate &&
                     q->truncation.max_length == 0, /* depends on the broker's limit */
        .pool = pooling_of(a->model, r, q)};
    check_activation(a, q, out);
    check_type(a, q, out);
    check_recipe(a, r, q, out);
    if (by_config && q->pool.activation == ACTIVATION_DEFAULT)
        refuse(a, out, ASSAY_EBADREQ, "pool.activation: %s", a->model->no_config_activation);
    if (q->shape == ROW_REFUSED) {
        out->shape = ROW_IDS;
        refuse(a, out, q->error_code, "%.*s", (int)q->error_message.len,
            (const char *)q->error_message.at);
    }
    if (!out->error_code)
        take_ids(a, q, out);
    if (!out->error_code)
        check_ids(a, q, out);
    if (!out->error_code && q->adapter.at)
        take_adapter(a, q, out);
    if (!out->error_code)
        check_values(a, q, out);
    if (out->error_code)
        out->n_positions = 0;
}
