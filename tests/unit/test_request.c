/* test_request.c - every op with good and bad fields, as PROTOCOL.md says. */
#include "tests/unit/request_fixture.h"

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
        "cancel", "pause", "resume", "retry", "jobs", "info", "purge", "adapters", "adapter_add",
        "adapter_remove", "reload", "reload_cancel", "open", "append", "fork", "close",
        "throughput", "failed", "sample"};
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

static void adapter_fields(void **state)
{
    (void)state;
    struct request q;
    struct message m;
    good("{'v':1,'op':'adapter_add','name':'a.B_9-','dir':'/x'}", &q, &m);
    assert_slice(q.name, "a.B_9-");
    assert_slice(q.dir, "/x");
    free(m.bytes);
    good("{'v':1,'op':'reload','dir':'/x','model':'m'}", &q, &m);
    assert_int_equal(q.op, OP_RELOAD);
    assert_true(slice_is(q.dir, "/x") && slice_is(q.models.of[0], "m"));
    free(m.bytes);
    good("{'v':1,'op':'adapter_remove','name':'a'}", &q, &m);
    assert_slice(q.name, "a");
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

/* ---- what is refused ---- */

static void session_fields(void **state)
{
    (void)state;
    struct request q;
    struct message m;
    good("{'v':1,'op':'open','row':{'text':'a','pool':{'type':'MEAN'}}}", &q, &m);
    assert_int_equal(q.row.len, 1 + 5 + 2 + 5 + 1 + 5 + 5);
    free(m.bytes);
    good("{'v':1,'op':'append','more':[{'a':[{}]},{}],'sessions':['x.0','y']}", &q, &m);
    assert_slice(q.sessions, "\x92\xa3x.0\xa1y");
    assert_int_equal(q.n_sessions, 2);
    assert_int_equal(q.n_more, 2);
    assert_int_equal(q.more.len, 7);
    free(m.bytes);
    good("{'v':1,'op':'fork','session':'x.0','n':4}", &q, &m);
    assert_slice(q.session, "x.0");
    assert_int_equal(q.n, 4);
    free(m.bytes);
    good("{'v':1,'op':'score','sessions':['x.0','x.0'],'key':'k'}", &q, &m);
    assert_int_equal(q.n_sessions, 2);
    assert_null(q.rows.at);
    free(m.bytes);
}

static void bad_session_fields(void **state)
{
    (void)state;
    static const struct {
        const char *fields, *field;
        int code;
    } cases[] = {
        {"'open'", "row", ASSAY_EBADREQ},
        {"'open','row':[]", "row", ASSAY_EBADREQ},
        {"'open','row':{}", "row", ASSAY_EBADREQ},
        {"'open','row':{'ids':[1],'id':1}", "row.id", ASSAY_EBADREQ},
        {"'open','row':{'ids':[1],'pool':{'type':'X'}}", "row.pool.type", ASSAY_EBADREQ},
        {"'open','row':{'ids':[1]},'session':'a'", "session", ASSAY_EBADREQ},
        {"'append','sessions':['a']", "more", ASSAY_EBADREQ},
        {"'append','more':[{}]", "sessions", ASSAY_EBADREQ},
        {"'append','sessions':[],'more':[]", "sessions", ASSAY_EBADREQ},
        {"'append','sessions':['a'],'more':[{},{}]", "more", ASSAY_EBADREQ},
        {"'append','sessions':['a',1],'more':[{},{}]", "sessions[1]", ASSAY_EBADREQ},
        {"'append','sessions':['a','b'],'more':[{},[]]", "more[1]", ASSAY_EBADREQ},
        {"'append','sessions':'a','more':[{}]", "sessions", ASSAY_EBADREQ},
        {"'append','sessions':['a'],'more':{}", "more", ASSAY_EBADREQ},
        {"'append','sessions':['a'],'more':[{'a':!c1}]", "more[0]", ASSAY_EBADMSG},
        {"'fork','session':'a'", "n", ASSAY_EBADREQ},
        {"'fork','n':2", "session", ASSAY_EBADREQ},
        {"'fork','session':['a'],'n':2", "session", ASSAY_EBADREQ},
        {"'fork','session':'a','n':0", "n", ASSAY_EBADREQ},
        {"'fork','session':'a','n':5", "n", ASSAY_EBADREQ},
        {"'close'", "sessions", ASSAY_EBADREQ},
        {"'close','sessions':[]", "sessions", ASSAY_EBADREQ},
        {"'close','sessions':['a','b','c','d','e']", "sessions", ASSAY_ETOOLARGE},
        {"'score','sessions':[]", "sessions", ASSAY_EBADREQ},
        {"'score','sessions':['a'],'rows':[{'ids':[1]}]", "sessions", ASSAY_EBADREQ},
        {"'submit','sessions':['a'],'key':'k','chunk':0,'seal':true", "sessions", ASSAY_EBADREQ},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char text[200];
        snprintf(text, sizeof text, "{'v':1,'op':%s}", cases[i].fields);
        refused(text, cases[i].code, cases[i].field);
    }
}

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
        {"{'v':1,'op':'adapter_remove','name':%s}", "name",
            {"''", "'a b'", "'a/b'", "'a\xc3\xa4'", "1", "nil",
                "'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa'"}},
        {"{'v':1,'op':'adapter_add','name':'a','dir':%s}", "dir",
            {"''", "'x'", "'./x'", "1", "nil"}},
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
        cmocka_unit_test(adapter_fields),
        cmocka_unit_test(score_fields),
        cmocka_unit_test(session_fields),
        cmocka_unit_test(bad_session_fields),
        cmocka_unit_test(bodies_that_are_no_map),
        cmocka_unit_test(top_fields),
        cmocka_unit_test(needed_fields),
        cmocka_unit_test(fields_of_wrong_type_or_range),
        cmocka_unit_test(keys_and_ids_have_a_length),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
