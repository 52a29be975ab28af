/* request.c - decodes a request, all but its rows (request_rows.c). One table says which fields
 * each op takes; each field has a case that reads it. */
#include "schema/request.h"

#include <stdio.h>
#include <string.h>

#include "schema/request_private.h"

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
    F_TRUNCATE,
    F_MAX_LENGTH,
    F_SIDE,
    F_KEEP_LAST,
    F_NAME,
    F_DIR,
    F_SESSION,
    F_SESSIONS,
    F_ROW,
    F_MORE,
    F_N,
    F_MODEL,
    F_MODELS,
    F_EPHEMERAL,
    F_BEFORE,
    F_COUNT
};

static const char *const field_names[F_COUNT] = {"v", "op", "id", "key", "chunk", "rows", "seal",
    "priority", "meta", "job", "after", "limit", "wait_ms", "timeout_ms", "accept_mode", "state",
    "older_than_s", "fresh", "truncate", "max_length", "truncation_side", "keep_last_token", "name",
    "dir", "session", "sessions", "row", "more", "n", "model", "models", "ephemeral", "before"};
_Static_assert(F_COUNT <= 64, "a set of fields is 64 bits");

#define COMMON (BIT(F_V) | BIT(F_OP) | BIT(F_ID))
#define TRUNCATION (BIT(F_TRUNCATE) | BIT(F_MAX_LENGTH) | BIT(F_SIDE) | BIT(F_KEEP_LAST))

#define MODELS (BIT(F_MODEL) | BIT(F_MODELS))

/* The fields of each op besides v, op and id: those it takes, and those it needs. */
static const struct {
    const char *name;
    uint64_t takes, needs;
} ops[OP_COUNT] = {
    [OP_HELLO] = {"hello", 0, 0},
    [OP_SUBMIT] = {"submit",
        BIT(F_KEY) | BIT(F_CHUNK) | BIT(F_ROWS) | BIT(F_SEAL) | BIT(F_PRIORITY) | BIT(F_META) |
            BIT(F_FRESH) | TRUNCATION | MODELS,
        BIT(F_KEY) | BIT(F_CHUNK)},
    [OP_STATUS] = {"status", BIT(F_JOB), BIT(F_JOB)},
    [OP_RESULTS] = {"results", BIT(F_JOB) | BIT(F_AFTER) | BIT(F_LIMIT) | BIT(F_WAIT_MS),
        BIT(F_JOB)},
    [OP_SCORE] = {"score",
        BIT(F_KEY) | BIT(F_ROWS) | BIT(F_SESSIONS) | BIT(F_TIMEOUT_MS) | BIT(F_PRIORITY) |
            BIT(F_FRESH) | BIT(F_EPHEMERAL) | TRUNCATION | MODELS,
        0},
    [OP_CANCEL] = {"cancel", BIT(F_JOB), BIT(F_JOB)},
    [OP_PAUSE] = {"pause", BIT(F_JOB), BIT(F_JOB)},
    [OP_RESUME] = {"resume", BIT(F_JOB) | BIT(F_ACCEPT_MODE), BIT(F_JOB)},
    [OP_RETRY] = {"retry", BIT(F_JOB), BIT(F_JOB)},
    [OP_JOBS] = {"jobs", BIT(F_AFTER) | BIT(F_BEFORE) | BIT(F_LIMIT) | BIT(F_STATE), 0},
    [OP_INFO] = {"info", 0, 0},
    [OP_PURGE] = {"purge", BIT(F_JOB) | BIT(F_OLDER_THAN_S) | BIT(F_EPHEMERAL), 0},
    [OP_ADAPTERS] = {"adapters", 0, 0},
    [OP_ADAPTER_ADD] = {"adapter_add", BIT(F_NAME) | BIT(F_DIR) | BIT(F_MODEL),
        BIT(F_NAME) | BIT(F_DIR)},
    [OP_ADAPTER_REMOVE] = {"adapter_remove", BIT(F_NAME) | BIT(F_MODEL), BIT(F_NAME)},
    [OP_RELOAD] = {"reload", BIT(F_DIR) | BIT(F_MODEL), BIT(F_DIR)},
    [OP_RELOAD_CANCEL] = {"reload_cancel", 0, 0},
    [OP_OPEN] = {"open", BIT(F_ROW), BIT(F_ROW)},
    [OP_APPEND] = {"append", BIT(F_SESSIONS) | BIT(F_MORE), BIT(F_SESSIONS) | BIT(F_MORE)},
    [OP_FORK] = {"fork", BIT(F_SESSION) | BIT(F_N), BIT(F_SESSION) | BIT(F_N)},
    [OP_CLOSE] = {"close", BIT(F_SESSIONS), BIT(F_SESSIONS)},
    [OP_THROUGHPUT] = {"throughput", BIT(F_LIMIT), 0},
    [OP_FAILED] = {"failed", BIT(F_JOB) | BIT(F_AFTER) | BIT(F_LIMIT), BIT(F_JOB)},
    [OP_SAMPLE] = {"sample", BIT(F_JOB) | BIT(F_AFTER) | BIT(F_LIMIT), BIT(F_JOB)},
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

static int read_name(struct msg_reader *r, struct slice *name, struct err *e)
{
    int rc = msg_read_str(r, "name", name, e);
    if (rc == 0 && !adapters_is_name((const char *)name->at, name->len))
        rc = err_field(e, ASSAY_EBADREQ, "name",
            "expected 1 to %d letters, digits, '.', '_' and '-', found '%.*s'",
            ADAPTERS_NAME_BYTES - 1, request_shown(*name), (const char *)name->at);
    return rc;
}

static int read_dir(struct msg_reader *r, struct slice *dir, struct err *e)
{
    int rc = msg_read_str(r, "dir", dir, e);
    if (rc == 0 && (dir->len < 1 || dir->len > REQUEST_DIR_BYTES || dir->at[0] != '/' ||
                       memchr(dir->at, '\0', dir->len)))
        rc = err_field(e, ASSAY_EBADREQ, "dir",
            "expected an absolute path of at most %d bytes, found '%.*s'", REQUEST_DIR_BYTES,
            request_shown(*dir), (const char *)dir->at);
    return rc;
}

int request_read_id(struct msg_reader *r, const char *field, struct slice *id, struct err *e)
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

int request_shown(struct slice s)
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
        "purge adapters adapter_add adapter_remove reload reload_cancel open append fork close "
        "throughput failed "
        "sample, found '%.*s'",
        request_shown(name), (const char *)name.at);
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
                         request_shown(*state), (const char *)state->at);
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

/* ---- sessions ---- */

/* The row of a session; its results have the session's name as their id. */
static int read_session_row(struct msg_reader *r, struct slice *raw, struct err *e)
{
    struct row_request row;
    const uint8_t *from = r->at;
    int rc = request_read_row(r, "row", &row, e);
    if (rc == 0 && row.id.at)
        rc = err_field(e, ASSAY_EBADREQ, "row.id",
            "expected none, since the session's name is the id of its results");
    *raw = (struct slice){from, (size_t)(r->at - from)};
    return rc;
}

/* An array of `expected` values; `limits` bounds their number. */
static int read_array(struct msg_reader *r, const char *field, enum msg_type expected,
    const struct request_limits *limits, struct slice *raw, uint32_t *n, struct err *e)
{
    char element[48];
    struct slice text;
    const uint8_t *from = r->at;
    int rc = msg_read_array(r, field, n, e);
    if (rc == 0 && *n > limits->max_rows_per_message)
        return err_field(e, ASSAY_ETOOLARGE, field, "expected at most %u in a message, found %u",
            limits->max_rows_per_message, *n);
    for (uint32_t i = 0; rc == 0 && i < *n; i++) {
        snprintf(element, sizeof element, "%s[%u]", field, i);
        if (msg_peek(r) != expected)
            return msg_unexpected(r, element, msg_type_name(expected), e);
        rc = expected == MSG_STR ? msg_read_str(r, element, &text, e)
                                 : request_skip_bytes(r, element, &text, e);
    }
    *raw = (struct slice){from, (size_t)(r->at - from)};
    return rc;
}

static int check_sessions(const struct request *q, uint64_t seen, struct err *e)
{
    if ((seen >> F_SESSIONS & 1) && q->n_sessions == 0)
        return err_field(e, ASSAY_EBADREQ, "sessions", "expected at least one, found none");
    if (q->op == OP_APPEND && q->n_more != q->n_sessions)
        return err_field(e, ASSAY_EBADREQ, "more",
            "expected one for each of the %u sessions, found %u", q->n_sessions, q->n_more);
    if (q->op == OP_SCORE && (seen >> F_SESSIONS & 1) && (seen >> F_ROWS & 1))
        return err_field(e, ASSAY_EBADREQ, "sessions", "expected rows or sessions, found both");
    if (q->op == OP_SCORE && q->sessions.at && q->models.n > 0)
        return err_field(e, ASSAY_EBADREQ, q->models.is_list ? "models" : "model",
            "expected none with sessions: a session's row has its own");
    return 0;
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
        return request_read_id(r, "id", &q->id, e);
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
    case F_BEFORE:
        return msg_read_int(r, "before", 1, INT32_MAX, &q->before, e);
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
    case F_EPHEMERAL:
        return msg_read_bool(r, "ephemeral", &q->ephemeral, e);
    case F_TRUNCATE:
    case F_MAX_LENGTH:
    case F_SIDE:
    case F_KEEP_LAST:
        q->said_late |= q->n_rows > 0;
        return request_read_truncation_field(
            r, (enum truncation_field)(field - F_TRUNCATE), &q->truncation, e);
    case F_MODEL:
        q->said_late |= q->n_rows > 0;
        return request_read_model(r, &q->models, e);
    case F_MODELS:
        q->said_late |= q->n_rows > 0;
        return request_read_models(r, &q->models, e);
    case F_NAME:
        return read_name(r, &q->name, e);
    case F_DIR:
        return read_dir(r, &q->dir, e);
    case F_SESSION:
        return msg_read_str(r, "session", &q->session, e);
    case F_SESSIONS:
        return read_array(r, "sessions", MSG_STR, d->limits, &q->sessions, &q->n_sessions, e);
    case F_ROW:
        return read_session_row(r, &q->row, e);
    case F_MORE:
        return read_array(r, "more", MSG_MAP, d->limits, &q->more, &q->n_more, e);
    case F_N:
        return read_u32(r, "n", 1, d->limits->max_rows_per_message, &q->n, e);
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
    if (request_check_truncation(&q->truncation, e) != 0)
        return e->code;
    if (q->op == OP_SUBMIT && q->n_rows == 0 && !q->seal)
        return err_field(e, ASSAY_EBADREQ, "rows", "expected rows, or seal: true, found neither");
    if (q->op == OP_SCORE && q->n_rows == 0 && !(seen >> F_SESSIONS & 1))
        return err_field(
            e, ASSAY_EBADREQ, "rows", "expected at least one row, or sessions, found none");
    return check_sessions(q, seen, e);
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
            rc = request_read_id(&r, "id", &q->id, NULL);
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
    *q = (struct request){.job = -1, .before = -1, .older_than_s = -1};
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
