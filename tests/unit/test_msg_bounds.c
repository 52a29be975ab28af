/* test_msg_bounds.c - the pull decoder against every lie about a length, and values too deep, too
 * long or left over. */
#include "tests/unit/msg_fixture.h"

/* Ten bytes with a head that promises up to 2^32 - 1: refused at once, whatever the width. */
static void promised_lengths_are_not_believed(void **state)
{
    (void)state;
    static const struct {
        const char *head;
        size_t len;
        read_any *read;
    } cases[] = {
        {"\xdd\xff\xff\xff\xff", 5, as_array},
        {"\xdf\xff\xff\xff\xff", 5, as_map},
        {"\xdc\xff\xff", 3, as_array},
        {"\xde\xff\xff", 3, as_map},
        {"\x9f", 1, as_array},
        {"\x8f", 1, as_map},
        {"\xdf\x00\x00\x00\x06", 5, as_map},
        {"\xdd\x00\x00\x00\x0b", 5, as_array},
        {"\xdb\xff\xff\xff\xff", 5, as_str},
        {"\xda\xff\xff", 3, as_str},
        {"\xd9\xff", 2, as_str},
        {"\xbf", 1, as_str},
        {"\xc6\xff\xff\xff\xff", 5, as_bin},
        {"\xc5\xff\xff", 3, as_bin},
        {"\xc4\xff", 2, as_bin},
        {"\xc4\x0b", 2, as_bin},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        uint8_t bytes[16] = {0};
        struct err e;
        memcpy(bytes, cases[i].head, cases[i].len);
        struct msg_reader r = on_heap(bytes, cases[i].len + 10);
        assert_int_equal(cases[i].read(&r, &e), ASSAY_EBADMSG);
        assert_non_null(strstr(e.msg, "promises"));
        drop(&r);
        r = on_heap(bytes, cases[i].len + 10);
        assert_int_equal(as_raw(&r, &e), ASSAY_EBADMSG);
        drop(&r);
        for (size_t cut = 1; cut < cases[i].len; cut++) {
            r = on_heap(bytes, cut);
            assert_int_equal(cases[i].read(&r, &e), ASSAY_EBADMSG);
            drop(&r);
        }
    }
}

static void counts_that_just_fit_are_taken(void **state)
{
    (void)state;
    uint32_t n = 0;
    struct msg_reader r = READER("\xdd\x00\x00\x00\x03\x01\x02\x03");
    assert_int_equal(msg_read_array(&r, "f", &n, NULL), 0);
    assert_int_equal(n, 3);
    drop(&r);
    r = READER("\xde\x00\x02\xa0\x01\xa0\x02");
    assert_int_equal(msg_read_map(&r, "f", &n, NULL), 0);
    assert_int_equal(n, 2);
    drop(&r);
}

/* n arrays in each other, the innermost empty. */
static int raw_depth(int n, int depth, int maps, struct err *e)
{
    uint8_t bytes[400];
    size_t len = 0;
    for (int i = 1; i < n; i++) {
        bytes[len++] = maps ? 0x81 : 0x91;
        if (maps)
            bytes[len++] = 0xa0;
    }
    bytes[len++] = maps ? 0x80 : 0x90;
    struct msg_reader r = on_heap(bytes, len);
    struct slice raw;
    int rc = msg_read_raw(&r, "f", depth, &raw, e);
    if (rc == 0)
        assert_int_equal(raw.len, len);
    drop(&r);
    return rc;
}

static void depth_is_bounded(void **state)
{
    (void)state;
    struct err e;
    for (int maps = 0; maps < 2; maps++) {
        assert_int_equal(raw_depth(MSG_MAX_DEPTH, MSG_MAX_DEPTH, maps, &e), 0);
        assert_int_equal(raw_depth(MSG_MAX_DEPTH + 1, MSG_MAX_DEPTH, maps, &e), ASSAY_EBADREQ);
        assert_non_null(strstr(e.msg, "too deep"));
        assert_int_equal(raw_depth(MSG_MAX_DEPTH + 1, 100, maps, &e), ASSAY_EBADREQ);
        assert_int_equal(raw_depth(2, 2, maps, &e), 0);
        assert_int_equal(raw_depth(3, 2, maps, &e), ASSAY_EBADREQ);
        assert_int_equal(raw_depth(1, 0, maps, &e), ASSAY_EBADREQ);
        assert_int_equal(raw_depth(150, MSG_MAX_DEPTH, maps, &e), ASSAY_EBADREQ);
    }
}

static void raw_takes_any_value_whole(void **state)
{
    (void)state;
    static const char value[] = "\x83\xa1"
                                "a\x93\x01\xc0\xc3\xa1"
                                "b\xca\x00\x00\x00\x00\xa1"
                                "c\xc4\x02\xff\xff";
    struct msg_reader r = READER(value);
    struct slice raw;
    assert_int_equal(msg_read_raw(&r, "f", 2, &raw, NULL), 0);
    assert_int_equal(raw.len, sizeof value - 1);
    assert_int_equal(msg_read_end(&r, NULL), 0);
    drop(&r);
    for (size_t cut = 0; cut < sizeof value - 1; cut++) {
        r = on_heap(value, cut);
        assert_int_equal(msg_read_raw(&r, "f", 2, &raw, NULL), ASSAY_EBADMSG);
        drop(&r);
    }
    r = READER("\x81\x01\x02"); /* keys are strings */
    assert_int_equal(msg_read_raw(&r, "f", 2, &raw, NULL), ASSAY_EBADREQ);
    drop(&r);
}

static void a_long_key_is_cut_not_written_past(void **state)
{
    (void)state;
    static const char *const names[] = {"id"};
    struct err e;
    uint64_t seen = 0;
    uint8_t bytes[3 + 5000] = {0xda, 5000 >> 8, 5000 & 0xff};
    memset(bytes + 3, 'k', 5000);
    struct msg_reader r = on_heap(bytes, sizeof bytes);
    assert_int_equal(msg_read_key(&r, "rows[4294967295]", names, 1, &seen, &e), ASSAY_EBADREQ);
    assert_int_equal(strlen(e.field), ERR_FIELD_BYTES - 1);
    drop(&r);
}

static void trailing_bytes_are_counted(void **state)
{
    (void)state;
    struct err e;
    struct msg_reader r = READER("\x01\x02\x03");
    assert_int_equal(as_int(&r, &e), 0);
    assert_int_equal(msg_read_end(&r, &e), ASSAY_EBADMSG);
    assert_non_null(strstr(e.msg, "2 bytes more"));
    drop(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(promised_lengths_are_not_believed),
        cmocka_unit_test(counts_that_just_fit_are_taken),
        cmocka_unit_test(depth_is_bounded),
        cmocka_unit_test(raw_takes_any_value_whole),
        cmocka_unit_test(a_long_key_is_cut_not_written_past),
        cmocka_unit_test(trailing_bytes_are_counted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
