/* fuzz_request.c - any bytes as a client's request: taken or refused, and what is taken can be
 * used: its rows read, its ids and positions copied, its slices written into a reply. What is
 * appended to a session's row makes another row, or is refused. */
#include "tests/fuzz/fuzz.h"

#include <assert.h>
#include <stdlib.h>

#include "schema/request.h"

/* Reads each text of a checked array again, to the last byte. */
static void use_texts(struct slice raw)
{
    struct msg_reader r;
    struct row_message message;
    struct slice text;
    uint32_t n = 1;
    if (!raw.at)
        return;
    msg_reader_init(&r, raw.at, raw.len);
    int is_array = msg_peek(&r) == MSG_ARRAY;
    int rc = is_array ? msg_read_array(&r, "", &n, NULL) : 0;
    for (uint32_t i = 0; rc == 0 && i < n; i++)
        rc = msg_peek(&r) == MSG_MAP ? request_read_message(&r, &message, NULL)
                                     : msg_read_text(&r, "", &text, NULL);
    assert(rc == 0 && msg_read_end(&r, NULL) == 0);
}

static void use_row(const struct row_request *row)
{
    use_texts(row->prompt);
    use_texts(row->body[0]);
    use_texts(row->body[1]);
    int32_t *ids = malloc(4 * (size_t)row->n_ids + 1);
    int32_t *positions = malloc(4 * (size_t)row->n_positions + 1);
    assert(ids && positions);
    row_request_ids(row, ids);
    row_request_positions(row, positions);
    for (uint32_t i = 0; i < row->n_positions; i++)
        assert(positions[i] >= 0);
    free(ids);
    free(positions);
}

static void use_rows(const struct request *q)
{
    struct msg_reader r;
    struct row_request row;
    uint32_t n = 0;
    msg_reader_init(&r, q->rows.at, q->rows.len);
    int rc = msg_read_array(&r, "rows", &n, NULL);
    assert(rc == 0 && n == q->n_rows && n > 0);
    for (uint32_t i = 0; i < n; i++) {
        rc = request_next_row(&r, i, &row, NULL);
        assert(rc == 0);
        use_row(&row);
    }
    assert(msg_read_end(&r, NULL) == 0);
}

static void assert_one_value(struct slice raw)
{
    struct msg_reader r;
    struct slice again;
    if (!raw.at)
        return;
    msg_reader_init(&r, raw.at, raw.len);
    int rc = msg_read_raw(&r, "", MSG_MAX_DEPTH, &again, NULL);
    assert(rc == 0 && msg_read_end(&r, NULL) == 0);
}

/* A reply carries the error's texts: they must be UTF-8, or no client could read it. */
static void assert_sendable(const struct err *e)
{
    struct msg_writer w;
    struct msg_reader r;
    struct slice raw;
    msg_writer_init(&w);
    msg_map(&w, 1);
    msg_key_str(&w, e->field, e->msg);
    msg_reader_init(&r, (const uint8_t *)w.buffer.data, w.buffer.size);
    assert(msg_read_raw(&r, "", 1, &raw, NULL) == 0 && e->msg[0] != '\0');
    msg_writer_release(&w);
}

/* Appends it to the row. What comes of it is a row once more, with all that was there. */
static void use_more(struct slice row, struct slice more)
{
    struct msg_writer w;
    struct msg_reader r;
    struct row_request whole;
    struct err e = {0};
    msg_writer_init(&w);
    int rc = request_extend_row(&w, row, more, &e);
    assert(rc == 0 || (rc < 0 && rc == e.code));
    if (rc != 0)
        assert_sendable(&e);
    else
        assert(w.buffer.size + 8 >= row.len);
    msg_reader_init(&r, (const uint8_t *)w.buffer.data, w.buffer.size);
    if (rc == 0) {
        assert(request_read_row(&r, "", &whole, NULL) == 0 && msg_read_end(&r, NULL) == 0);
        use_row(&whole);
    }
    msg_writer_release(&w);
}

static const char *const rows_of_sessions[] = {"\x81\xa3ids\x91\x01", "\x81\xa4text\xa1t",
    "\x82\xa3ids\xc4\x04\x01\x00\x00\x00\xa4pool\x82\xa4type\xa9POSITIONS\xa9positions\x91\x00",
    "\x82\xa6prompt\xa1p\xa5steps\x91\xa1s"};
static const size_t rows_of_sessions_bytes[] = {7, 8, 44, 19};

/* Each of `more` behind each of some rows. */
static void use_append(const struct request *q)
{
    struct msg_reader r;
    struct slice one;
    uint32_t n = 0;
    msg_reader_init(&r, q->more.at, q->more.len);
    int rc = msg_read_array(&r, "more", &n, NULL);
    assert(rc == 0 && n == q->n_more && n == q->n_sessions && n > 0);
    for (uint32_t i = 0; i < n; i++) {
        rc = request_skip_bytes(&r, "more", &one, NULL);
        assert(rc == 0);
        for (size_t k = 0; k < sizeof rows_of_sessions / sizeof rows_of_sessions[0]; k++)
            use_more(
                (struct slice){(const uint8_t *)rows_of_sessions[k], rows_of_sessions_bytes[k]},
                one);
    }
    assert(msg_read_end(&r, NULL) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len)
{
    static const struct request_limits limits = {
        .max_message_bytes = 60000, .max_rows_per_message = 100, .max_tokens_per_row = 1000};
    struct request q;
    struct err e = {0};
    int rc = request_decode(&q, bytes, len, &limits, &e);
    assert(rc == 0 || (rc < 0 && rc == e.code));
    assert_one_value(q.id);
    if (rc != 0) {
        assert_sendable(&e);
        return 0;
    }
    assert_one_value(q.meta);
    assert(q.key.len <= REQUEST_KEY_BYTES && q.job_key.len <= REQUEST_KEY_BYTES);
    assert(q.limit <= REQUEST_LIMIT_MAX && q.wait_ms <= REQUEST_WAIT_MS_MAX);
    assert((q.n_rows > 0) == (q.rows.at != NULL));
    if (q.rows.at)
        use_rows(&q);
    if (q.op == OP_OPEN)
        use_more(q.row, q.row);
    if (q.op == OP_APPEND)
        use_append(&q);
    assert_one_value(q.sessions);
    return 0;
}

static void seed_head(struct msg_writer *w, const char *op, uint32_t n_fields)
{
    msg_map(w, 3 + n_fields);
    msg_key_int(w, "v", REQUEST_VERSION);
    msg_key_str(w, "op", op);
    msg_key_int(w, "id", 77);
}

static void seed_rows(struct msg_writer *w)
{
    msg_str(w, "rows");
    msg_array(w, 3);
    msg_map(w, 2);
    msg_key_str(w, "id", "first");
    msg_str(w, "ids");
    msg_bin(w, "\1\0\0\0\2\0\0\0", 8);
    msg_map(w, 7);
    msg_key_int(w, "id", -70000);
    msg_key_bool(w, "truncate", 1);
    msg_key_int(w, "max_length", 2);
    msg_key_str(w, "truncation_side", "left");
    msg_key_bool(w, "keep_last_token", 1);
    msg_str(w, "ids");
    msg_array(w, 4);
    msg_int(w, 1);
    msg_int(w, -1);
    msg_uint(w, UINT64_MAX);
    msg_int(w, 151651);
    msg_str(w, "pool");
    msg_map(w, 2);
    msg_key_str(w, "type", "STEP");
    msg_key_int(w, "step_token", 151651);
    msg_map(w, 5);
    msg_str(w, "ids");
    msg_array(w, 0);
    msg_key_str(w, "adapter", "h\xc3\xa9");
    msg_key_bool(w, "hf_pad_rule", 0);
    msg_key_bool(w, "safe_text", 0);
    msg_str(w, "pool");
    msg_map(w, 3);
    msg_key_str(w, "type", "POSITIONS");
    msg_key_str(w, "activation", "softmax");
    msg_str(w, "positions");
    msg_array(w, 2);
    msg_int(w, 0);
    msg_int(w, INT32_MAX);
}

static void seed_submit(struct msg_writer *w)
{
    seed_head(w, "submit", 6);
    msg_key_str(w, "key", "a key");
    msg_key_int(w, "chunk", 300);
    seed_rows(w);
    msg_key_bool(w, "seal", 1);
    msg_key_int(w, "priority", -100);
    msg_str(w, "meta");
    msg_map(w, 1);
    msg_str(w, "a");
    msg_array(w, 2);
    msg_nil(w);
    msg_float(w, 1.5f);
}

static void seed_append(struct msg_writer *w)
{
    static const char *const names[] = {"0123456789abcdef.0", "0123456789abcdef.4294967295"};
    seed_head(w, "append", 2);
    msg_str(w, "sessions");
    msg_array(w, 4);
    for (int i = 0; i < 4; i++)
        msg_str(w, names[i % 2]);
    msg_str(w, "more");
    msg_array(w, 4);
    msg_map(w, 1);
    msg_str(w, "ids");
    msg_array(w, 1);
    msg_int(w, 7);
    msg_map(w, 1);
    msg_key_str(w, "text", "more");
    msg_map(w, 2);
    msg_str(w, "ids");
    msg_bin(w, "\2\0\0\0", 4);
    msg_str(w, "pool");
    msg_map(w, 1);
    msg_str(w, "positions");
    msg_array(w, 1);
    msg_int(w, 1);
    msg_map(w, 1);
    msg_str(w, "steps");
    msg_array(w, 1);
    msg_str(w, "next");
}

static void seed_open(struct msg_writer *w)
{
    seed_head(w, "open", 1);
    msg_str(w, "row");
    msg_map(w, 3);
    msg_str(w, "messages");
    msg_array(w, 1);
    msg_map(w, 2);
    msg_key_str(w, "role", "user");
    msg_key_str(w, "content", "3 + 4?");
    msg_key_bool(w, "truncate", 1);
    msg_str(w, "pool");
    msg_map(w, 1);
    msg_key_str(w, "type", "MEAN");
}

int fuzz_seed(unsigned n, struct msg_writer *w)
{
    switch (n) {
    case 0:
        seed_submit(w);
        return 1;
    case 1:
        seed_head(w, "score", 3);
        seed_rows(w);
        msg_key_int(w, "timeout_ms", 86400000);
        msg_key_int(w, "priority", 100);
        return 1;
    case 2:
        seed_head(w, "results", 4);
        msg_key_str(w, "job", "a key");
        msg_key_int(w, "after", INT64_MAX);
        msg_key_int(w, "limit", 10000);
        msg_key_int(w, "wait_ms", 60000);
        return 1;
    case 3:
        seed_head(w, "resume", 2);
        msg_key_int(w, "job", INT32_MAX);
        msg_key_bool(w, "accept_mode", 1);
        return 1;
    case 4:
        seed_head(w, "jobs", 3);
        msg_key_int(w, "after", 1);
        msg_key_int(w, "limit", 1);
        msg_key_str(w, "state", "running");
        return 1;
    case 5:
        seed_head(w, "hello", 0);
        return 1;
    case 6:
        seed_append(w);
        return 1;
    case 7:
        seed_open(w);
        return 1;
    case 8:
        seed_head(w, "fork", 2);
        msg_key_str(w, "session", "0123456789abcdef.0");
        msg_key_int(w, "n", 64);
        return 1;
    case 9:
        seed_head(w, "score", 1);
        msg_str(w, "sessions");
        msg_array(w, 1);
        msg_str(w, "0123456789abcdef.0");
        return 1;
    case 10: /* a row made of what grows alone */
        seed_head(w, "open", 1);
        msg_str(w, "row");
        msg_map(w, 1);
        msg_str(w, "ids");
        msg_array(w, 1);
        msg_int(w, 1);
        return 1;
    default:
        return 0;
    }
}
