/* request_rows.c - decodes the rows of a request: their fields, texts and shapes. One table says
 * which fields make which shape. */
#include <stdio.h>
#include <string.h>

#include "schema/ids.h"
#include "schema/request.h"
#include "schema/request_private.h"

enum row_field {
    R_ID,
    R_IDS,
    R_POOL,
    R_ADAPTER,
    R_MODEL,
    R_MODELS,
    R_TRUNCATE,
    R_MAX_LENGTH,
    R_SIDE,
    R_KEEP_LAST,
    R_PAD_RULE,
    R_SAFE_TEXT,
    R_JOIN_CONTENT,
    R_SPECIAL_TOKENS,
    R_TEXT,
    R_MESSAGES,
    R_PROMPT,
    R_PROBLEM,
    R_QUESTION,
    R_RESPONSE,
    R_COMPLETION,
    R_RESPONSES,
    R_CHOSEN,
    R_REJECTED,
    R_STEPS,
    R_QUERY,
    R_DOCUMENT,
    R_DOCUMENTS,
    R_INSTRUCTION,
    R_SYSTEM,
    R_TOOLS,
    R_GENERATION_PROMPT,
    R_ARGUMENTS,
    R_ERROR,
    R_COUNT
};

static const char *const row_fields[R_COUNT] = {"id", "ids", "pool", "adapter", "model", "models",
    "truncate", "max_length", "truncation_side", "keep_last_token", "hf_pad_rule", "safe_text",
    "join_content", "add_special_tokens", "text", "messages", "prompt", "problem", "question",
    "response", "completion", "responses", "chosen", "rejected", "steps", "query", "document",
    "documents", "instruction", "system", "tools", "add_generation_prompt", "chat_template_kwargs",
    "error"};
_Static_assert(R_COUNT <= 64, "a set of fields is 64 bits");

#define PROMPTS (BIT(R_PROMPT) | BIT(R_PROBLEM) | BIT(R_QUESTION))
#define SHAPES                                                                                     \
    (BIT(R_IDS) | BIT(R_TEXT) | BIT(R_MESSAGES) | PROMPTS | BIT(R_RESPONSE) | BIT(R_COMPLETION) |  \
        BIT(R_RESPONSES) | BIT(R_CHOSEN) | BIT(R_REJECTED) | BIT(R_STEPS) | BIT(R_ERROR) |         \
        BIT(R_QUERY) | BIT(R_DOCUMENT) | BIT(R_DOCUMENTS))

/* The shapes of a row: the fields that make each, which one of `prompts` goes with them, if any,
 * and whether that one is optional. */
static const struct {
    uint64_t fields, prompts;
    enum row_shape shape;
    int prompt_optional;
} row_shapes[] = {
    {BIT(R_IDS), 0, ROW_IDS, 0},
    {BIT(R_TEXT), 0, ROW_TEXT, 0},
    {BIT(R_MESSAGES), PROMPTS, ROW_MESSAGES, 1},
    {BIT(R_RESPONSE), PROMPTS, ROW_RESPONSE, 0},
    {BIT(R_COMPLETION), PROMPTS, ROW_RESPONSE, 0},
    {BIT(R_RESPONSES), PROMPTS, ROW_RESPONSES, 0},
    {BIT(R_CHOSEN) | BIT(R_REJECTED), PROMPTS, ROW_PAIR, 1},
    {BIT(R_STEPS), PROMPTS, ROW_STEPS, 0},
    {BIT(R_DOCUMENT), BIT(R_QUERY), ROW_RESPONSE, 0},
    {BIT(R_DOCUMENTS), BIT(R_QUERY), ROW_DOCUMENTS, 0},
    {BIT(R_ERROR), 0, ROW_REFUSED, 0},
};

/* A row's fields are read under their own names, which costs nothing. Only an error puts the place
 * in front: "[17]" for an element of an array, "rows[3]." for a row. */
static int in_element(const char *field, uint32_t i, int rc, struct err *e)
{
    if (e)
        snprintf(e->field, sizeof e->field, "%s[%u]", field, i);
    return rc;
}

static int read_row_id(struct msg_reader *r, struct slice *id, struct err *e)
{
    struct msg_reader number = *r;
    int64_t v;
    int rc = request_read_id(r, "id", id, e);
    if (rc == 0 && msg_peek(&number) == MSG_INT)
        rc = msg_read_int(&number, "id", INT64_MIN, INT64_MAX, &v, e);
    return rc;
}

static int read_id_array(struct msg_reader *r, struct row_request *row, struct err *e)
{
    const uint8_t *from = r->at;
    int64_t v;
    int rc = msg_read_array(r, "ids", &row->n_ids, e);
    if (rc != 0)
        return rc;
    for (uint32_t i = 0; i < row->n_ids; i++)
        if ((rc = msg_read_int_saturated(r, "ids", &v, e)) != 0)
            return in_element("ids", i, rc, e);
    row->ids = (struct slice){from, (size_t)(r->at - from)};
    return 0;
}

static int read_ids(struct msg_reader *r, struct row_request *row, struct err *e)
{
    enum msg_type type = msg_peek(r);
    if (type == MSG_ARRAY)
        return read_id_array(r, row, e);
    if (type != MSG_BIN)
        return msg_unexpected(r, "ids", "bin of little-endian int32, or an array of integers", e);
    int rc = msg_read_bin(r, "ids", &row->ids, e);
    if (rc == 0 && row->ids.len % 4 != 0)
        rc = err_field(
            e, ASSAY_EBADREQ, "ids", "expected a multiple of 4 bytes, found %zu", row->ids.len);
    row->ids_is_bin = 1;
    row->n_ids = (uint32_t)(row->ids.len / 4); /* a bin has less than 2^32 bytes */
    return rc;
}

static int read_name(struct msg_reader *r, const char *field,
    int (*from_name)(const char *, unsigned long), const char *expected, int *out, struct err *e)
{
    struct slice name;
    int rc = msg_read_str(r, field, &name, e);
    if (rc != 0)
        return rc;
    *out = from_name((const char *)name.at, name.len);
    if (*out < 0)
        return err_field(e, ASSAY_EBADREQ, field, "expected %s, found '%.*s'", expected,
            request_shown(name), (const char *)name.at);
    return 0;
}

static int check_positions(struct msg_reader *r, uint32_t *n, struct err *e)
{
    int64_t v;
    int rc = msg_read_array(r, "pool.positions", n, e);
    for (uint32_t i = 0; rc == 0 && i < *n; i++)
        if ((rc = msg_read_int(r, "pool.positions", 0, INT32_MAX, &v, e)) != 0)
            return in_element("pool.positions", i, rc, e);
    return rc;
}

static int read_positions(struct msg_reader *r, struct row_request *row, struct err *e)
{
    const uint8_t *from = r->at;
    int rc = check_positions(r, &row->n_positions, e);
    if (rc == 0 && row->n_positions == 0)
        rc = err_field(e, ASSAY_EBADREQ, "pool.positions", "expected a position, found none");
    if (rc == 0)
        row->positions = (struct slice){from, (size_t)(r->at - from)};
    return rc;
}

static int read_step_token(struct msg_reader *r, struct row_request *row, struct err *e)
{
    int64_t token = POOL_NO_STEP_TOKEN;
    int rc = msg_read_int(r, "pool.step_token", 0, INT32_MAX, &token, e);
    row->pool.step_token = (int32_t)token;
    return rc;
}

static int check_pool(const struct row_request *row, struct err *e)
{
    if (row->pool.type == POOL_POSITIONS && !row->positions.at)
        return err_field(
            e, ASSAY_EBADREQ, "pool.positions", "type POSITIONS needs this field, found none");
    if (row->pool.type != POOL_POSITIONS && row->positions.at)
        return err_field(e, ASSAY_EBADREQ, "pool.positions", "expected only with type POSITIONS");
    return 0;
}

static int read_pool(struct msg_reader *r, struct row_request *row, struct err *e)
{
    static const char *const names[] = {"type", "activation", "step_token", "positions"};
    uint64_t seen = 0;
    uint32_t n = 0;
    int rc = msg_read_map(r, "pool", &n, e);
    for (uint32_t i = 0; rc == 0 && i < n; i++) {
        int key = msg_read_key(r, "pool", names, 4, &seen, e);
        if (key < 0)
            rc = key;
        else if (key == 0)
            rc = read_name(r, "pool.type", pool_type_from_name,
                "LAST, ALL, STEP, MEAN, CLS or POSITIONS", &row->pool.type, e);
        else if (key == 1)
            rc = read_name(r, "pool.activation", activation_from_name,
                "none, softmax, sigmoid, class1 or config", &row->pool.activation, e);
        else if (key == 2)
            rc = read_step_token(r, row, e);
        else
            rc = read_positions(r, row, e);
    }
    return rc == 0 ? check_pool(row, e) : rc;
}

/* ---- texts of a row ---- */

static int check_texts(struct msg_reader *r, const char *field, struct err *e)
{
    struct slice text;
    uint32_t n = 0;
    int rc = msg_read_array(r, field, &n, e);
    for (uint32_t i = 0; rc == 0 && i < n; i++)
        if ((rc = msg_read_text(r, field, &text, e)) != 0)
            return in_element(field, i, rc, e);
    return rc;
}

/* Answers to a prompt: texts, or messages each. */
static int check_answers(struct msg_reader *r, const char *field, struct err *e)
{
    char element[48];
    struct slice text;
    uint32_t n = 0;
    int rc = msg_read_array(r, field, &n, e);
    for (uint32_t i = 0; rc == 0 && i < n; i++) {
        snprintf(element, sizeof element, "%s[%u]", field, i);
        if (msg_peek(r) == MSG_ARRAY)
            rc = request_check_messages(r, element, e);
        else if (msg_peek(r) == MSG_STR)
            rc = msg_read_text(r, element, &text, e);
        else
            rc = msg_unexpected(r, element, "a string or an array of messages", e);
    }
    return rc;
}

/* Reads a text, an array of texts, or messages, whichever the field takes, as its bytes. */
static int read_body(struct msg_reader *r, enum row_field field, struct slice *body, struct err *e)
{
    const char *name = row_fields[field];
    const uint8_t *from = r->at;
    int may_be_text =
        field != R_MESSAGES && field != R_RESPONSES && field != R_STEPS && field != R_DOCUMENTS;
    int may_be_messages = field == R_MESSAGES || (may_be_text && field != R_TEXT &&
                                                     field != R_QUERY && field != R_DOCUMENT);
    enum msg_type type = msg_peek(r);
    struct slice text;
    int rc;
    if (may_be_text && type == MSG_STR)
        rc = msg_read_text(r, name, &text, e);
    else if (may_be_messages && type == MSG_ARRAY)
        rc = request_check_messages(r, name, e);
    else if (!may_be_text && type == MSG_ARRAY)
        rc = field == R_RESPONSES ? check_answers(r, name, e) : check_texts(r, name, e);
    else
        rc = msg_unexpected(r, name,
            !may_be_text      ? "an array"
            : may_be_messages ? "a string or an array of messages"
                              : "a string",
            e);
    *body = (struct slice){from, (size_t)(r->at - from)};
    return rc;
}

static int read_tools(struct msg_reader *r, struct row_request *row, struct err *e)
{
    const uint8_t *from = r->at;
    int rc = request_skip_value(r, "tools", &row->has_tools, e);
    row->tools = (struct slice){from, (size_t)(r->at - from)};
    return rc;
}

static int read_arguments(struct msg_reader *r, struct row_request *row, struct err *e)
{
    const uint8_t *from = r->at;
    int something;
    if (msg_peek(r) != MSG_MAP)
        return msg_unexpected(r, "chat_template_kwargs", "a map", e);
    int rc = request_skip_value(r, "chat_template_kwargs", &something, e);
    row->arguments = (struct slice){from, (size_t)(r->at - from)};
    return rc;
}

static int read_one_text(struct msg_reader *r, const char *field, struct slice *raw, struct err *e)
{
    const uint8_t *from = r->at;
    struct slice text;
    int rc = msg_read_text(r, field, &text, e);
    *raw = (struct slice){from, (size_t)(r->at - from)};
    return rc;
}

/* Reads the error that a client sends in place of a row it could not read. */
static int read_error(struct msg_reader *r, struct row_request *row, struct err *e)
{
    static const char *const names[] = {"code", "message"};
    static const int codes[] = {ASSAY_EBADREQ, ASSAY_EBADTOKEN, ASSAY_ETOOLARGE};
    struct slice name = {0};
    uint64_t seen = 0;
    uint32_t n = 0;
    int rc = msg_read_map(r, "error", &n, e);
    for (uint32_t i = 0; rc == 0 && i < n; i++) {
        int key = msg_read_key(r, "error", names, 2, &seen, e);
        rc = key < 0    ? key
             : key == 0 ? msg_read_str(r, "error.code", &name, e)
                        : msg_read_str(r, "error.message", &row->error_message, e);
    }
    for (int i = 0; i < 3; i++)
        if (strlen(err_name(codes[i])) == name.len &&
            memcmp(err_name(codes[i]), name.at, name.len) == 0)
            row->error_code = codes[i];
    if (rc == 0 && seen != 3)
        rc = err_field(e, ASSAY_EBADREQ, "error", "expected a code and a message");
    if (rc == 0 && row->error_code == 0)
        rc = err_field(e, ASSAY_EBADREQ, "error.code",
            "expected bad_request, bad_token or too_large, found '%.*s'", request_shown(name),
            (const char *)name.at);
    return rc;
}

/* null is the base model, as if the field were absent. */
static int read_adapter(struct msg_reader *r, struct row_request *row, struct err *e)
{
    struct slice nothing;
    return msg_peek(r) == MSG_NIL ? msg_read_raw(r, "adapter", 1, &nothing, e)
                                  : msg_read_str(r, "adapter", &row->adapter, e);
}

static int read_row_field(
    struct msg_reader *r, enum row_field field, struct row_request *row, struct err *e)
{
    switch (field) {
    case R_ID:
        return read_row_id(r, &row->id, e);
    case R_IDS:
        return read_ids(r, row, e);
    case R_POOL:
        return read_pool(r, row, e);
    case R_ADAPTER:
        return read_adapter(r, row, e);
    case R_MODEL:
        return request_read_model(r, &row->models, e);
    case R_MODELS:
        return request_read_models(r, &row->models, e);
    case R_TRUNCATE:
        row->says_truncate = 1;
        return request_read_truncation_field(r, T_TRUNCATE, &row->truncation, e);
    case R_MAX_LENGTH:
        return request_read_truncation_field(r, T_MAX_LENGTH, &row->truncation, e);
    case R_SIDE:
        return request_read_truncation_field(r, T_SIDE, &row->truncation, e);
    case R_KEEP_LAST:
        return request_read_truncation_field(r, T_KEEP_LAST, &row->truncation, e);
    case R_PAD_RULE:
        return msg_read_bool(r, "hf_pad_rule", &row->hf_pad_rule, e);
    case R_SAFE_TEXT:
        return msg_read_bool(r, "safe_text", &row->safe_text, e);
    case R_JOIN_CONTENT:
        return msg_read_bool(r, "join_content", &row->join_content, e);
    case R_SPECIAL_TOKENS:
        return msg_read_bool(r, "add_special_tokens", &row->add_special_tokens, e);
    case R_SYSTEM:
        return read_one_text(r, "system", &row->system, e);
    case R_INSTRUCTION:
        return read_one_text(r, "instruction", &row->instruction, e);
    case R_TOOLS:
        return read_tools(r, row, e);
    case R_GENERATION_PROMPT:
        return msg_read_bool(r, "add_generation_prompt", &row->add_generation_prompt, e);
    case R_ARGUMENTS:
        return read_arguments(r, row, e);
    case R_ERROR:
        return read_error(r, row, e);
    case R_PROMPT:
    case R_PROBLEM:
    case R_QUESTION:
    case R_QUERY:
        row->prompt_field = row_fields[field];
        return read_body(r, field, &row->prompt, e);
    default:
        row->body_field[field == R_REJECTED] = row_fields[field];
        return read_body(r, field, &row->body[field == R_REJECTED], e);
    }
}

/* Are the texts tokenized as they are, so that the tokenizer puts its own tokens around them? */
static int is_plain(const struct row_request *row)
{
    return row->shape == ROW_TEXT ||
           (row->shape == ROW_PAIR && !row->prompt.at && !request_is_messages(row->body[0]) &&
               !request_is_messages(row->body[1]));
}

/* Refuses fields for a chat template where there is none, and the one for texts where there are
 * none as they are. */
static int check_combination(const struct row_request *row, uint64_t seen, struct err *e)
{
    if (row->instruction.at && !row->is_query)
        return err_field(
            e, ASSAY_EBADREQ, "instruction", "expected only with query, found without");
    for (int f = R_SYSTEM; f <= R_ARGUMENTS; f++)
        if ((seen >> f & 1) && (row->is_query || row->shape == ROW_IDS || row->shape == ROW_TEXT ||
                                   row->shape == ROW_REFUSED))
            return err_field(e, ASSAY_EBADREQ, row_fields[f],
                "expected only with what the chat template writes, not with %s",
                row->is_query            ? "query"
                : row->shape == ROW_IDS  ? "ids"
                : row->shape == ROW_TEXT ? "text"
                                         : "error");
    if ((seen >> R_SPECIAL_TOKENS & 1) && !is_plain(row))
        return err_field(e, ASSAY_EBADREQ, row_fields[R_SPECIAL_TOKENS],
            "expected only with text, or with texts chosen and rejected without a prompt; the "
            "tokenizer puts nothing around what is scored here");
    return 0;
}

/* Finds the shape that the fields make. */
static int find_shape(struct row_request *row, uint64_t seen, struct err *e)
{
    uint64_t found = seen & SHAPES;
    for (size_t i = 0; i < sizeof row_shapes / sizeof row_shapes[0]; i++) {
        uint64_t prompts = found & row_shapes[i].prompts;
        int one_prompt = prompts != 0 && (prompts & (prompts - 1)) == 0;
        if ((found & ~prompts) != row_shapes[i].fields)
            continue;
        if (row_shapes[i].prompts == 0 || one_prompt ||
            (prompts == 0 && row_shapes[i].prompt_optional)) {
            row->shape = row_shapes[i].shape;
            row->is_query = (found & BIT(R_QUERY)) != 0;
            return check_combination(row, seen, e);
        }
    }
    return err_field(e, ASSAY_EBADREQ, "",
        "expected ids; text; messages; prompt (or problem, question) and response, completion, "
        "responses or steps; chosen and rejected; or query and document or documents; found %s",
        found == 0 ? "none of them" : "another mixture of these fields");
}

static int read_row(struct msg_reader *r, struct row_request *row, struct err *e)
{
    uint64_t seen = 0;
    uint32_t n = 0;
    *row = (struct row_request){.pool.step_token = POOL_NO_STEP_TOKEN,
        .hf_pad_rule = REQUEST_PAD_RULE_UNSAID,
        .add_special_tokens = 1};
    int rc = msg_read_map(r, "", &n, e);
    for (uint32_t i = 0; rc == 0 && i < n; i++) {
        int field = msg_read_key(r, "", row_fields, R_COUNT, &seen, e);
        rc = field < 0 ? field : read_row_field(r, (enum row_field)field, row, e);
    }
    if (rc == 0)
        rc = find_shape(row, seen, e);
    if (rc == 0)
        rc = request_check_truncation(&row->truncation, e);
    if (rc == 0 && row->models.is_list && row->adapter.at)
        rc = err_field(e, ASSAY_EBADREQ, "adapter",
            "expected none beside models, found one: MODEL/ADAPTER is a name there");
    return rc;
}

int request_read_row(
    struct msg_reader *r, const char *where, struct row_request *row, struct err *e)
{
    int rc = read_row(r, row, e);
    return rc == 0 ? 0 : err_within(e, rc, where);
}

/* The positions that a pool gets; there is no other field in it. */
static int check_more_positions(struct msg_reader *r, struct err *e)
{
    struct slice key;
    uint32_t n = 0, n_positions;
    int rc = msg_read_map(r, "pool", &n, e);
    for (uint32_t i = 0; rc == 0 && i < n; i++) {
        rc = msg_read_str(r, "pool", &key, e);
        if (rc == 0)
            rc = check_positions(r, &n_positions, e);
    }
    return rc;
}

int request_check_more(struct slice more, struct err *e)
{
    struct msg_reader r;
    struct row_request part = {.n_ids = 0};
    uint64_t seen = 0;
    uint32_t n = 0;
    msg_reader_init(&r, more.at, more.len);
    int rc = msg_read_map(&r, "", &n, e);
    for (uint32_t i = 0; rc == 0 && i < n; i++) {
        int field = msg_read_key(&r, "", row_fields, R_COUNT, &seen, e);
        rc = field < 0         ? field
             : field == R_POOL ? check_more_positions(&r, e)
                               : read_row_field(&r, (enum row_field)field, &part, e);
    }
    return rc;
}

int request_next_row(struct msg_reader *r, uint32_t index, struct row_request *row, struct err *e)
{
    char where[sizeof "rows[4294967295]"];
    int rc = read_row(r, row, e);
    if (rc == 0)
        return 0;
    snprintf(where, sizeof where, "rows[%u]", index);
    return err_within(e, rc, where);
}

/* An integer outside int32 becomes INT32_MIN, which no vocabulary holds. */
static void copy_ints(struct slice raw, int32_t *out)
{
    struct msg_reader r;
    uint32_t n = 0;
    int64_t v = 0;
    msg_reader_init(&r, raw.at, raw.len);
    if (msg_read_array(&r, "", &n, NULL) != 0)
        return;
    for (uint32_t i = 0; i < n && msg_read_int_saturated(&r, "", &v, NULL) == 0; i++)
        out[i] = v < INT32_MIN || v > INT32_MAX ? INT32_MIN : (int32_t)v;
}

void row_request_ids(const struct row_request *row, int32_t *out)
{
    if (!row->ids_is_bin) {
        copy_ints(row->ids, out);
        return;
    }
    ids_from_wire(row->ids.at, row->n_ids, out);
}

void row_request_positions(const struct row_request *row, int32_t *out)
{
    if (row->positions.at)
        copy_ints(row->positions, out);
}

const char *row_shape_part(int shape, uint32_t part, char *text, size_t size)
{
    if (!row_shape_is_choice(shape))
        return shape != ROW_PAIR ? "" : part ? "rejected: " : "chosen: ";
    snprintf(text, size, "%s[%u]: ", shape == ROW_DOCUMENTS ? "documents" : "responses", part);
    return text;
}

int row_shape_is_choice(int shape)
{
    return shape == ROW_RESPONSES || shape == ROW_DOCUMENTS;
}
