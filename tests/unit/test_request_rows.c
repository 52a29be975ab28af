/* test_request_rows.c - the rows of a request: read one after the other, in every shape, and what
 * is wrong with them named. */
#include "tests/unit/request_fixture.h"

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
    assert_false(row.truncation.truncate || row.safe_text);
    assert_true(row.add_special_tokens);
    assert_int_equal(row.hf_pad_rule, REQUEST_PAD_RULE_UNSAID);
    assert_null(row.adapter.at);

    assert_int_equal(request_next_row(&r, 1, &row, NULL), 0);
    assert_slice(row.id, "\xfb");
    assert_int_equal(row.n_ids, 6);
    row_request_ids(&row, ids);
    static const int32_t expected[] = {0, INT32_MAX, INT32_MIN, -1, INT32_MIN, INT32_MIN};
    assert_memory_equal(ids, expected, sizeof expected);
    assert_true(row.truncation.truncate && row.hf_pad_rule == 1 && row.safe_text);
    assert_slice(row.adapter, "lora");

    assert_int_equal(request_next_row(&r, 2, &row, NULL), 0);
    assert_null(row.id.at);
    assert_int_equal(row.n_ids, 0);
    assert_int_equal(row.pool.type, POOL_POSITIONS);
    assert_int_equal(row.pool.activation, ACTIVATION_CLASS1);
    assert_int_equal(row.n_positions, 3);
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
        {"{'ids':[],'truncate':true,'max_length':0}", "rows[1].max_length", ASSAY_EBADREQ},
        {"{'ids':[],'truncate':true,'max_length':2147483648}", "rows[1].max_length", ASSAY_EBADREQ},
        {"{'ids':[],'truncate':true,'truncation_side':'Left'}", "rows[1].truncation_side",
            ASSAY_EBADREQ},
        {"{'ids':[],'truncate':true,'keep_last_token':1}", "rows[1].keep_last_token",
            ASSAY_EBADREQ},
        {"{'ids':[],'max_length':5}", "rows[1].max_length", ASSAY_EBADREQ},
        {"{'ids':[],'truncate':false,'truncation_side':'right'}", "rows[1].truncation_side",
            ASSAY_EBADREQ},
        {"{'ids':[],'keep_last_token':true}", "rows[1].keep_last_token", ASSAY_EBADREQ},
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
        {"{'problem':'q','response':[{'content':'c','role':'assistant'}]}", ROW_RESPONSE, 1},
        {"{'question':'q','responses':['a']}", ROW_RESPONSES, 1},
        {"{'prompt':'p','responses':[[{'content':'c','role':'assistant'}],'a']}", ROW_RESPONSES, 1},
        {"{'question':'q','chosen':'a','rejected':'b','system':'s'}", ROW_PAIR, 1},
        {"{'messages':[],'prompt':'p','tools':[{'a':[{'b':[{'c':[{'d':[1,1.5]}]}]}]}]}",
            ROW_MESSAGES, 1},
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

/* Whether the tokenizer puts its own tokens around a text: said of texts as they are, of nothing
 * else. */
static void special_tokens_of_texts(void **state)
{
    (void)state;
    static const char *const texts[] = {"'text':'x'", "'chosen':'a','rejected':'b'"};
    static const char *const others[] = {"'ids':[1]", "'messages':[]",
        "'prompt':'p','response':'r'", "'prompt':'p','responses':['r']",
        "'prompt':'p','chosen':'a','rejected':'b'", "'chosen':'a','rejected':[]",
        "'chosen':[],'rejected':'b'", "'prompt':'p','steps':['a']",
        "'error':{'code':'bad_token','message':'x'}"};
    struct msg_writer w;
    char text[200];
    msg_writer_init(&w);
    for (int i = 0; i < 4; i++) {
        snprintf(text, sizeof text, "{'add_special_tokens':%s,%s}", i & 1 ? "true" : "false",
            texts[i / 2]);
        assert_int_equal(first_row(text, &w).add_special_tokens, i & 1);
    }
    for (size_t i = 0; i < 2 * sizeof others / sizeof others[0]; i++) {
        snprintf(text, sizeof text, "{'v':1,'op':'score','rows':[{%s,'add_special_tokens':%s}]}",
            others[i / 2], i & 1 ? "true" : "false");
        refused(text, ASSAY_EBADREQ, "rows[0].add_special_tokens");
    }
    msg_writer_release(&w);
}

static void what_a_client_could_not_read(void **state)
{
    (void)state;
    struct msg_writer w;
    msg_writer_init(&w);
    struct row_request row =
        first_row("{'id':7,'error':{'message':'line 7: no','code':'too_large'}}", &w);
    assert_int_equal(row.shape, ROW_REFUSED);
    assert_int_equal(row.error_code, ASSAY_ETOOLARGE);
    assert_slice(row.error_message, "line 7: no");
    msg_writer_release(&w);
}

static void texts_of_a_row_can_be_read(void **state)
{
    (void)state;
    struct msg_writer w;
    struct msg_reader r;
    struct row_message message;
    struct slice text;
    uint32_t n;
    msg_writer_init(&w);
    struct row_request row =
        first_row("{'prompt':[{'content':'c','role':'user'}],'responses':['ab','']}", &w);
    assert_true(request_is_messages(row.prompt));
    msg_reader_init(&r, row.prompt.at, row.prompt.len);
    assert_int_equal(msg_read_array(&r, "", &n, NULL), 0);
    assert_int_equal(request_read_message(&r, &message, NULL), 0);
    assert_int_equal(message.role.len, 4);
    assert_memory_equal(message.role.at, "user", 4);
    assert_memory_equal(message.content.at, "c", 1);
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
        "{'prompt':'x','response':'x','completion':'x'}",
        "{'text':'x','error':{'code':'bad_token','message':'x'}}",
        "{'problem':'x','question':'x','response':'x'}", "{'prompt':'x','system':'x'}",
        "{'chosen':'a','rejected':'b','messages':[]}", "{'chosen':'a','rejected':'b','text':'a'}",
        "{'prompt':'x','response':'x','messages':[]}"};
    static const struct {
        const char *row, *field;
    } fields[] = {
        {"{'text':1}", "rows[0].text"},
        {"{'text':['a']}", "rows[0].text"},
        {"{'messages':'x'}", "rows[0].messages"},
        {"{'messages':['x']}", "rows[0].messages[0]"},
        {"{'messages':[{'role':'user'}]}", "rows[0].messages[0].content"},
        {"{'messages':[{'content':'c'}]}", "rows[0].messages[0].role"},
        {"{'messages':[{'content':'c','role':'user'}],'chat_template_kwargs':[]}",
            "rows[0].chat_template_kwargs"},
        {"{'messages':[{'content':5,'role':'user'}]}", "rows[0].messages[0].content"},
        {"{'messages':[{'tool_calls':[],'role':'user'}]}", "rows[0].messages[0].content"},
        {"{'messages':[{'content':'c','role':'user'}],'join_content':1}", "rows[0].join_content"},
        {"{'prompt':'p','responses':'x'}", "rows[0].responses"},
        {"{'prompt':'p','responses':['x',1]}", "rows[0].responses[1]"},
        {"{'prompt':'p','responses':[{'role':'user','content':'c'}]}", "rows[0].responses[0]"},
        {"{'prompt':'p','responses':['x',[{'role':'user'}]]}", "rows[0].responses[1][0].content"},
        {"{'prompt':1,'response':'x'}", "rows[0].prompt"},
        {"{'prompt':'p','response':['x']}", "rows[0].response[0]"},
        {"{'prompt':'p','response':'x','system':nil}", "rows[0].system"},
        {"{'text':'x','system':'x'}", "rows[0].system"},
        {"{'text':'x','add_special_tokens':1}", "rows[0].add_special_tokens"},
        {"{'ids':[1],'tools':[]}", "rows[0].tools"},
        {"{'error':'x'}", "rows[0].error"},
        {"{'error':{'code':'bad_request'}}", "rows[0].error"},
        {"{'error':{'code':'internal','message':'x'}}", "rows[0].error.code"},
        {"{'error':{'code':'','message':'x'}}", "rows[0].error.code"},
        {"{'error':{'code':'bad_request','message':'x'},'system':'s'}", "rows[0].system"},
        {"{'messages':[{'content':'c','role':'user','reasoning_content':1}]}",
            "rows[0].messages[0].reasoning_content"},
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

/* What a message has beside role and content: read, however deep, and told from nothing. */
static void tools_and_thoughts(void **state)
{
    (void)state;
    static const struct {
        const char *value;
        int something;
    } cases[] = {{"nil", 0}, {"[]", 0}, {"{}", 0}, {"''", 0}, {"false", 0}, {"true", 1}, {"0", 1},
        {"-1", 1}, {"[0]", 1}, {"[[]]", 1}, {"{'a':1}", 1}, {"'a'", 1}, {"1.5", 1},
        {"[{'f':{'a':{'b':{'c':{'d':[[]]}}}}}]", 1}};
    struct msg_writer w;
    msg_writer_init(&w);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct row_message message;
        struct msg_reader r;
        char text[300];
        uint32_t n;
        snprintf(text, sizeof text,
            "{'messages':[{'tool_calls':%s,'role':'user','reasoning_content':%s,'content':'c'}],"
            "'tools':%s}",
            cases[i].value, i % 2 ? "nil" : "'x'", cases[i].value);
        struct row_request row = first_row(text, &w);
        assert_int_equal(row.has_tools, cases[i].something);
        msg_reader_init(&r, row.body[0].at, row.body[0].len);
        assert_int_equal(msg_read_array(&r, "", &n, NULL), 0);
        assert_int_equal(request_read_message(&r, &message, NULL), 0);
        assert_int_equal(message.has_tool_calls, cases[i].something);
        assert_int_equal(message.reasoning.at != NULL, i % 2 == 0);
        assert_memory_equal(message.content.at, "c", 1);
        assert_int_equal(msg_read_end(&r, NULL), 0);
    }
    msg_writer_release(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_are_read_one_after_the_other),
        cmocka_unit_test(bad_rows_are_named),
        cmocka_unit_test(text_shapes),
        cmocka_unit_test(special_tokens_of_texts),
        cmocka_unit_test(what_a_client_could_not_read),
        cmocka_unit_test(texts_of_a_row_can_be_read),
        cmocka_unit_test(wrong_text_shapes_are_refused_by_name),
        cmocka_unit_test(tools_and_thoughts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
