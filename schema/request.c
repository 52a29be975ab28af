/* request.c - see request.h. One table says which fields each op takes; each field has a case that
 * reads it. */
#include "schema/request.h"

#include <stdio.h>
#include <string.h>

#include "schema/ids.h"

enum field {
    F_V,
    F_OP,
    F_ID,
    F_KEY,
    F_CHUNK,
    F_ROWS,
    F_SEAL,
    F_PRIORITY,
    F_META,
    F_JOB,
    F_AFTER,
    F_LIMIT,
    F_WAIT_MS,
    F_TIMEOUT_MS,
    F_ACCEPT_MODE,
    F_STATE,
    F_OLDER_THAN_S,
    F_FRESH,
    F_COUNT
};

static const char *const field_names[F_COUNT] = {"v", "op", "id", "key", "chunk", "rows", "seal",
    "priority", "meta", "job", "after", "limit", "wait_ms", "timeout_ms", "accept_mode", "state",
    "older_than_s", "fresh"};

#define BIT(field) (1u << (field))
#define COMMON (BIT(F_V) | BIT(F_OP) | BIT(F_ID))

/* The fields of each op besides v, op and id: those it takes, and those it needs. */
static const struct {
    const char *name;
    unsigned takes, needs;
} ops[OP_COUNT] = {
    [OP_HELLO] = {"hello", 0, 0},
    [OP_SUBMIT] = {"submit",
        BIT(F_KEY) | BIT(F_CHUNK) | BIT(F_ROWS) | BIT(F_SEAL) | BIT(F_PRIORITY) | BIT(F_META) |
            BIT(F_FRESH),
        BIT(F_KEY) | BIT(F_CHUNK)},
    [OP_STATUS] = {"status", BIT(F_JOB), BIT(F_JOB)},
    [OP_RESULTS] = {"results", BIT(F_JOB) | BIT(F_AFTER) | BIT(F_LIMIT) | BIT(F_WAIT_MS),
        BIT(F_JOB)},
    [OP_SCORE] = {"score",
        BIT(F_KEY) | BIT(F_ROWS) | BIT(F_TIMEOUT_MS) | BIT(F_PRIORITY) | BIT(F_FRESH), BIT(F_ROWS)},
    [OP_CANCEL] = {"cancel", BIT(F_JOB), BIT(F_JOB)},
    [OP_PAUSE] = {"pause", BIT(F_JOB), BIT(F_JOB)},
    [OP_RESUME] = {"resume", BIT(F_JOB) | BIT(F_ACCEPT_MODE), BIT(F_JOB)},
    [OP_RETRY] = {"retry", BIT(F_JOB), BIT(F_JOB)},
    [OP_JOBS] = {"jobs", BIT(F_AFTER) | BIT(F_LIMIT) | BIT(F_STATE), 0},
    [OP_INFO] = {"info", 0, 0},
    [OP_PURGE] = {"purge", BIT(F_JOB) | BIT(F_OLDER_THAN_S), 0},
};

const char *request_op_name(enum request_op op)
{
    return ops[op].name;
}

static int is_number_like(struct slice s)
{
    for (size_t i = 0; i < s.len; i++)
        if (s.at[i] < '0' || s.at[i] > '9')
            return 0;
    return 1;
}

static int read_job_key(struct msg_reader *r, const char *field, struct slice *key, struct err *e)
{
    int rc = msg_read_str(r, field, key, e);
    if (rc != 0)
        return rc;
    if (key->len < 1 || key->len > REQUEST_KEY_BYTES)
        return err_field(e, ASSAY_EBADREQ, field, "expected 1 to %d bytes, found %zu",
            REQUEST_KEY_BYTES, key->len);
    if (is_number_like(*key))
        return err_field(e, ASSAY_EBADREQ, field,
            "expected a key that is not all digits, found '%.*s'", (int)key->len,
            (const char *)key->at);
    if (memchr(key->at, '\0', key->len))
        return err_field(e, ASSAY_EBADREQ, field, "expected a key without NUL bytes");
    return 0;
}

/* Reads an integer or a short string as its bytes. */
static int read_id(struct msg_reader *r, const char *field, struct slice *id, struct err *e)
{
    const uint8_t *from = r->at;
    struct slice s = {0};
    int64_t number;
    enum msg_type type = msg_peek(r);
    if (type != MSG_INT && type != MSG_STR)
        return msg_unexpected(r, field, "an integer or a string", e);
    int rc = type == MSG_INT ? msg_read_int_saturated(r, field, &number, e)
                             : msg_read_str(r, field, &s, e);
    if (rc == 0 && s.len > REQUEST_ID_BYTES)
        rc = err_field(e, ASSAY_EBADREQ, field, "expected at most %d bytes, found %zu",
            REQUEST_ID_BYTES, s.len);
    if (rc == 0)
        *id = (struct slice){from, (size_t)(r->at - from)};
    return rc;
}

/* How much of a text found in a message an error shows. */
static int shown(struct slice s)
{
    return s.len < 40 ? (int)s.len : 40;
}

static int read_op(struct msg_reader *r, struct request *q, struct err *e)
{
    struct slice name;
    int rc = msg_read_str(r, "op", &name, e);
    if (rc != 0)
        return rc;
    for (int op = 0; op < OP_COUNT; op++)
        if (strlen(ops[op].name) == name.len && memcmp(ops[op].name, name.at, name.len) == 0) {
            q->op = (enum request_op)op;
            return 0;
        }
    return err_field(e, ASSAY_EBADREQ, "op",
        "expected one of hello submit status results score cancel pause resume retry jobs info "
        "purge, "
        "found '%.*s'",
        shown(name), (const char *)name.at);
}

static int read_state(struct msg_reader *r, struct slice *state, struct err *e)
{
    static const char *const names[] = {"open", "queued", "running", "paused", "done", "cancelled"};
    int rc = msg_read_str(r, "state", state, e);
    for (size_t i = 0; rc == 0 && i < sizeof names / sizeof names[0]; i++)
        if (strlen(names[i]) == state->len && memcmp(names[i], state->at, state->len) == 0)
            return 0;
    return rc != 0 ? rc
                   : err_field(e, ASSAY_EBADREQ, "state",
                         "expected open, queued, running, paused, done or cancelled, found '%.*s'",
                         shown(*state), (const char *)state->at);
}

static int read_u32(
    struct msg_reader *r, const char *field, int64_t min, int64_t max, uint32_t *out, struct err *e)
{
    int64_t v = 0;
    int rc = msg_read_int(r, field, min, max, &v, e);
    *out = (uint32_t)v;
    return rc;
}

static int read_version(struct msg_reader *r, struct err *e)
{
    int64_t v = 0;
    int rc = msg_read_int_saturated(r, "v", &v, e);
    if (rc == 0 && v != REQUEST_VERSION)
        rc = err_field(e, ASSAY_EUNSUPPORTED, "v", "expected version %d, found %lld",
            REQUEST_VERSION, (long long)v);
    return rc;
}

static int read_priority(struct msg_reader *r, struct request *q, struct err *e)
{
    int64_t v = 0;
    int rc = msg_read_int(r, "priority", -100, 100, &v, e);
    q->priority = (int)v;
    q->has_priority = 1;
    return rc;
}

static int read_job(struct msg_reader *r, struct request *q, struct err *e)
{
    enum msg_type type = msg_peek(r);
    if (type == MSG_INT)
        return msg_read_int(r, "job", 0, INT32_MAX, &q->job, e);
    if (type == MSG_STR)
        return read_job_key(r, "job", &q->job_key, e);
    return msg_unexpected(r, "job", "a number or a key", e);
}

/* What a request is decoded with. */
struct decoding {
    const struct request_limits *limits;
    request_row_visitor *visit; /* NULL: none */
    void *arg;
};

static int read_row(struct msg_reader *r, uint32_t index, const struct decoding *d, struct err *e)
{
    struct row_request row;
    int rc = request_next_row(r, index, &row, e);
    return rc == 0 && d->visit ? d->visit(d->arg, index, &row, e) : rc;
}

/* Reads the rows. No rows and an empty array are the same: absent. */
static int read_rows(
    struct msg_reader *r, struct request *q, const struct decoding *d, struct err *e)
{
    const uint8_t *from = r->at;
    uint32_t most = d->limits->max_rows_per_message;
    int rc = msg_read_array(r, "rows", &q->n_rows, e);
    if (rc == 0 && q->n_rows > most)
        return err_field(e, ASSAY_ETOOLARGE, "rows",
            "expected at most %u rows in a message, found %u", most, q->n_rows);
    for (uint32_t i = 0; rc == 0 && i < q->n_rows; i++)
        rc = read_row(r, i, d, e);
    if (rc == 0 && q->n_rows > 0)
        q->rows = (struct slice){from, (size_t)(r->at - from)};
    return rc;
}

static int read_field(struct msg_reader *r, struct request *q, enum field field,
    const struct decoding *d, struct err *e)
{
    switch (field) {
    case F_V:
        return read_version(r, e);
    case F_OP:
        return read_op(r, q, e);
    case F_ID:
        return read_id(r, "id", &q->id, e);
    case F_KEY:
        return read_job_key(r, "key", &q->key, e);
    case F_CHUNK:
        return read_u32(r, "chunk", 0, INT32_MAX, &q->chunk, e);
    case F_ROWS:
        return read_rows(r, q, d, e);
    case F_SEAL:
        return msg_read_bool(r, "seal", &q->seal, e);
    case F_PRIORITY:
        return read_priority(r, q, e);
    case F_META:
        return msg_read_raw(r, "meta", MSG_MAX_DEPTH - 1, &q->meta, e);
    case F_JOB:
        return read_job(r, q, e);
    case F_AFTER:
        return msg_read_uint64(r, "after", &q->after, e);
    case F_LIMIT:
        return read_u32(r, "limit", 1, REQUEST_LIMIT_MAX, &q->limit, e);
    case F_WAIT_MS:
        return read_u32(r, "wait_ms", 0, REQUEST_WAIT_MS_MAX, &q->wait_ms, e);
    case F_TIMEOUT_MS:
        return read_u32(r, "timeout_ms", 1, REQUEST_TIMEOUT_MS_MAX, &q->timeout_ms, e);
    case F_ACCEPT_MODE:
        return msg_read_bool(r, "accept_mode", &q->accept_mode, e);
    case F_FRESH:
        return msg_read_bool(r, "fresh", &q->fresh, e);
    case F_OLDER_THAN_S:
        return msg_read_int(r, "older_than_s", 0, INT32_MAX, &q->older_than_s, e);
    default:
        return read_state(r, &q->state, e);
    }
}

static int check_fields(const struct request *q, uint64_t seen, struct err *e)
{
    if (!(seen & BIT(F_OP)))
        return err_field(e, ASSAY_EBADREQ, "op", "expected an op, found none");
    if (!(seen & BIT(F_V)))
        return err_field(e, ASSAY_EBADREQ, "v", "expected version %d, found none", REQUEST_VERSION);
    for (int f = 0; f < F_COUNT; f++) {
        if ((seen >> f & 1) && !((COMMON | ops[q->op].takes) >> f & 1))
            return err_field(
                e, ASSAY_EBADREQ, field_names[f], "unknown field of %s", ops[q->op].name);
        if ((ops[q->op].needs >> f & 1) && !(seen >> f & 1))
            return err_field(e, ASSAY_EBADREQ, field_names[f], "%s needs this field, found none",
                ops[q->op].name);
    }
    if (q->op == OP_SUBMIT && q->n_rows == 0 && !q->seal)
        return err_field(e, ASSAY_EBADREQ, "rows", "expected rows, or seal: true, found neither");
    if (q->op == OP_SCORE && q->n_rows == 0)
        return err_field(e, ASSAY_EBADREQ, "rows", "expected at least one row, found none");
    return 0;
}

/* The id of a refused request may follow the field at fault: finds it, so that the reply can carry
 * it. */
static void find_id(struct request *q, const uint8_t *bytes, size_t len)
{
    struct msg_reader r;
    struct slice key, skipped;
    uint32_t n = 0;
    msg_reader_init(&r, bytes, len);
    int rc = msg_read_map(&r, "", &n, NULL);
    for (uint32_t i = 0; rc == 0 && i < n && !q->id.at; i++) {
        rc = msg_read_str(&r, "", &key, NULL);
        if (rc == 0 && key.len == 2 && memcmp(key.at, "id", 2) == 0)
            rc = read_id(&r, "id", &q->id, NULL);
        else if (rc == 0)
            rc = msg_read_raw(&r, "", MSG_MAX_DEPTH, &skipped, NULL);
    }
}

static int decode(struct request *q, struct slice bytes, const struct decoding *d, struct err *e)
{
    struct msg_reader r;
    uint32_t n = 0;
    uint64_t seen = 0;
    msg_reader_init(&r, bytes.at, bytes.len);
    if (msg_peek(&r) != MSG_MAP)
        return err_set(e, ASSAY_EBADMSG, "expected a map, found %s", msg_type_name(msg_peek(&r)));
    int rc = msg_read_map(&r, "", &n, e);
    for (uint32_t i = 0; rc == 0 && i < n; i++) {
        int field = msg_read_key(&r, "", field_names, F_COUNT, &seen, e);
        rc = field < 0 ? field : read_field(&r, q, (enum field)field, d, e);
    }
    if (rc == 0)
        rc = msg_read_end(&r, e);
    return rc == 0 ? check_fields(q, seen, e) : rc;
}

int request_decode_rows(struct request *q, struct slice bytes, const struct request_limits *limits,
    request_row_visitor *visit, void *arg, struct err *e)
{
    struct decoding d = {limits, visit, arg};
    *q = (struct request){.job = -1, .older_than_s = -1};
    int rc = bytes.len > limits->max_message_bytes
                 ? err_set(e, ASSAY_ETOOLARGE, "expected at most %llu bytes, found %zu",
                       (unsigned long long)limits->max_message_bytes, bytes.len)
                 : decode(q, bytes, &d, e);
    if (rc != 0 && !q->id.at)
        find_id(q, bytes.at, bytes.len);
    return rc;
}

int request_decode(struct request *q, const uint8_t *bytes, size_t len,
    const struct request_limits *limits, struct err *e)
{
    return request_decode_rows(q, (struct slice){bytes, len}, limits, NULL, NULL, e);
}

/* ---- rows ---- */

enum row_field {
    R_ID,
    R_IDS,
    R_POOL,
    R_ADAPTER,
    R_TRUNCATE,
    R_PAD_RULE,
    R_SAFE_TEXT,
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
    R_SYSTEM,
    R_TOOLS,
    R_ERROR,
    R_COUNT
};

static const char *const row_fields[R_COUNT] = {"id", "ids", "pool", "adapter", "truncate",
    "hf_pad_rule", "safe_text", "add_special_tokens", "text", "messages", "prompt", "problem",
    "question", "response", "completion", "responses", "chosen", "rejected", "steps", "system",
    "tools", "error"};

#define PROMPTS (BIT(R_PROMPT) | BIT(R_PROBLEM) | BIT(R_QUESTION))
#define SHAPES                                                                                     \
    (BIT(R_IDS) | BIT(R_TEXT) | BIT(R_MESSAGES) | PROMPTS | BIT(R_RESPONSE) | BIT(R_COMPLETION) |  \
        BIT(R_RESPONSES) | BIT(R_CHOSEN) | BIT(R_REJECTED) | BIT(R_STEPS) | BIT(R_ERROR))

/* The shapes of a row: the fields that make each, which one of `prompts` goes with them, if any,
 * and whether that one is optional. */
static const struct {
    unsigned fields, prompts;
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

static int in_row(uint32_t index, int rc, struct err *e)
{
    char field[ERR_FIELD_BYTES + sizeof "rows[4294967295]."];
    if (!e)
        return rc;
    struct err inner = *e;
    snprintf(field, sizeof field, "rows[%u]%s%s", index, inner.field[0] ? "." : "", inner.field);
    return err_field(e, rc, field, "%s", inner.msg);
}

static int read_row_id(struct msg_reader *r, struct slice *id, struct err *e)
{
    struct msg_reader number = *r;
    int64_t v;
    int rc = read_id(r, "id", id, e);
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
            shown(name), (const char *)name.at);
    return 0;
}

static int read_positions(struct msg_reader *r, struct row_request *row, struct err *e)
{
    const uint8_t *from = r->at;
    int64_t v;
    int rc = msg_read_array(r, "pool.positions", &row->n_positions, e);
    if (rc == 0 && row->n_positions == 0)
        rc = err_field(e, ASSAY_EBADREQ, "pool.positions", "expected a position, found none");
    if (rc != 0)
        return rc;
    for (uint32_t i = 0; i < row->n_positions; i++)
        if ((rc = msg_read_int(r, "pool.positions", 0, INT32_MAX, &v, e)) != 0)
            return in_element("pool.positions", i, rc, e);
    row->positions = (struct slice){from, (size_t)(r->at - from)};
    return 0;
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
                "none, softmax, sigmoid or class1", &row->pool.activation, e);
        else if (key == 2)
            rc = read_step_token(r, row, e);
        else
            rc = read_positions(r, row, e);
    }
    return rc == 0 ? check_pool(row, e) : rc;
}

/* ---- texts of a row ---- */

int request_is_messages(struct slice s)
{
    struct msg_reader r;
    msg_reader_init(&r, s.at, s.len);
    return msg_peek(&r) == MSG_ARRAY;
}

/* Skips any value of any depth. *something: it is not nil, false or empty. */
static int skip_value(struct msg_reader *r, const char *field, int *something, struct err *e)
{
    struct slice raw;
    uint32_t n;
    int rc = 0;
    enum msg_type first = msg_peek(r);
    const uint8_t *from = r->at;
    for (uint64_t pending = 1; rc == 0 && pending > 0; pending--) {
        enum msg_type type = msg_peek(r);
        n = 0;
        if (type == MSG_ARRAY)
            rc = msg_read_array(r, field, &n, e);
        else if (type == MSG_MAP)
            rc = msg_read_map(r, field, &n, e);
        else
            rc = msg_read_raw(r, field, 1, &raw, e);
        pending += type == MSG_MAP ? 2 * (uint64_t)n : n;
    }
    int is_empty = r->at == from + 1 && (*from & 0x0f) == 0; /* "", [] or {}, in the short form */
    *something =
        first == MSG_BOOL ? *from == 0xc3 : first != MSG_NIL && !(first != MSG_INT && is_empty);
    return rc;
}

/* nil counts as absent: data sets have it in columns that a message does not use. */
static int read_reasoning(struct msg_reader *r, struct slice *reasoning, struct err *e)
{
    struct slice raw;
    if (msg_peek(r) == MSG_NIL)
        return msg_read_raw(r, "reasoning_content", 1, &raw, e);
    return msg_read_text(r, "reasoning_content", reasoning, e);
}

int request_read_message(struct msg_reader *r, struct row_message *message, struct err *e)
{
    static const char *const names[] = {"role", "content", "reasoning_content", "tool_calls"};
    uint64_t seen = 0;
    uint32_t n = 0;
    *message = (struct row_message){0};
    int rc = msg_read_map(r, "", &n, e);
    for (uint32_t i = 0; rc == 0 && i < n; i++) {
        int key = msg_read_key(r, "", names, 4, &seen, e);
        rc = key < 0    ? key
             : key == 0 ? msg_read_text(r, "role", &message->role, e)
             : key == 1 ? msg_read_text(r, "content", &message->content, e)
             : key == 2 ? read_reasoning(r, &message->reasoning, e)
                        : skip_value(r, "tool_calls", &message->has_tool_calls, e);
    }
    for (int i = 0; rc == 0 && i < 2; i++)
        if (!(seen >> i & 1))
            rc = err_field(e, ASSAY_EBADREQ, names[i], "expected a string, found nothing");
    return rc;
}

/* "messages[2].role" */
static int in_message(const char *field, uint32_t i, int rc, struct err *e)
{
    char inner[ERR_FIELD_BYTES];
    if (!e)
        return rc;
    memcpy(inner, e->field, sizeof inner);
    snprintf(e->field, sizeof e->field, "%s[%u]%s%.*s", field, i, inner[0] ? "." : "", 40, inner);
    return rc;
}

static int check_messages(struct msg_reader *r, const char *field, struct err *e)
{
    struct row_message message;
    uint32_t n = 0;
    int rc = msg_read_array(r, field, &n, e);
    for (uint32_t i = 0; rc == 0 && i < n; i++)
        if ((rc = request_read_message(r, &message, e)) != 0)
            return in_message(field, i, rc, e);
    return rc;
}

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

/* Reads a text, an array of texts, or messages, whichever the field takes, as its bytes. */
static int read_body(struct msg_reader *r, enum row_field field, struct slice *body, struct err *e)
{
    const char *name = row_fields[field];
    const uint8_t *from = r->at;
    int may_be_text = field != R_MESSAGES && field != R_RESPONSES && field != R_STEPS;
    int may_be_messages = field == R_MESSAGES || (may_be_text && field != R_TEXT);
    enum msg_type type = msg_peek(r);
    struct slice text;
    int rc;
    if (may_be_text && type == MSG_STR)
        rc = msg_read_text(r, name, &text, e);
    else if (may_be_messages && type == MSG_ARRAY)
        rc = check_messages(r, name, e);
    else if (!may_be_text && type == MSG_ARRAY)
        rc = check_texts(r, name, e);
    else
        rc = msg_unexpected(r, name,
            !may_be_text      ? "an array"
            : may_be_messages ? "a string or an array of messages"
                              : "a string",
            e);
    *body = (struct slice){from, (size_t)(r->at - from)};
    return rc;
}

static int read_system(struct msg_reader *r, struct slice *system, struct err *e)
{
    const uint8_t *from = r->at;
    struct slice text;
    int rc = msg_read_text(r, "system", &text, e);
    *system = (struct slice){from, (size_t)(r->at - from)};
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
            "expected bad_request, bad_token or too_large, found '%.*s'", shown(name),
            (const char *)name.at);
    return rc;
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
        return msg_read_str(r, "adapter", &row->adapter, e);
    case R_TRUNCATE:
        return msg_read_bool(r, "truncate", &row->truncate, e);
    case R_PAD_RULE:
        return msg_read_bool(r, "hf_pad_rule", &row->hf_pad_rule, e);
    case R_SAFE_TEXT:
        return msg_read_bool(r, "safe_text", &row->safe_text, e);
    case R_SPECIAL_TOKENS:
        return msg_read_bool(r, "add_special_tokens", &row->add_special_tokens, e);
    case R_SYSTEM:
        return read_system(r, &row->system, e);
    case R_TOOLS:
        return skip_value(r, "tools", &row->has_tools, e);
    case R_ERROR:
        return read_error(r, row, e);
    case R_PROMPT:
    case R_PROBLEM:
    case R_QUESTION:
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
    for (int f = R_SYSTEM; f <= R_TOOLS; f++)
        if ((seen >> f & 1) &&
            (row->shape == ROW_IDS || row->shape == ROW_TEXT || row->shape == ROW_REFUSED))
            return err_field(e, ASSAY_EBADREQ, row_fields[f],
                "expected only with what the chat template writes, not with %s",
                row->shape == ROW_IDS    ? "ids"
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
    unsigned found = (unsigned)seen & SHAPES;
    for (size_t i = 0; i < sizeof row_shapes / sizeof row_shapes[0]; i++) {
        unsigned prompts = found & row_shapes[i].prompts;
        int one_prompt = prompts != 0 && (prompts & (prompts - 1)) == 0;
        if ((found & ~prompts) != row_shapes[i].fields)
            continue;
        if (row_shapes[i].prompts == 0 || one_prompt ||
            (prompts == 0 && row_shapes[i].prompt_optional)) {
            row->shape = row_shapes[i].shape;
            return check_combination(row, seen, e);
        }
    }
    return err_field(e, ASSAY_EBADREQ, "",
        "expected ids; text; messages; prompt (or problem, question) and response, completion, "
        "responses or steps; or chosen and rejected; found %s",
        found == 0 ? "none of them" : "another mixture of these fields");
}

int request_next_row(struct msg_reader *r, uint32_t index, struct row_request *row, struct err *e)
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
    return rc == 0 ? 0 : in_row(index, rc, e);
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
    if (shape != ROW_RESPONSES)
        return shape != ROW_PAIR ? "" : part ? "rejected: " : "chosen: ";
    snprintf(text, size, "responses[%u]: ", part);
    return text;
}
