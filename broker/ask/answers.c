/* answers.c - see answers.h. */
#include "broker/ask/answers.h"

#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "schema/alloc.h"
#include "schema/msg_json.h"

/* Takes the body over. */
static int finish(json_t **out, json_t *body, struct err *e)
{
    *out = body;
    return body ? 0 : err_set(e, ASSAY_EINTERNAL, "the reply cannot be made as JSON");
}

char *answer_text(const json_t *body)
{
    return json_dumps(body, JSON_COMPACT | JSON_ENCODE_ANY | JSON_REAL_PRECISION(9));
}

static json_t *score_json(float score)
{
    return json_real(msg_shortest(score));
}

static json_t *list_of(const float *values, size_t n)
{
    json_t *list = json_array();
    for (size_t k = 0; k < n; k++)
        json_array_append_new(list, score_json(values[k]));
    return list;
}

static json_t *base64_of(const float *values, size_t n)
{
    size_t bytes = n * sizeof *values;
    size_t room = sodium_base64_encoded_len(bytes, sodium_base64_VARIANT_ORIGINAL);
    char *text = xcalloc(room, 1);
    sodium_bin2base64(
        text, room, (const unsigned char *)values, bytes, sodium_base64_VARIANT_ORIGINAL);
    json_t *value = json_string(text);
    free(text);
    return value;
}

static json_int_t count_tokens(const struct ask *ask, const struct row_result *rows)
{
    json_int_t n = 0;
    for (uint32_t i = 0; i < ask->rows.n; i++)
        n += rows[i].n_tokens;
    return n;
}

static json_t *usage(const struct ask *ask, const struct row_result *rows)
{
    json_int_t n = count_tokens(ask, rows);
    return json_pack("{s:I, s:I, s:i, s:n, s:n}", "prompt_tokens", n, "total_tokens", n,
        "completion_tokens", 0, "prompt_tokens_details", "completion_tokens_details");
}

/* An ensemble's reply names its models, as the broker does. */
static json_t *with_models(const struct ask *ask, json_t *body)
{
    json_t *names = ask->n_all > 0 ? json_array() : NULL;
    for (int k = 0; k < ask->n_all; k++) {
        char *name = card_choice_name(&ask->all[k]);
        json_array_append_new(names, json_string(name));
        free(name);
    }
    if (names)
        json_object_set_new(body, "models", names);
    return body;
}

/* Beside an ensemble's score, which is a mean: each model's, and their standard deviation. */
static json_t *with_each(const struct row_result *row, json_t *item)
{
    if (!row->each)
        return item;
    json_object_set_new(item, "scores", list_of(row->each, row->n_each));
    json_object_set_new(item, "std", row->has_std ? score_json(row->std) : json_null());
    return item;
}

/* What vLLM's lists have around their data, which is taken over. */
static json_t *list_reply(const struct ask *ask, const struct row_result *rows, json_t *data)
{
    return with_models(ask,
        json_pack("{s:s, s:s, s:I, s:s, s:o, s:o}", "id", ask->id, "object", "list", "created",
            (json_int_t)time(NULL), "model", ask->model, "data", data, "usage", usage(ask, rows)));
}

static int need_number(const struct ask *ask, const struct row_result *rows, struct err *e)
{
    for (uint32_t i = 0; i < ask->rows.n; i++)
        if (rows[i].n != 1 || rows[i].width != 1 || rows[i].is_steps)
            return err_set(e, ASSAY_EBADREQ,
                "this endpoint gives one number a text, and the model gives %u: use /classify",
                rows[i].n * rows[i].width);
    return 0;
}

static uint32_t highest(const float *values, uint32_t n)
{
    uint32_t best = 0;
    for (uint32_t k = 1; k < n; k++)
        if (values[k] > values[best])
            best = k;
    return best;
}

/* Where the checkpoint names no labels, they have the names that transformers gives them. */
static json_t *class_of(const struct ask *ask, const struct row_result *row, uint32_t i)
{
    uint32_t best = highest(row->values, row->width);
    const char *label = row->each ? NULL : card_label(ask->asks.model, best);
    char standard[24];
    snprintf(standard, sizeof standard, "LABEL_%u", best);
    return with_each(
        row, json_pack("{s:i, s:s, s:o, s:i}", "index", (int)i, "label", label ? label : standard,
                 "probs", list_of(row->values, row->width), "num_classes", (int)row->width));
}

static json_t *sglang_of(const struct ask *ask, const struct row_result *row, uint32_t i)
{
    char id[96];
    snprintf(id, sizeof id, "%s-%u", ask->id, i);
    return json_pack("{s:o, s:{s:s, s:I, s:n}}", "embedding", list_of(row->values, row->width),
        "meta_info", "id", id, "prompt_tokens", (json_int_t)row->n_tokens, "finish_reason");
}

int answer_classify(
    json_t **out, const struct ask *ask, const struct row_result *rows, struct err *e)
{
    json_t *data = json_array();
    for (uint32_t i = 0; i < ask->rows.n; i++)
        json_array_append_new(
            data, ask->is_sglang ? sglang_of(ask, &rows[i], i) : class_of(ask, &rows[i], i));
    if (!ask->is_sglang)
        return finish(out, list_reply(ask, rows, data), e);
    json_t *body = ask->is_single ? json_incref(json_array_get(data, 0)) : json_incref(data);
    json_decref(data);
    return finish(out, body, e);
}

static json_t *encode(const struct ask *ask, const struct row_result *row)
{
    size_t n = (size_t)row->n * row->width;
    return ask->is_base64 ? base64_of(row->values, n) : list_of(row->values, n);
}

int answer_embeddings(
    json_t **out, const struct ask *ask, const struct row_result *rows, struct err *e)
{
    json_t *data = json_array();
    for (uint32_t i = 0; i < ask->rows.n; i++)
        json_array_append_new(data, json_pack("{s:i, s:s, s:o}", "index", (int)i, "object",
                                        "embedding", "embedding", encode(ask, &rows[i])));
    return finish(out, list_reply(ask, rows, data), e);
}

/* One list a position, or of a score its labels' values alone. */
static json_t *positions_of(const struct ask *ask, const struct row_result *row)
{
    if (ask->is_base64 || !row->is_steps)
        return encode(ask, row);
    json_t *all = json_array();
    for (uint32_t k = 0; k < row->n; k++)
        json_array_append_new(all, list_of(row->values + (size_t)k * row->width, row->width));
    return all;
}

int answer_pooling(
    json_t **out, const struct ask *ask, const struct row_result *rows, struct err *e)
{
    json_t *data = json_array();
    for (uint32_t i = 0; i < ask->rows.n; i++)
        json_array_append_new(data, json_pack("{s:i, s:s, s:o}", "index", (int)i, "object",
                                        "pooling", "data", positions_of(ask, &rows[i])));
    return finish(out, list_reply(ask, rows, data), e);
}

int answer_score(json_t **out, const struct ask *ask, const struct row_result *rows, struct err *e)
{
    int rc = need_number(ask, rows, e);
    if (rc != 0)
        return rc;
    json_t *data = json_array();
    for (uint32_t i = 0; i < ask->rows.n; i++)
        json_array_append_new(
            data, with_each(&rows[i], json_pack("{s:i, s:s, s:o}", "index", (int)i, "object",
                                          "score", "score", score_json(rows[i].values[0]))));
    return finish(out, list_reply(ask, rows, data), e);
}

struct ranked {
    float score;
    uint32_t i;
};

/* Highest first; equal ones in the order of the documents. */
static int compare(const void *a, const void *b)
{
    const struct ranked *x = a, *y = b;
    if (x->score != y->score)
        return x->score < y->score ? 1 : -1;
    return (x->i > y->i) - (x->i < y->i);
}

static json_t *ranked_of(const struct ask *ask, struct ranked r, const struct row_result *row)
{
    json_t *result = with_each(
        row, json_pack("{s:i, s:o}", "index", (int)r.i, "relevance_score", score_json(r.score)));
    const json_t *document =
        json_is_array(ask->documents) ? json_array_get(ask->documents, r.i) : ask->documents;
    if (json_is_object(document))
        document = json_object_get(document, "text");
    if (document)
        json_object_set_new(
            result, "document", json_pack("{s:O, s:n}", "text", document, "multi_modal"));
    return result;
}

int answer_rerank(json_t **out, const struct ask *ask, const struct row_result *rows, struct err *e)
{
    uint32_t n = ask->rows.n;
    json_int_t tokens = count_tokens(ask, rows);
    int rc = need_number(ask, rows, e);
    if (rc != 0)
        return rc;
    struct ranked *all = xcalloc(n, sizeof *all);
    for (uint32_t i = 0; i < n; i++)
        all[i] = (struct ranked){rows[i].values[0], i};
    qsort(all, n, sizeof *all, compare);
    json_t *results = json_array();
    for (uint32_t i = 0; i < n && (ask->top_n == 0 || i < ask->top_n); i++)
        json_array_append_new(results, ranked_of(ask, all[i], &rows[all[i].i]));
    free(all);
    json_t *body = json_pack("{s:s, s:s, s:{s:I, s:I}, s:o}", "id", ask->id, "model", ask->model,
        "usage", "prompt_tokens", tokens, "total_tokens", tokens, "results", results);
    return finish(out, with_models(ask, body), e);
}

int answer_get_reward(
    json_t **out, const struct ask *ask, const struct row_result *rows, struct err *e)
{
    int rc = need_number(ask, rows, e);
    if (rc != 0)
        return rc;
    json_t *rewards = json_array();
    for (uint32_t i = 0; i < ask->rows.n; i++)
        json_array_append_new(rewards, score_json(rows[i].values[0]));
    json_t *body =
        json_pack("{s:O, s:o, s:{}}", "rewards", rewards, "scores", rewards, "extra_logs");
    return finish(out, body, e);
}

int answer_rm(json_t **out, const struct ask *ask, const struct row_result *rows, struct err *e)
{
    int rc = need_number(ask, rows, e);
    return rc == 0 ? finish(out, score_json(rows[0].values[0]), e) : rc;
}
