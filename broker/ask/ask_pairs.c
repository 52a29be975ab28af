/* ask_pairs.c - a query and documents, which the broker's recipe writes as its publisher has them:
 * /score and /rerank (ask.h). */
#include "broker/ask/ask.h"

#include <stdio.h>
#include <string.h>

#include "broker/ask/fields.h"

static const struct field pair_fields[] = {
    {"instruction", FIELD_TAKEN},
    {"max_tokens_per_query", FIELD_OFF},
    {"max_tokens_per_doc", FIELD_OFF},
    {"max_chunks_per_doc", FIELD_OFF},
    {"chat_template_kwargs", FIELD_TAKEN},
    {"chat_template", FIELD_OFF},
    {"padding", FIELD_OFF},
    {"encoding_format", FIELD_IGNORED},
    {NULL, FIELD_OFF},
};

static const struct field score_fields[] = {
    {"queries", FIELD_TAKEN},
    {"documents", FIELD_TAKEN},
    {"items", FIELD_TAKEN},
    {"text_1", FIELD_TAKEN},
    {"text_2", FIELD_TAKEN},
    {"data_1", FIELD_TAKEN},
    {"data_2", FIELD_TAKEN},
    {"label_token_ids", FIELD_OFF},
    {"apply_softmax", FIELD_OFF},
    {"item_first", FIELD_OFF},
    {NULL, FIELD_OFF},
};

static const struct field rerank_fields[] = {
    {"query", FIELD_TAKEN},
    {"documents", FIELD_TAKEN},
    {"top_n", FIELD_TAKEN},
    {"return_documents", FIELD_TAKEN},
    {"instruct", FIELD_TAKEN},
    {"rank_fields", FIELD_OFF},
    {NULL, FIELD_OFF},
};

/* `name` may say the instruction, once. */
static int take_one(const json_t *in, const char *name, const char **instruction, struct err *e)
{
    const char *text = NULL;
    int rc = field_text(in, name, &text, e);
    if (rc > 0 && *instruction && strcmp(*instruction, text) != 0)
        return err_field(
            e, ASSAY_EBADREQ, name, "`%s`: another instruction is given beside it", name);
    if (rc > 0)
        *instruction = text;
    return rc < 0 ? rc : 0;
}

/* vLLM has it in chat_template_kwargs too, and SGLang as `instruct`. */
static int take_instruction(const json_t *body, struct row_options *o, struct err *e)
{
    const json_t *arguments = json_object_get(body, "chat_template_kwargs");
    const char *text = NULL;
    int rc = take_one(body, "instruction", &text, e);
    if (rc == 0)
        rc = take_one(body, "instruct", &text, e);
    if (rc == 0)
        rc = take_one(arguments, "instruction", &text, e);
    if (rc == 0 && !field_is_off(arguments) &&
        json_object_size(arguments) > (json_object_get(arguments, "instruction") != NULL))
        return err_field(e, ASSAY_EBADREQ, "chat_template_kwargs",
            "`chat_template_kwargs`: expected nothing but an instruction beside a query");
    if (rc == 0 && text)
        msg_str(row_options_add(o, "instruction"), text);
    return rc;
}

/* What all rows have. */
static int begin(struct ask *ask, const json_t *body, const struct field *own,
    struct row_options *o, struct err *e)
{
    const struct field *const lists[] = {fields_common, fields_truncation, pair_fields, own, NULL};
    int rc = ask_begin_scores(ask, body, lists, o, e);
    return rc == 0 ? take_instruction(body, o, e) : rc;
}

/* A text, or Jina's object with one. Returns NULL with *e. */
static const json_t *text_of(const json_t *v, const char *name, size_t k, struct err *e)
{
    const json_t *text = json_object_get(v, "text");
    char where[64];
    if (json_is_string(v))
        return v;
    if (json_is_string(text) && json_object_size(v) == 1)
        return text;
    snprintf(where, sizeof where, "%s[%zu]", name, k);
    err_field(e, ASSAY_EBADREQ, where, "`%s`: expected a text, found something else", where);
    return NULL;
}

static const json_t *item(const json_t *side, size_t k)
{
    if (!json_is_array(side))
        return side;
    return json_array_get(side, json_array_size(side) == 1 ? 0 : k);
}

static size_t count(const json_t *side)
{
    return json_is_array(side) ? json_array_size(side) : 1;
}

struct side {
    const char *name;
    const json_t *value;
};

/* One query to each document, or as many queries as documents. */
static int add_pairs(struct ask *ask, const struct row_options *o, struct side queries,
    struct side documents, struct err *e)
{
    size_t n = count(documents.value), n_queries = count(queries.value);
    if (n_queries != 1 && n_queries != n)
        return err_field(e, ASSAY_EBADREQ, queries.name,
            "`%s`: expected one, or as many as `%s` (%zu), found %zu", queries.name, documents.name,
            n, n_queries);
    for (size_t k = 0; k < n; k++) {
        const json_t *query = text_of(item(queries.value, k), queries.name, k, e);
        const json_t *document =
            query ? text_of(item(documents.value, k), documents.name, k, e) : NULL;
        if (!document)
            return e->code;
        int rc = rows_add_pair(&ask->rows, o, "query", query, "document", document, e);
        if (rc != 0)
            return rc;
    }
    return 0;
}

/* vLLM's names for the two sides, in its order. */
static int find_sides(
    const json_t *body, struct side *queries, struct side *documents, struct err *e)
{
    static const char *const names[][2] = {
        {"queries", "documents"}, {"queries", "items"}, {"data_1", "data_2"}, {"text_1", "text_2"}};
    int n_found = 0, n_given = 0;
    for (int i = 0; i < 4; i++) {
        const json_t *first = json_object_get(body, names[i][0]);
        const json_t *second = json_object_get(body, names[i][1]);
        n_given += (!field_is_absent(first) && i != 1) + !field_is_absent(second);
        if (field_is_absent(first) || field_is_absent(second))
            continue;
        *queries = (struct side){names[i][0], first};
        *documents = (struct side){names[i][1], second};
        n_found++;
    }
    if (n_found == 1 && n_given == 2)
        return 0;
    return err_set(e, ASSAY_EBADREQ,
        "expected one pair of `queries` and `documents`, `queries` and `items`, `text_1` and "
        "`text_2`, or `data_1` and `data_2`, found %s",
        n_given == 0 ? "none" : "others");
}

int ask_score(struct ask *ask, const json_t *body, struct err *e)
{
    struct side queries = {0}, documents = {0};
    struct row_options o;
    row_options_init(&o);
    int rc = begin(ask, body, score_fields, &o, e);
    if (rc == 0)
        rc = find_sides(body, &queries, &documents, e);
    if (rc == 0)
        rc = add_pairs(ask, &o, queries, documents, e);
    row_options_release(&o);
    return rc == 0 ? ask_end(ask, e) : rc;
}

int ask_rerank(struct ask *ask, const json_t *body, struct err *e)
{
    struct side query = {"query", json_object_get(body, "query")};
    struct side documents = {"documents", json_object_get(body, "documents")};
    json_int_t top_n = 0;
    int gives_back = 1;
    struct row_options o;
    row_options_init(&o);
    int rc = begin(ask, body, rerank_fields, &o, e);
    if (rc == 0)
        rc = field_int(body, "top_n", 0, INT32_MAX, &top_n, e);
    if (rc >= 0)
        rc = field_flag(body, "return_documents", &gives_back, e);
    if (rc >= 0)
        rc = json_is_array(query.value)
                 ? err_field(e, ASSAY_EBADREQ, "query", "`query`: expected one text, found a list")
                 : add_pairs(ask, &o, query, documents, e);
    row_options_release(&o);
    ask->top_n = (size_t)top_n;
    if (rc == 0 && gives_back)
        ask->documents = json_incref((json_t *)documents.value);
    return rc == 0 ? ask_end(ask, e) : rc;
}
