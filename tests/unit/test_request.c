/* test_request.c - every op with good and bad fields, as PROTOCOL.md says. Messages are written by
 * small programs of words, see build(). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "schema/request.h"

static const struct request_limits limits = {
    .max_message_bytes = 4096, .max_rows_per_message = 4, .max_tokens_per_row = 100};

/* One message as it would come from a socket: on the heap, not a byte longer than it is. */
struct message {
    uint8_t *bytes;
    size_t len;
};

static struct message copy_of(const void *bytes, size_t len)
{
    struct message m = {malloc(len ? len : 1), len};
    if (len > 0)
        memcpy(m.bytes, bytes, len);
    return m;
}

/* JSON with ' for " and no escapes, written as msgpack: enough to write requests that can be read.
 * Beside JSON: x'0a0b' is bin, !c1 is those bytes raw. Returns the end of the value. */
static const char *pack(struct msg_writer *w, const char *p);

static const char *pack_hex(struct msg_writer *w, const char *p, int as_bin)
{
    uint8_t bytes[64];
    size_t n = 0;
    unsigned byte;
    for (; sscanf(p, "%2x", &byte) == 1 && strchr("0123456789abcdef", *p); p += 2)
        bytes[n++] = (uint8_t)byte;
    if (as_bin)
        msg_bin(w, bytes, n);
    else
        msg_raw(w, (struct slice){bytes, n});
    return p;
}

static const char *pack_items(struct msg_writer *w, const char *p, char end)
{
    struct msg_writer items;
    uint32_t n = 0;
    msg_writer_init(&items);
    while (*p != end) {
        assert_true(*p != '\0');
        p = pack(&items, p);
        n++;
        p += strspn(p, ",: ");
    }
    if (end == '}')
        msg_map(w, n / 2);
    else
        msg_array(w, n);
    msg_raw(w, (struct slice){(const uint8_t *)items.buffer.data, items.buffer.size});
    msg_writer_release(&items);
    return p + 1;
}

static const char *pack(struct msg_writer *w, const char *p)
{
    p += strspn(p, " ");
    if (*p == '{' || *p == '[')
        return pack_items(w, p + 1 + strspn(p + 1, " "), *p == '{' ? '}' : ']');
    if (*p == '\'') {
        const char *end = strchr(p + 1, '\'');
        msg_str_len(w, p + 1, (size_t)(end - p - 1));
        return end + 1;
    }
    if (*p == '!')
        return pack_hex(w, p + 1, 0);
    if (*p == 'x')
        return pack_hex(w, p + 2, 1) + 1;
    if (*p == 'n') {
        msg_nil(w);
        return p + 3;
    }
    if (*p == 't' || *p == 'f') {
        msg_bool(w, *p == 't');
        return p + (*p == 't' ? 4 : 5);
    }
    char *end;
    if (strcspn(p, ".") < strcspn(p, ",:]} "))
        msg_float(w, strtof(p, &end));
    else if (*p == '-')
        msg_int(w, strtoll(p, &end, 10));
    else
        msg_uint(w, strtoull(p, &end, 10));
    return end;
}

static struct message build(const char *text)
{
    struct msg_writer w;
    msg_writer_init(&w);
    pack(&w, text);
    struct message m = copy_of(w.buffer.data, w.buffer.size);
    msg_writer_release(&w);
    return m;
}

/* Slices of *q are gone afterwards, except in good(). */
static int decode(const char *text, struct request *q, struct err *e)
{
    struct message m = build(text);
    *e = (struct err){0};
    int rc = request_decode(q, m.bytes, m.len, &limits, e);
    assert_int_equal(rc, rc ? e->code : 0);
    free(m.bytes);
    return rc;
}

/* A request that is taken; the message stays alive in *m. */
static void good(const char *text, struct request *q, struct message *m)
{
    struct err e = {0};
    *m = build(text);
    if (request_decode(q, m->bytes, m->len, &limits, &e) != 0)
        fail_msg("%s: refused: %s: %s", text, e.field, e.msg);
}

static void refused(const char *text, int code, const char *field)
{
    struct request q;
    struct err e;
    int rc = decode(text, &q, &e);
    if (rc != code || strcmp(e.field, field) != 0)
        fail_msg("%s: expected %s at '%s', found %s at '%s': %s", text, err_name(code), field,
            err_name(rc), e.field, e.msg);
    assert_true(e.msg[0] != '\0');
}

static void assert_slice(struct slice s, const char *text)
{
    assert_non_null(s.at);
    assert_int_equal(s.len, strlen(text));
    assert_memory_equal(s.at, text, s.len);
}

/* ---- what is taken ---- */

static void ops_without_fields(void **state)
{
    (void)state;
    struct request q;
    struct message m;
    good("{'v':1,'op':'hello'}", &q, &m);
    assert_int_equal(q.op, OP_HELLO);
    assert_null(q.id.at);
    assert_null(q.rows.at);
    assert_int_equal(q.job, -1);
    free(m.bytes);
    good("{'op':'info','id':'x','v':1}", &q, &m);
    assert_int_equal(q.op, OP_INFO);
    assert_slice(q.id, "\xa1x");
    free(m.bytes);
}

static void every_op_has_its_name(void **state)
{
    (void)state;
    static const char *const names[OP_COUNT] = {"hello", "submit", "status", "results", "score",
        "cancel", "pause", "resume", "retry", "jobs", "info", "purge"};
    for (int op = 0; op < OP_COUNT; op++)
        assert_string_equal(request_op_name((enum request_op)op), names[op]);
}

static void submit_with_all_fields(void **state)
{
    (void)state;
    struct request q;
    struct message m;
    good("{'v':1,'op':'submit','id':7,'key':'k','chunk':2147483647,'rows':[{'ids':[1]},{'ids':[]}],"
         "'seal':true,'priority':-100,'meta':{'a':[[[1]]]}}",
        &q, &m);
    assert_int_equal(q.op, OP_SUBMIT);
    assert_slice(q.id, "\x07");
    assert_slice(q.key, "k");
    assert_int_equal(q.chunk, INT32_MAX);
    assert_int_equal(q.n_rows, 2);
    assert_int_equal(q.rows.at[0], 0x92);
    assert_int_equal(q.seal, 1);
    assert_int_equal(q.priority, -100);
    assert_true(q.has_priority);
    assert_slice(q.meta, "\x81\xa1"
                         "a\x91\x91\x91\x01");
    free(m.bytes);
}

static void a_seal_needs_no_rows(void **state)
{
    (void)state;
    static const char *const texts[] = {"{'v':1,'op':'submit','key':'k','chunk':3,'seal':true}",
        "{'v':1,'op':'submit','key':'k','chunk':3,'seal':true,'rows':[]}"};
    for (int i = 0; i < 2; i++) {
        struct request q;
        struct message m;
        good(texts[i], &q, &m);
        assert_int_equal(q.n_rows, 0);
        assert_null(q.rows.at); /* both the same contents */
        assert_false(q.has_priority);
        free(m.bytes);
    }
}

static void a_job_is_a_number_or_a_key(void **state)
{
    (void)state;
    struct request q;
    struct message m;
    good("{'v':1,'op':'status','job':2147483647}", &q, &m);
    assert_int_equal(q.job, INT32_MAX);
    assert_null(q.job_key.at);
    free(m.bytes);
    good("{'v':1,'op':'resume','job':'1a','accept_mode':true}", &q, &m);
    assert_int_equal(q.job, -1);
    assert_slice(q.job_key, "1a");
    assert_int_equal(q.accept_mode, 1);
    free(m.bytes);
    static const char *const ops[] = {"cancel", "pause", "resume", "retry", "results"};
    for (size_t i = 0; i < sizeof ops / sizeof ops[0]; i++) {
        char text[80];
        snprintf(text, sizeof text, "{'v':1,'op':'%s','job':1}", ops[i]);
        good(text, &q, &m);
        assert_string_equal(request_op_name(q.op), ops[i]);
        free(m.bytes);
    }
}

static void results_and_jobs_fields(void **state)
{
    (void)state;
    struct request q;
    struct message m;
    good(
        "{'v':1,'op':'results','job':1,'after':18446744073709551615,'limit':10000,'wait_ms':60000}",
        &q, &m);
    assert_true(q.after == UINT64_MAX);
    assert_int_equal(q.limit, 10000);
    assert_int_equal(q.wait_ms, 60000);
    free(m.bytes);
    good("{'v':1,'op':'results','job':1}", &q, &m);
    assert_int_equal(q.limit, 0);
    free(m.bytes);
    good("{'v':1,'op':'jobs','after':5,'limit':1,'state':'running'}", &q, &m);
    assert_int_equal(q.after, 5);
    assert_slice(q.state, "running");
    free(m.bytes);
    good("{'v':1,'op':'jobs'}", &q, &m);
    assert_null(q.state.at);
    free(m.bytes);
}

static void purge_fields(void **state)
{
    (void)state;
    struct request q;
    struct message m;
    good("{'v':1,'op':'purge','older_than_s':0}", &q, &m);
    assert_int_equal(q.older_than_s, 0);
    assert_int_equal(q.job, -1);
    free(m.bytes);
    good("{'v':1,'op':'purge','job':'k'}", &q, &m);
    assert_int_equal(q.older_than_s, -1);
    assert_slice(q.job_key, "k");
    free(m.bytes);
}

static void score_fields(void **state)
{
    (void)state;
    struct request q;
    struct message m;
    good("{'v':1,'op':'score','rows':[{'ids':[1]}],'key':'k','timeout_ms':86400000,'priority':100}",
        &q, &m);
    assert_int_equal(q.timeout_ms, 86400000);
    assert_int_equal(q.priority, 100);
    assert_slice(q.key, "k");
    free(m.bytes);
    good("{'v':1,'op':'score','rows':[{'ids':[1]}]}", &q, &m);
    assert_null(q.key.at);
    assert_int_equal(q.timeout_ms, 0);
    free(m.bytes);
}

static struct msg_reader rows_of(const struct request *q)
{
    struct msg_reader r;
    uint32_t n = 0;
    msg_reader_init(&r, q->rows.at, q->rows.len);
    assert_int_equal(msg_read_array(&r, "rows", &n, NULL), 0);
    assert_int_equal(n, q->n_rows);
    return r;
}

static void rows_are_read_one_after_the_other(void **state)
{
    (void)state;
    struct request q;
    struct message m;
    struct row_request row;
    int32_t ids[8];
    good("{'v':1,'op':'score','rows':[{'id':'a','ids':x'01000000ffffffff00000080'},"
         "{'ids':[0,2147483647,2147483648,-1,18446744073709551615,-9223372036854775808],'id':-5,"
         "'truncate':true,'hf_pad_rule':true,'safe_text':true,'adapter':'lora'},"
         "{'ids':x'','pool':{'type':'POSITIONS','positions':[4,0,2147483647],'activation':'class1'}"
         "},"
         "{'ids':[],'pool':{'type':'STEP','step_token':9,'activation':'none'}}]}",
        &q, &m);
    struct msg_reader r = rows_of(&q);
    assert_int_equal(request_next_row(&r, 0, &row, NULL), 0);
    assert_slice(row.id, "\xa1"
                         "a");
    assert_int_equal(row.n_ids, 3);
    row_request_ids(&row, ids);
    assert_int_equal(ids[0], 1);
    assert_int_equal(ids[1], -1);
    assert_true(ids[2] == INT32_MIN);
    assert_int_equal(row.pool.type, POOL_DEFAULT);
    assert_int_equal(row.pool.activation, ACTIVATION_DEFAULT);
    assert_int_equal(row.pool.step_token, POOL_NO_STEP_TOKEN);
    assert_false(row.truncate || row.hf_pad_rule || row.safe_text);
    assert_null(row.adapter.at);

    assert_int_equal(request_next_row(&r, 1, &row, NULL), 0);
    assert_slice(row.id, "\xfb");
    assert_int_equal(row.n_ids, 6);
    row_request_ids(&row, ids);
    static const int32_t expected[] = {0, INT32_MAX, INT32_MIN, -1, INT32_MIN, INT32_MIN};
    assert_memory_equal(ids, expected, sizeof expected);
    assert_true(row.truncate && row.hf_pad_rule && row.safe_text);
    assert_slice(row.adapter, "lora");

    assert_int_equal(request_next_row(&r, 2, &row, NULL), 0);
    assert_null(row.id.at);
    assert_int_equal(row.n_ids, 0);
    assert_int_equal(row.pool.type, POOL_POSITIONS);
    assert_int_equal(row.pool.activation, ACTIVATION_CLASS1);
    assert_int_equal(row.pool.n_positions, 3);
    row_request_positions(&row, ids);
    assert_int_equal(ids[0], 4);
    assert_int_equal(ids[1], 0);
    assert_int_equal(ids[2], INT32_MAX);

    assert_int_equal(request_next_row(&r, 3, &row, NULL), 0);
    assert_int_equal(row.pool.type, POOL_STEP);
    assert_int_equal(row.pool.step_token, 9);
    assert_int_equal(row.pool.activation, ACTIVATION_NONE);
    assert_int_equal(msg_read_end(&r, NULL), 0);
    free(m.bytes);
}

/* ---- what is refused ---- */

static void bodies_that_are_no_map(void **state)
{
    (void)state;
    static const char *const texts[] = {"[]", "5", "'hello'", "nil", "1.5", "x'00'", "true", "!c1",
        "!d40100", "!dfffffffff", "!81", "!8fa176"};
    struct request q;
    struct err e;
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++)
        refused(texts[i], ASSAY_EBADMSG, "");
    assert_int_equal(request_decode(&q, NULL, 0, &limits, &e), ASSAY_EBADMSG);
    assert_int_equal(request_decode(&q, (const uint8_t *)"\x80", 1, &limits, NULL), ASSAY_EBADREQ);
}

static void top_fields(void **state)
{
    (void)state;
    refused("{}", ASSAY_EBADREQ, "op");
    refused("{'v':1}", ASSAY_EBADREQ, "op");
    refused("{'op':'hello'}", ASSAY_EBADREQ, "v");
    refused("{'v':2,'op':'hello'}", ASSAY_EUNSUPPORTED, "v");
    refused("{'v':-1,'op':'hello'}", ASSAY_EUNSUPPORTED, "v");
    refused("{'v':18446744073709551615,'op':'hello'}", ASSAY_EUNSUPPORTED, "v");
    refused("{'v':1.0,'op':'hello'}", ASSAY_EBADREQ, "v");
    refused("{'v':'1','op':'hello'}", ASSAY_EBADREQ, "v");
    refused("{'v':1,'op':'nonsense'}", ASSAY_EBADREQ, "op");
    refused("{'v':1,'op':'hell'}", ASSAY_EBADREQ, "op");
    refused("{'v':1,'op':'HELLO'}", ASSAY_EBADREQ, "op");
    refused("{'v':1,'op':5}", ASSAY_EBADREQ, "op");
    refused("{'v':1,'op':nil}", ASSAY_EBADREQ, "op");
    refused("{'v':1,'op':!a2fffe}", ASSAY_EBADMSG, "op");
    refused("{'v':1,'op':'hello','op':'hello'}", ASSAY_EBADREQ, "op");
    refused("{'v':1,'v':1,'op':'hello'}", ASSAY_EBADREQ, "v");
    refused("{'v':1,'op':'hello','extra':1}", ASSAY_EBADREQ, "extra");
    refused("{'v':1,'op':'hello','job':1}", ASSAY_EBADREQ, "job");
    refused("{'v':1,'op':'hello','seal':true}", ASSAY_EBADREQ, "seal");
    refused("{'v':1,'op':'submit','key':'k','chunk':0,'seal':true,'timeout_ms':1}", ASSAY_EBADREQ,
        "timeout_ms");
    refused("{'v':1,'op':'hello',5:1}", ASSAY_EBADREQ, "");
    refused("{'v':1,'op':'hello',!c1:1}", ASSAY_EBADMSG, "");
    refused("{'v':1,'op':'hello','id':!d40100}", ASSAY_EBADMSG, "id");
    refused("{'v':1,'op':'hello','id':nil}", ASSAY_EBADREQ, "id");
    refused("{'v':1,'op':'hello','id':1.5}", ASSAY_EBADREQ, "id");
    refused("{'v':1,'op':'hello','id':[1]}", ASSAY_EBADREQ, "id");
    refused("{'v':1,'op':'hello','id':x'00'}", ASSAY_EBADREQ, "id");
}

static void needed_fields(void **state)
{
    (void)state;
    refused("{'v':1,'op':'submit','chunk':0,'rows':[{'ids':[1]}]}", ASSAY_EBADREQ, "key");
    refused("{'v':1,'op':'submit','key':'k','rows':[{'ids':[1]}]}", ASSAY_EBADREQ, "chunk");
    refused("{'v':1,'op':'submit','key':'k','chunk':0}", ASSAY_EBADREQ, "rows");
    refused("{'v':1,'op':'submit','key':'k','chunk':0,'rows':[]}", ASSAY_EBADREQ, "rows");
    refused("{'v':1,'op':'submit','key':'k','chunk':0,'seal':false}", ASSAY_EBADREQ, "rows");
    refused("{'v':1,'op':'score'}", ASSAY_EBADREQ, "rows");
    refused("{'v':1,'op':'score','rows':[]}", ASSAY_EBADREQ, "rows");
    static const char *const ops[] = {"status", "results", "cancel", "pause", "resume", "retry"};
    for (size_t i = 0; i < sizeof ops / sizeof ops[0]; i++) {
        char text[80];
        snprintf(text, sizeof text, "{'v':1,'op':'%s'}", ops[i]);
        refused(text, ASSAY_EBADREQ, "job");
    }
}

/* Each numeric and boolean field with values of other types and just outside its range. */
static void fields_of_wrong_type_or_range(void **state)
{
    (void)state;
    static const struct {
        const char *around, *field, *bad[12];
    } cases[] = {
        {"{'v':1,'op':'submit','key':'k','seal':true,'chunk':%s}", "chunk",
            {"-1", "2147483648", "18446744073709551615", "1.0", "'0'", "nil", "true", "[0]", "{}",
                "x'00'"}},
        {"{'v':1,'op':'submit','key':'k','chunk':0,'seal':true,'priority':%s}", "priority",
            {"-101", "101", "18446744073709551615", "-9223372036854775808", "0.5", "'0'", "nil",
                "false", "[]"}},
        {"{'v':1,'op':'submit','key':'k','chunk':0,'rows':[{'ids':[1]}],'seal':%s}", "seal",
            {"1", "0", "'true'", "nil", "[]", "1.0"}},
        {"{'v':1,'op':'results','job':1,'after':%s}", "after",
            {"-1", "-9223372036854775808", "1.5", "'1'", "nil", "true", "[]"}},
        {"{'v':1,'op':'results','job':1,'limit':%s}", "limit",
            {"0", "-1", "10001", "18446744073709551615", "1.0", "'1'", "nil"}},
        {"{'v':1,'op':'results','job':1,'wait_ms':%s}", "wait_ms",
            {"-1", "60001", "18446744073709551615", "1.0", "'1'", "nil"}},
        {"{'v':1,'op':'score','rows':[{'ids':[1]}],'timeout_ms':%s}", "timeout_ms",
            {"0", "-1", "86400001", "1.0", "'1'", "nil"}},
        {"{'v':1,'op':'resume','job':1,'accept_mode':%s}", "accept_mode", {"1", "nil", "'x'"}},
        {"{'v':1,'op':'jobs','state':%s}", "state", {"''", "'Running'", "'run'", "1", "nil", "[]"}},
        {"{'v':1,'op':'status','job':%s}", "job",
            {"-1", "2147483648", "18446744073709551615", "1.0", "nil", "[1]", "{}", "x'01'", "''",
                "'123'", "true"}},
        {"{'v':1,'op':'submit','chunk':0,'seal':true,'key':%s}", "key",
            {"''", "'0'", "'00123'", "5", "nil", "x'6b'", "['k']", "!a3610062", "1.0"}},
        {"{'v':1,'op':'submit','key':'k','chunk':0,'rows':%s}", "rows",
            {"{}", "nil", "1", "'[]'", "x'90'", "true"}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        for (int k = 0; k < 12 && cases[i].bad[k]; k++) {
            char text[160];
            snprintf(text, sizeof text, cases[i].around, cases[i].bad[k]);
            refused(text, ASSAY_EBADREQ, cases[i].field);
        }
}

static void keys_and_ids_have_a_length(void **state)
{
    (void)state;
    char text[400], long_key[258];
    struct request q;
    struct message m;
    memset(long_key, 'k', sizeof long_key - 1);
    long_key[257] = '\0';
    static const char around[] = "{'v':1,'op':'submit','chunk':0,'seal':true,'key':'%.*s'}";
    snprintf(text, sizeof text, around, REQUEST_KEY_BYTES, long_key);
    good(text, &q, &m);
    assert_int_equal(q.key.len, REQUEST_KEY_BYTES);
    free(m.bytes);
    snprintf(text, sizeof text, around, REQUEST_KEY_BYTES + 1, long_key);
    refused(text, ASSAY_EBADREQ, "key");

    snprintf(text, sizeof text, "{'v':1,'op':'hello','id':'%.*s'}", REQUEST_ID_BYTES, long_key);
    good(text, &q, &m);
    assert_int_equal(q.id.len, REQUEST_ID_BYTES + 3);
    free(m.bytes);
    snprintf(text, sizeof text, "{'v':1,'op':'hello','id':'%s'}", long_key);
    refused(text, ASSAY_EBADREQ, "id");
    snprintf(text, sizeof text, "{'v':1,'op':'score','rows':[{'ids':[],'id':'%s'}]}", long_key);
    refused(text, ASSAY_EBADREQ, "rows[0].id");
}

static void bad_rows_are_named(void **state)
{
    (void)state;
    static const struct {
        const char *row, *field;
        int code;
    } cases[] = {
        {"5", "rows[1]", ASSAY_EBADREQ},
        {"[]", "rows[1]", ASSAY_EBADREQ},
        {"nil", "rows[1]", ASSAY_EBADREQ},
        {"{}", "rows[1]", ASSAY_EBADREQ},
        {"{'id':1}", "rows[1]", ASSAY_EBADREQ},
        {"{7:1}", "rows[1]", ASSAY_EBADREQ},
        {"{'ids':[1],'nonsense':1}", "rows[1].nonsense", ASSAY_EBADREQ},
        {"{'ids':[1],'input_ids':[1]}", "rows[1].input_ids", ASSAY_EBADREQ},
        {"{'ids':[1],'ids':[1]}", "rows[1].ids", ASSAY_EBADREQ},
        {"{'ids':5}", "rows[1].ids", ASSAY_EBADREQ},
        {"{'ids':nil}", "rows[1].ids", ASSAY_EBADREQ},
        {"{'ids':'abc'}", "rows[1].ids", ASSAY_EBADREQ},
        {"{'ids':{}}", "rows[1].ids", ASSAY_EBADREQ},
        {"{'ids':x'010203'}", "rows[1].ids", ASSAY_EBADREQ},
        {"{'ids':[1,'2']}", "rows[1].ids[1]", ASSAY_EBADREQ},
        {"{'ids':[1.5]}", "rows[1].ids[0]", ASSAY_EBADREQ},
        {"{'ids':[1,2,nil]}", "rows[1].ids[2]", ASSAY_EBADREQ},
        {"{'ids':[[1]]}", "rows[1].ids[0]", ASSAY_EBADREQ},
        {"{'ids':[true]}", "rows[1].ids[0]", ASSAY_EBADREQ},
        {"{'ids':[!c1]}", "rows[1].ids[0]", ASSAY_EBADMSG},
        {"{'ids':!ddffffffff}", "rows[1].ids", ASSAY_EBADMSG},
        {"{'ids':!c6ffffffff}", "rows[1].ids", ASSAY_EBADMSG},
        {"{'ids':!d40100}", "rows[1].ids", ASSAY_EBADMSG},
        {"{'ids':[],'id':1.5}", "rows[1].id", ASSAY_EBADREQ},
        {"{'ids':[],'id':nil}", "rows[1].id", ASSAY_EBADREQ},
        {"{'ids':[],'id':[1]}", "rows[1].id", ASSAY_EBADREQ},
        {"{'ids':[],'id':9223372036854775808}", "rows[1].id", ASSAY_EBADREQ},
        {"{'ids':[],'id':!a2c37a}", "rows[1].id", ASSAY_EBADMSG},
        {"{'ids':[],'truncate':1}", "rows[1].truncate", ASSAY_EBADREQ},
        {"{'ids':[],'hf_pad_rule':nil}", "rows[1].hf_pad_rule", ASSAY_EBADREQ},
        {"{'ids':[],'safe_text':'x'}", "rows[1].safe_text", ASSAY_EBADREQ},
        {"{'ids':[],'adapter':5}", "rows[1].adapter", ASSAY_EBADREQ},
        {"{'ids':[],'pool':nil}", "rows[1].pool", ASSAY_EBADREQ},
        {"{'ids':[],'pool':'LAST'}", "rows[1].pool", ASSAY_EBADREQ},
        {"{'ids':[],'pool':{'x':1}}", "rows[1].pool.x", ASSAY_EBADREQ},
        {"{'ids':[],'pool':{'type':'LAST','type':'LAST'}}", "rows[1].pool.type", ASSAY_EBADREQ},
        {"{'ids':[],'pool':{'type':'X'}}", "rows[1].pool.type", ASSAY_EBADREQ},
        {"{'ids':[],'pool':{'type':'last'}}", "rows[1].pool.type", ASSAY_EBADREQ},
        {"{'ids':[],'pool':{'type':'DEFAULT'}}", "rows[1].pool.type", ASSAY_EBADREQ},
        {"{'ids':[],'pool':{'type':1}}", "rows[1].pool.type", ASSAY_EBADREQ},
        {"{'ids':[],'pool':{'activation':'relu'}}", "rows[1].pool.activation", ASSAY_EBADREQ},
        {"{'ids':[],'pool':{'activation':'default'}}", "rows[1].pool.activation", ASSAY_EBADREQ},
        {"{'ids':[],'pool':{'step_token':-1}}", "rows[1].pool.step_token", ASSAY_EBADREQ},
        {"{'ids':[],'pool':{'step_token':2147483648}}", "rows[1].pool.step_token", ASSAY_EBADREQ},
        {"{'ids':[],'pool':{'step_token':1.0}}", "rows[1].pool.step_token", ASSAY_EBADREQ},
        {"{'ids':[],'pool':{'type':'POSITIONS'}}", "rows[1].pool.positions", ASSAY_EBADREQ},
        {"{'ids':[],'pool':{'positions':[1]}}", "rows[1].pool.positions", ASSAY_EBADREQ},
        {"{'ids':[],'pool':{'type':'ALL','positions':[1]}}", "rows[1].pool.positions",
            ASSAY_EBADREQ},
        {"{'ids':[],'pool':{'type':'POSITIONS','positions':[]}}", "rows[1].pool.positions",
            ASSAY_EBADREQ},
        {"{'ids':[],'pool':{'type':'POSITIONS','positions':[0,-1]}}", "rows[1].pool.positions[1]",
            ASSAY_EBADREQ},
        {"{'ids':[],'pool':{'type':'POSITIONS','positions':[2147483648]}}",
            "rows[1].pool.positions[0]", ASSAY_EBADREQ},
        {"{'ids':[],'pool':{'type':'POSITIONS','positions':x'00'}}", "rows[1].pool.positions",
            ASSAY_EBADREQ},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char text[240];
        snprintf(text, sizeof text,
            "{'v':1,'op':'submit','key':'k','chunk':0,'rows':[{'ids':[1]},%s]}", cases[i].row);
        refused(text, cases[i].code, cases[i].field);
    }
}

/* The first row of a request that holds this row. */
static struct row_request first_row(const char *row, struct msg_writer *w)
{
    struct request q;
    struct msg_reader r;
    struct row_request out;
    struct err e = {0};
    char text[512];
    uint32_t n;
    snprintf(text, sizeof text, "{'v':1,'op':'score','rows':[%s]}", row);
    msg_writer_clear(w);
    pack(w, text);
    int rc = request_decode(&q, (const uint8_t *)w->buffer.data, w->buffer.size, &limits, &e);
    if (rc != 0)
        fail_msg("%s: %s: %s", row, e.field, e.msg);
    msg_reader_init(&r, q.rows.at, q.rows.len);
    assert_int_equal(msg_read_array(&r, "rows", &n, &e), 0);
    assert_int_equal(request_next_row(&r, 0, &out, &e), 0);
    return out;
}

static void text_shapes(void **state)
{
    (void)state;
    static const struct {
        const char *row;
        enum row_shape shape;
        int has_prompt;
    } cases[] = {
        {"{'text':'x'}", ROW_TEXT, 0},
        {"{'messages':[{'role':'user','content':''}]}", ROW_MESSAGES, 0},
        {"{'messages':[]}", ROW_MESSAGES, 0},
        {"{'prompt':'p','response':'r'}", ROW_RESPONSE, 1},
        {"{'completion':'r','prompt':[{'content':'c','role':'user'}]}", ROW_RESPONSE, 1},
        {"{'prompt':'p','responses':['a','b']}", ROW_RESPONSES, 1},
        {"{'chosen':'a','rejected':'b'}", ROW_PAIR, 0},
        {"{'rejected':'b','prompt':'p','chosen':[]}", ROW_PAIR, 1},
        {"{'question':'q','steps':['a']}", ROW_STEPS, 1},
        {"{'problem':'q','steps':[]}", ROW_STEPS, 1},
        {"{'prompt':'q','steps':['a'],'safe_text':true}", ROW_STEPS, 1},
        {"{'ids':[1]}", ROW_IDS, 0},
    };
    struct msg_writer w;
    msg_writer_init(&w);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct row_request row = first_row(cases[i].row, &w);
        assert_int_equal(row.shape, cases[i].shape);
        assert_int_equal(row.prompt.at != NULL, cases[i].has_prompt);
        assert_int_equal(row.body[0].at != NULL, row.shape != ROW_IDS);
        assert_int_equal(row.body[1].at != NULL, row.shape == ROW_PAIR);
    }
    msg_writer_release(&w);
}

static void texts_of_a_row_can_be_read(void **state)
{
    (void)state;
    struct msg_writer w;
    struct msg_reader r;
    struct slice role, content, text;
    uint32_t n;
    msg_writer_init(&w);
    struct row_request row =
        first_row("{'prompt':[{'content':'c','role':'user'}],'responses':['ab','']}", &w);
    assert_true(request_is_messages(row.prompt));
    msg_reader_init(&r, row.prompt.at, row.prompt.len);
    assert_int_equal(msg_read_array(&r, "", &n, NULL), 0);
    assert_int_equal(request_read_message(&r, &role, &content, NULL), 0);
    assert_int_equal(role.len, 4);
    assert_memory_equal(role.at, "user", 4);
    assert_memory_equal(content.at, "c", 1);
    msg_reader_init(&r, row.body[0].at, row.body[0].len);
    assert_int_equal(msg_read_array(&r, "", &n, NULL), 0);
    assert_int_equal(n, 2);
    assert_int_equal(msg_read_text(&r, "", &text, NULL), 0);
    assert_memory_equal(text.at, "ab", 2);
    assert_string_equal(row.body_field[0], "responses");
    msg_writer_release(&w);
}

static void wrong_text_shapes_are_refused_by_name(void **state)
{
    (void)state;
    static const char *const mixtures[] = {"{}", "{'prompt':'x'}", "{'text':'x','ids':[1]}",
        "{'text':'x','prompt':'x'}", "{'response':'x'}", "{'chosen':'x','prompt':'x'}",
        "{'steps':['x']}", "{'prompt':'x','problem':'x','steps':['x']}",
        "{'prompt':'x','response':'x','completion':'x'}", "{'problem':'x','response':'x'}"};
    static const struct {
        const char *row, *field;
    } fields[] = {
        {"{'text':1}", "rows[0].text"},
        {"{'text':['a']}", "rows[0].text"},
        {"{'messages':'x'}", "rows[0].messages"},
        {"{'messages':['x']}", "rows[0].messages[0]"},
        {"{'messages':[{'role':'user'}]}", "rows[0].messages[0].content"},
        {"{'messages':[{'content':'c'}]}", "rows[0].messages[0].role"},
        {"{'messages':[{'content':'c','role':'user','name':'n'}]}", "rows[0].messages[0].name"},
        {"{'messages':[{'content':nil,'role':'user'}]}", "rows[0].messages[0].content"},
        {"{'prompt':'p','responses':'x'}", "rows[0].responses"},
        {"{'prompt':'p','responses':['x',1]}", "rows[0].responses[1]"},
        {"{'prompt':1,'response':'x'}", "rows[0].prompt"},
        {"{'prompt':'p','response':['x']}", "rows[0].response"},
        {"{'prompt':'p','steps':[['x']]}", "rows[0].steps[0]"},
    };
    char text[200];
    for (size_t i = 0; i < sizeof mixtures / sizeof mixtures[0]; i++) {
        snprintf(text, sizeof text, "{'v':1,'op':'score','rows':[%s]}", mixtures[i]);
        refused(text, ASSAY_EBADREQ, "rows[0]");
    }
    for (size_t i = 0; i < sizeof fields / sizeof fields[0]; i++) {
        snprintf(text, sizeof text, "{'v':1,'op':'score','rows':[%s]}", fields[i].row);
        refused(text, ASSAY_EBADREQ, fields[i].field);
    }
}

static void limits_are_checked_first(void **state)
{
    (void)state;
    struct request q;
    struct err e;
    uint8_t big[4097] = {0x80};
    assert_int_equal(request_decode(&q, big, sizeof big, &limits, &e), ASSAY_ETOOLARGE);
    assert_string_equal(e.msg, "expected at most 4096 bytes, found 4097");
    refused(
        "{'v':1,'op':'submit','key':'k','chunk':0,'rows':[1,2,3,4,5]}", ASSAY_ETOOLARGE, "rows");
    refused("{'v':1,'op':'submit','rows':[1,2,3,4,5]}", ASSAY_ETOOLARGE, "rows");
    refused("{'v':1,'op':'score','rows':[1,2,3,4]}", ASSAY_EBADREQ, "rows[0]");
    refused("{'v':1,'op':'score','rows':!ddffffffff}", ASSAY_EBADMSG, "rows");
}

static void depth(void **state)
{
    (void)state;
    static const char around[] = "{'v':1,'op':'submit','key':'k','chunk':0,'seal':true,'meta':%s}";
    char text[160];
    struct request q;
    struct message m;
    snprintf(text, sizeof text, around, "[[[[[]]]]]");
    good(text, &q, &m);
    free(m.bytes);
    snprintf(text, sizeof text, around, "[[[[[[]]]]]]");
    refused(text, ASSAY_EBADREQ, "meta");
    snprintf(text, sizeof text, around, "{'a':{'a':{'a':{'a':{'a':{'a':1}}}}}}");
    refused(text, ASSAY_EBADREQ, "meta");
    snprintf(text, sizeof text, around, "!c1");
    refused(text, ASSAY_EBADMSG, "meta");
    snprintf(text, sizeof text, around, "!91ddffffffff");
    refused(text, ASSAY_EBADMSG, "meta");
}

static void trailing_bytes(void **state)
{
    (void)state;
    struct message m = build("{'v':1,'op':'hello'}");
    struct request q;
    struct err e;
    m.bytes = realloc(m.bytes, m.len + 1);
    m.bytes[m.len] = 0xc0;
    assert_int_equal(request_decode(&q, m.bytes, m.len + 1, &limits, &e), ASSAY_EBADMSG);
    free(m.bytes);
}

static const char full[] =
    "{'v':1,'op':'submit','key':'k','chunk':300,'seal':true,'priority':-5,'meta':{'a':[1,nil]},"
    "'rows':[{'id':'abc','ids':[1,70000,-7],'pool':{'type':'STEP','step_token':9}},"
    "{'id':-300,'ids':x'0100000002000000','pool':{'type':'POSITIONS','positions':[0,1],"
    "'activation':'softmax'},'truncate':true,'adapter':'x'}],'id':'request'}";

static void cut_anywhere_is_a_bad_message(void **state)
{
    (void)state;
    struct message m = build(full);
    struct request q;
    struct err e;
    assert_int_equal(request_decode(&q, m.bytes, m.len, &limits, &e), 0);
    for (size_t cut = 0; cut < m.len; cut++) {
        struct message part = copy_of(m.bytes, cut);
        assert_int_equal(request_decode(&q, part.bytes, part.len, &limits, &e), ASSAY_EBADMSG);
        free(part.bytes);
    }
    free(m.bytes);
}

/* Whatever one byte becomes: taken or refused, but never read past the end, and what is taken can
 * be read row by row. */
static void any_byte_changed_is_survived(void **state)
{
    (void)state;
    struct message m = build(full);
    for (size_t at = 0; at < m.len; at++)
        for (int value = 0; value < 256; value++) {
            struct message other = copy_of(m.bytes, m.len);
            struct request q;
            struct err e;
            other.bytes[at] = (uint8_t)value;
            if (request_decode(&q, other.bytes, other.len, &limits, &e) == 0 && q.rows.at) {
                struct msg_reader r = rows_of(&q);
                struct row_request row;
                for (uint32_t i = 0; i < q.n_rows; i++)
                    assert_int_equal(request_next_row(&r, i, &row, &e), 0);
            }
            free(other.bytes);
        }
    free(m.bytes);
}

/* The reply to a refused request carries its id, wherever it stood. */
static void the_id_of_a_refused_request(void **state)
{
    (void)state;
    static const struct {
        const char *text, *id;
    } cases[] = {
        {"{'v':1,'op':'nonsense','id':7}", "\x07"},
        {"{'id':'x','v':1,'op':'nonsense'}", "\xa1x"},
        {"{'v':2,'op':'hello','meta':[[[[1]]]],'id':-1}", "\xff"},
        {"{'op':'submit','rows':[{'ids':5}],'key':'k','id':300}", "\xcd\x01\x2c"},
        {"{'v':1,'op':'hello','extra':1,'id':18446744073709551615}",
            "\xcf\xff\xff\xff\xff\xff\xff\xff\xff"},
        {"{'v':1,'op':'hello','extra':1,'id':nil}", NULL},
        {"{'v':1,'op':!c1,'id':1}", NULL},
        {"{'v':1,'op':'hello','extra':1}", NULL},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct message m = build(cases[i].text);
        struct request q;
        assert_true(request_decode(&q, m.bytes, m.len, &limits, NULL) < 0);
        if (cases[i].id)
            assert_slice(q.id, cases[i].id);
        else
            assert_null(q.id.at);
        free(m.bytes);
    }
}

static void messages_say_expected_and_found(void **state)
{
    (void)state;
    struct request q;
    struct err e;
    decode("{'v':3,'op':'hello'}", &q, &e);
    assert_string_equal(e.msg, "expected version 1, found 3");
    decode("{'v':1,'op':'results','job':1,'wait_ms':60001}", &q, &e);
    assert_string_equal(e.msg, "expected 0 to 60000, found 60001");
    decode("{'v':1,'op':'status','job':1,'after':2}", &q, &e);
    assert_string_equal(e.msg, "unknown field of status");
    decode("{'v':1,'op':'score','rows':[{'ids':[1],'pool':{'type':'last'}}]}", &q, &e);
    assert_string_equal(e.msg, "expected LAST, ALL, STEP, MEAN, CLS or POSITIONS, found 'last'");
    decode("{'v':1,'op':'score','rows':[{'ids':[1,nil]}]}", &q, &e);
    assert_string_equal(e.msg, "expected an integer, found nil");
    decode("{'v':1,'op':'status','job':''}", &q, &e);
    assert_string_equal(e.msg, "expected 1 to 200 bytes, found 0");
    decode("{'v':1,'op':'status','job':'007'}", &q, &e);
    assert_string_equal(e.msg, "expected a key that is not all digits, found '007'");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ops_without_fields),
        cmocka_unit_test(every_op_has_its_name),
        cmocka_unit_test(submit_with_all_fields),
        cmocka_unit_test(a_seal_needs_no_rows),
        cmocka_unit_test(a_job_is_a_number_or_a_key),
        cmocka_unit_test(results_and_jobs_fields),
        cmocka_unit_test(purge_fields),
        cmocka_unit_test(score_fields),
        cmocka_unit_test(rows_are_read_one_after_the_other),
        cmocka_unit_test(bodies_that_are_no_map),
        cmocka_unit_test(top_fields),
        cmocka_unit_test(needed_fields),
        cmocka_unit_test(fields_of_wrong_type_or_range),
        cmocka_unit_test(keys_and_ids_have_a_length),
        cmocka_unit_test(bad_rows_are_named),
        cmocka_unit_test(text_shapes),
        cmocka_unit_test(texts_of_a_row_can_be_read),
        cmocka_unit_test(wrong_text_shapes_are_refused_by_name),
        cmocka_unit_test(limits_are_checked_first),
        cmocka_unit_test(depth),
        cmocka_unit_test(trailing_bytes),
        cmocka_unit_test(cut_anywhere_is_a_bad_message),
        cmocka_unit_test(any_byte_changed_is_survived),
        cmocka_unit_test(the_id_of_a_refused_request),
        cmocka_unit_test(messages_say_expected_and_found),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
