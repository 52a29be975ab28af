/* test_request_bytes.c - messages that are too long, too deep, cut or changed: an error, never a
 * crash. */
#include "tests/unit/request_fixture.h"

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
