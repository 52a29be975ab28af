/* test_request_extend.c - what a session's row becomes when something is appended: of every field
 * that grows the row that a client would have sent whole, and each refusal by name. */
#include "tests/unit/request_fixture.h"

static int extend(struct msg_writer *w, const char *row, const char *more, struct err *e)
{
    struct message a = build(row), b = build(more);
    *e = (struct err){0};
    int rc =
        request_extend_row(w, (struct slice){a.bytes, a.len}, (struct slice){b.bytes, b.len}, e);
    free(a.bytes);
    free(b.bytes);
    return rc;
}

static void is_whole(const char *row, const char *more, const char *expected)
{
    struct msg_writer w;
    struct err e;
    struct message m = build(expected);
    msg_writer_init(&w);
    if (extend(&w, row, more, &e) != 0)
        fail_msg("%s, %s: refused: %s: %s", row, more, e.field, e.msg);
    if (w.buffer.size != m.len || memcmp(w.buffer.data, m.bytes, m.len) != 0)
        fail_msg("%s, %s: expected %s", row, more, expected);
    msg_writer_release(&w);
    free(m.bytes);
}

static void fields_that_grow(void **state)
{
    (void)state;
    is_whole("{'ids':[1,2]}", "{'ids':[3]}", "{'ids':[1,2,3]}");
    is_whole("{'ids':x'01000000'}", "{'ids':x'02000000'}", "{'ids':x'0100000002000000'}");
    is_whole("{'ids':[]}", "{'ids':[]}", "{'ids':[]}");
    is_whole("{'text':'a','truncate':true}", "{'text':'b'}", "{'text':'ab','truncate':true}");
    is_whole("{'prompt':'p','response':'a'}", "{'response':''}", "{'prompt':'p','response':'a'}");
    is_whole("{'prompt':'p','completion':'a'}", "{'completion':'b'}",
        "{'prompt':'p','completion':'ab'}");
    is_whole("{'prompt':'p','steps':['a']}", "{'steps':['b','c']}",
        "{'prompt':'p','steps':['a','b','c']}");
    is_whole("{'problem':'p','responses':['a']}", "{'responses':['b']}",
        "{'problem':'p','responses':['a','b']}");
    is_whole("{'chosen':'a','rejected':'b'}", "{'rejected':'d','chosen':'c'}",
        "{'chosen':'ac','rejected':'bd'}");
    is_whole("{'query':'q','document':'a'}", "{'document':'b'}", "{'query':'q','document':'ab'}");
    is_whole("{'query':'q','documents':['a']}", "{'documents':['b']}",
        "{'query':'q','documents':['a','b']}");
    is_whole("{'messages':[{'role':'user','content':'a'}],'tools':[[[[[[[[1]]]]]]]]}",
        "{'messages':[{'role':'assistant','content':'b','x':[[[[[[[1]]]]]]]}]}",
        "{'messages':[{'role':'user','content':'a'},{'role':'assistant','content':'b',"
        "'x':[[[[[[[1]]]]]]]}],'tools':[[[[[[[[1]]]]]]]]}");
    is_whole("{'prompt':'p','response':[{'role':'assistant','content':'a'}]}",
        "{'response':[{'role':'tool','content':'b'}]}",
        "{'prompt':'p','response':[{'role':'assistant','content':'a'},{'role':'tool',"
        "'content':'b'}]}");
    is_whole("{'pool':{'type':'POSITIONS','positions':[0],'activation':'none'},'ids':[1]}",
        "{'ids':[2],'pool':{'positions':[1]}}",
        "{'pool':{'type':'POSITIONS','positions':[0,1],'activation':'none'},'ids':[1,2]}");
}

/* A text may be any bytes; a character may come in two parts. */
static void texts_are_bytes(void **state)
{
    (void)state;
    is_whole("{'text':'caf\xc3'}", "{'text':'\xa9'}", "{'text':'caf\xc3\xa9'}");
    is_whole("{'text':'\xff'}", "{'text':'a'}",
        "{'text':'\xff"
        "a'}");
    is_whole("{'prompt':'\xff','response':'a'}", "{'response':'b'}",
        "{'prompt':'\xff','response':'ab'}");
}

/* The heads of msgpack get longer where the contents do. */
static void sizes_that_need_a_longer_head(void **state)
{
    (void)state;
    static const size_t sizes[] = {15, 31, 255, 65535};
    for (size_t i = 0; i < 4; i++)
        for (int kind = 0; kind < 3; kind++) {
            struct msg_writer row, more, out, whole, *parts[] = {&row, &more, &whole};
            size_t n[] = {sizes[i], 4, sizes[i] + 4};
            uint8_t *bytes = calloc(1, 65535 + 4);
            for (int k = 0; k < 3; k++) {
                msg_writer_init(parts[k]);
                msg_map(parts[k], 1);
                msg_str(parts[k], kind == 0 ? "text" : "ids");
                if (kind == 0)
                    msg_str_len(parts[k], bytes, n[k]);
                else if (kind == 1)
                    msg_bin(parts[k], bytes, n[k] / 4 * 4);
                else
                    msg_array(parts[k], (uint32_t)n[k]);
                for (size_t j = 0; kind == 2 && j < n[k]; j++)
                    msg_int(parts[k], 0);
            }
            msg_writer_init(&out);
            struct slice a = {(const uint8_t *)row.buffer.data, row.buffer.size};
            struct slice b = {(const uint8_t *)more.buffer.data, more.buffer.size};
            assert_int_equal(request_extend_row(&out, a, b, NULL), 0);
            assert_int_equal(out.buffer.size, whole.buffer.size);
            assert_memory_equal(out.buffer.data, whole.buffer.data, out.buffer.size);
            for (int k = 0; k < 3; k++)
                msg_writer_release(parts[k]);
            msg_writer_release(&out);
            free(bytes);
        }
}

/* Items are counted within what is appended, as the client that sent it counts them. */
static void what_is_refused(void **state)
{
    (void)state;
    static const struct {
        const char *row, *more, *field;
    } cases[] = {
        {"{'ids':[1]}", "{}", ""},
        {"{'ids':[1]}", "{'text':'a'}", "text"},
        {"{'ids':[1]}", "{'ids':x'01000000'}", "ids"},
        {"{'ids':x'01000000'}", "{'ids':[1]}", "ids"},
        {"{'ids':x'01000000'}", "{'ids':x'0100'}", "ids"},
        {"{'ids':[1]}", "{'ids':[1.5]}", "ids[0]"},
        {"{'ids':[1,2,3]}", "{'ids':[4,'x']}", "ids[1]"},
        {"{'ids':[1]}", "{'ids':nil}", "ids"},
        {"{'ids':[1]}", "{'ids':[2],'ids':[3]}", "ids"},
        {"{'ids':[1]}", "{'ids':[2],'truncate':true}", "truncate"},
        {"{'ids':[1]}", "{'ids':[2],'adapter':'a'}", "adapter"},
        {"{'ids':[1]}", "{'ids':[2],'pool':{'positions':[1]}}", "pool"},
        {"{'ids':[1]}", "{'ids':[2],'id':1}", "id"},
        {"{'ids':[1]}", "{5:[2]}", ""},
        {"{'text':'a'}", "{'text':['b']}", "text"},
        {"{'prompt':'p','response':'a'}", "{'prompt':'q'}", "prompt"},
        {"{'prompt':'p','response':'a'}", "{'completion':'b'}", "completion"},
        {"{'prompt':'p','response':'a'}", "{'response':[]}", "response"},
        {"{'prompt':'p','steps':['a']}", "{'steps':'b'}", "steps"},
        {"{'prompt':'p','steps':['a']}", "{'steps':[1]}", "steps[0]"},
        {"{'prompt':'p','responses':['a','b']}", "{'responses':['c',[{'role':'user'}]]}",
            "responses[1][0].content"},
        {"{'prompt':'p','steps':['a']}", "{'system':'s'}", "system"},
        {"{'messages':[]}", "{'messages':[{'role':'user'}]}", "messages[0].content"},
        {"{'messages':[]}", "{'messages':['a']}", "messages[0]"},
        {"{'messages':[{'role':'user','content':'a'}]}", "{'messages':[{'content':'b'}]}",
            "messages[0].role"},
        {"{'query':'q','document':'a'}", "{'query':'r'}", "query"},
        {"{'query':'q','document':'a'}", "{'instruction':'r'}", "instruction"},
        {"{'ids':[1],'pool':{'type':'MEAN'}}", "{'pool':{'positions':[1]}}", "pool.positions"},
        {"{'ids':[1],'pool':{'type':'MEAN'}}", "{'pool':{'type':'LAST'}}", "pool.type"},
        {"{'ids':[1],'pool':{'type':'MEAN'}}", "{'pool':{}}", "pool"},
        {"{'ids':[1],'pool':{'type':'MEAN'}}", "{'pool':1}", "pool"},
        {"{'ids':[1],'pool':{'type':'POSITIONS','positions':[0]}}", "{'pool':{'positions':[-1]}}",
            "pool.positions[0]"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct msg_writer w;
        struct err e;
        msg_writer_init(&w);
        int rc = extend(&w, cases[i].row, cases[i].more, &e);
        if (rc != ASSAY_EBADREQ || strcmp(e.field, cases[i].field) != 0 || !e.msg[0])
            fail_msg("%s, %s: expected bad_request at '%s', found %s at '%s': %s", cases[i].row,
                cases[i].more, cases[i].field, err_name(rc), e.field, e.msg);
        msg_writer_release(&w);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fields_that_grow),
        cmocka_unit_test(texts_are_bytes),
        cmocka_unit_test(sizes_that_need_a_longer_head),
        cmocka_unit_test(what_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
