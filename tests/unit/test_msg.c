/* test_msg.c - the pull decoder against every first byte and every width; the writer against the
 * decoder. */
#include "tests/unit/msg_fixture.h"

static void every_first_byte_has_its_type(void **state)
{
    (void)state;
    for (int b = 0; b < 256; b++) {
        uint8_t byte = (uint8_t)b;
        struct msg_reader r = on_heap(&byte, 1);
        enum msg_type expected = MSG_INVALID;
        if (b < 0x80 || b >= 0xe0 || (b >= 0xcc && b <= 0xd3))
            expected = MSG_INT;
        else if (b < 0x90 || b == 0xde || b == 0xdf)
            expected = MSG_MAP;
        else if (b < 0xa0 || b == 0xdc || b == 0xdd)
            expected = MSG_ARRAY;
        else if (b < 0xc0 || (b >= 0xd9 && b <= 0xdb))
            expected = MSG_STR;
        else if (b == 0xc0)
            expected = MSG_NIL;
        else if (b == 0xc2 || b == 0xc3)
            expected = MSG_BOOL;
        else if (b >= 0xc4 && b <= 0xc6)
            expected = MSG_BIN;
        else if (b == 0xca || b == 0xcb)
            expected = MSG_FLOAT;
        assert_int_equal(msg_peek(&r), expected);
        drop(&r);
    }
    struct msg_reader empty;
    msg_reader_init(&empty, NULL, 0);
    assert_int_equal(msg_peek(&empty), MSG_END);
}

static void integers_of_every_width(void **state)
{
    (void)state;
    static const struct {
        const char *bytes;
        size_t len;
        int64_t value;
    } cases[] = {{"\x00", 1, 0}, {"\x7f", 1, 127}, {"\xff", 1, -1}, {"\xe0", 1, -32},
        {"\xcc\xff", 2, 255}, {"\xcd\xff\xfe", 3, 65534}, {"\xce\xff\xff\xff\xff", 5, UINT32_MAX},
        {"\xcf\x7f\xff\xff\xff\xff\xff\xff\xff", 9, INT64_MAX}, {"\xd0\x80", 2, -128},
        {"\xd0\x7f", 2, 127}, {"\xd1\x80\x00", 3, INT16_MIN}, {"\xd1\x7f\xff", 3, INT16_MAX},
        {"\xd2\x80\x00\x00\x00", 5, INT32_MIN},
        {"\xd3\x80\x00\x00\x00\x00\x00\x00\x00", 9, INT64_MIN}, {"\xcc\x05", 2, 5},
        {"\xd3\x00\x00\x00\x00\x00\x00\x00\x05", 9, 5}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct msg_reader r = on_heap(cases[i].bytes, cases[i].len);
        int64_t v = 1234567;
        assert_int_equal(msg_read_int(&r, "f", INT64_MIN, INT64_MAX, &v, NULL), 0);
        assert_true(v == cases[i].value);
        assert_int_equal(msg_read_end(&r, NULL), 0);
        drop(&r);
        for (size_t cut = 0; cut < cases[i].len; cut++) {
            r = on_heap(cases[i].bytes, cut);
            assert_int_equal(msg_read_int(&r, "f", INT64_MIN, INT64_MAX, &v, NULL), ASSAY_EBADMSG);
            drop(&r);
        }
    }
}

static void integers_out_of_range_are_refused_with_the_numbers(void **state)
{
    (void)state;
    struct err e;
    int64_t v;
    uint64_t u;
    struct msg_reader r = READER("\xcf\xff\xff\xff\xff\xff\xff\xff\xff");
    struct msg_reader again = r, third = r;
    assert_int_equal(msg_read_int(&r, "f", 0, 9, &v, &e), ASSAY_EBADREQ);
    assert_string_equal(e.msg, "expected 0 to 9, found 18446744073709551615");
    assert_string_equal(e.field, "f");
    assert_int_equal(msg_read_uint64(&again, "f", &u, &e), 0);
    assert_true(u == UINT64_MAX);
    assert_int_equal(msg_read_int_saturated(&third, "f", &v, &e), 0);
    assert_true(v == INT64_MAX);
    drop(&r);

    r = READER("\xd3\x80\x00\x00\x00\x00\x00\x00\x00");
    again = third = r;
    assert_int_equal(msg_read_uint64(&r, "f", &u, &e), ASSAY_EBADREQ);
    assert_string_equal(e.msg, "expected 0 or more, found -9223372036854775808");
    assert_int_equal(msg_read_int_saturated(&again, "f", &v, &e), 0);
    assert_true(v == INT64_MIN);
    drop(&r);

    static const int64_t edges[][3] = {{-3, 3, 1}, {-2, 2, 1}, {-1, 1, 0}, {0, 5, 1}, {2, 5, 0}};
    for (size_t i = 0; i < 5; i++) { /* the value is -2, then 2 */
        r = READER("\xfe\x02");
        int rc = msg_read_int(&r, "f", edges[i][0], edges[i][1], &v, &e);
        assert_int_equal(rc == 0, edges[i][0] <= -2 && edges[i][1] >= -2);
        rc = msg_read_int(&r, "f", edges[i][0], edges[i][1], &v, &e);
        assert_int_equal(rc == 0, edges[i][0] <= 2 && edges[i][1] >= 2);
        drop(&r);
    }
}

static void floats_are_not_integers_nor_the_other_way(void **state)
{
    (void)state;
    struct err e;
    int64_t v;
    double d;
    struct msg_reader r = READER("\xca\x3f\x80\x00\x00\x01\xcb\xbf\xf8\x00\x00\x00\x00\x00\x00");
    assert_int_equal(msg_read_int(&r, "f", 0, 9, &v, &e), ASSAY_EBADREQ);
    assert_string_equal(e.msg, "expected an integer, found a float");
    assert_int_equal(msg_read_float(&r, "f", &d, &e), 0);
    assert_true(d == 1.0);
    assert_int_equal(msg_read_float(&r, "f", &d, &e), ASSAY_EBADREQ);
    assert_string_equal(e.msg, "expected a float, found an integer");
    assert_int_equal(msg_read_int(&r, "f", 0, 9, &v, &e), 0);
    assert_int_equal(msg_read_float(&r, "f", &d, &e), 0);
    assert_true(d == -1.5);
    drop(&r);
    for (size_t cut = 1; cut < 5; cut++) {
        r = on_heap("\xca\x3f\x80\x00\x00", cut);
        assert_int_equal(msg_read_float(&r, "f", &d, &e), ASSAY_EBADMSG);
        drop(&r);
    }
}

static void another_type_is_named(void **state)
{
    (void)state;
    static const char values[][4] = {
        "\xc0", "\xc2", "\x05", "\xca", "\xa0", "\xc4", "\x90", "\x80"};
    static read_any *const readers[] = {
        NULL, as_bool, as_int, as_float, as_str, as_bin, as_array, as_map};
    for (int v = 0; v < 8; v++)
        for (int k = 1; k < 8; k++) {
            struct err e;
            struct msg_reader r = on_heap(values[v], 1);
            if (k == v)
                goto next;
            assert_int_equal(readers[k](&r, &e), ASSAY_EBADREQ);
            assert_non_null(strstr(e.msg, msg_type_name(MSG_NIL + (enum msg_type)k)));
            assert_non_null(strstr(e.msg, msg_type_name(MSG_NIL + (enum msg_type)v)));
            assert_string_equal(e.field, "f");
            assert_ptr_equal(r.at, r.begin);
        next:
            drop(&r);
        }
}

static void extension_types_and_c1_are_refused(void **state)
{
    (void)state;
    static const uint8_t heads[] = {0xc1, 0xc7, 0xc8, 0xc9, 0xd4, 0xd5, 0xd6, 0xd7, 0xd8};
    for (size_t i = 0; i < sizeof heads; i++) {
        uint8_t bytes[24] = {heads[i]};
        struct msg_reader r = on_heap(bytes, sizeof bytes);
        struct err e;
        assert_int_equal(as_raw(&r, &e), ASSAY_EBADMSG);
        assert_int_equal(as_int(&r, &e), ASSAY_EBADMSG);
        assert_non_null(strstr(e.msg, "extension type"));
        drop(&r);
    }
}

static void strings_are_utf8(void **state)
{
    (void)state;
    struct err e;
    struct slice s;
    struct msg_reader r = READER("\xa3h\xc3\xa9\xa3\xe2\x82z\xa0");
    assert_int_equal(msg_read_str(&r, "f", &s, &e), 0);
    assert_int_equal(s.len, 3);
    assert_memory_equal(s.at, "h\xc3\xa9", 3);
    assert_int_equal(msg_read_str(&r, "f", &s, &e), ASSAY_EBADMSG);
    assert_string_equal(e.msg, "expected UTF-8, found byte 0xe2 at 0 of the string");
    drop(&r);
    r = READER("\xc4\x02\xff\xfe"); /* bin is any bytes */
    assert_int_equal(msg_read_bin(&r, "f", &s, &e), 0);
    assert_int_equal(s.len, 2);
    drop(&r);
}

static void keys_are_known_and_come_once(void **state)
{
    (void)state;
    static const char *const names[] = {"id", "ids"};
    struct err e;
    uint64_t seen = 0;
    struct msg_reader r = READER("\xa3ids\xa2id\xa3ids\xa4idss\xa0\x05\xa2\xff\xfe");
    assert_int_equal(msg_read_key(&r, "", names, 2, &seen, &e), 1);
    assert_int_equal(msg_read_key(&r, "", names, 2, &seen, &e), 0);
    assert_int_equal(seen, 3);
    assert_int_equal(msg_read_key(&r, "rows[3]", names, 2, &seen, &e), ASSAY_EBADREQ);
    assert_string_equal(e.field, "rows[3].ids");
    assert_string_equal(e.msg, "expected once, found twice");
    assert_int_equal(msg_read_key(&r, "", names, 2, &seen, &e), ASSAY_EBADREQ);
    assert_string_equal(e.field, "idss");
    assert_string_equal(e.msg, "unknown field");
    assert_int_equal(msg_read_key(&r, "pool", names, 2, &seen, &e), ASSAY_EBADREQ);
    assert_string_equal(e.field, "pool.");
    assert_int_equal(msg_read_key(&r, "", names, 2, &seen, &e), ASSAY_EBADREQ);
    assert_string_equal(e.msg, "expected a string as a map's key, found an integer");
    r.at++;
    assert_int_equal(msg_read_key(&r, "", names, 2, &seen, &e), ASSAY_EBADMSG);
    r.at = r.end;
    assert_int_equal(msg_read_key(&r, "", names, 2, &seen, &e), ASSAY_EBADMSG);
    drop(&r);
}

static void write_one_of_each(struct msg_writer *w)
{
    msg_map(w, 9);
    msg_key_str(w, "s", "h\xc3\xa9");
    msg_key_int(w, "i", INT64_MIN);
    msg_key_bool(w, "b", 1);
    msg_key_float(w, "f", -2.5f);
    msg_str(w, "u");
    msg_uint(w, UINT64_MAX);
    msg_str(w, "n");
    msg_nil(w);
    msg_str(w, "bin");
    msg_bin(w, "\0\xff", 2);
    msg_str(w, "empty");
    msg_array(w, 3);
    msg_bin(w, NULL, 0);
    msg_str_len(w, NULL, 0);
    msg_raw(w, (struct slice){(const uint8_t *)"\x90", 1});
    msg_str(w, "f32");
    msg_float(w, 0.1f);
}

static void what_is_written_is_read(void **state)
{
    (void)state;
    static const char *const names[] = {"s", "i", "b", "f", "u", "n", "bin", "empty", "f32"};
    struct msg_writer w;
    struct err e;
    uint64_t seen = 0, u = 0;
    uint32_t n = 0;
    struct slice s;
    int64_t v = 0;
    double d = 0;
    int flag = 0;
    msg_writer_init(&w);
    write_one_of_each(&w);
    msg_writer_clear(&w);
    write_one_of_each(&w);
    struct msg_reader r = on_heap(w.buffer.data, w.buffer.size);
    assert_int_equal(msg_read_map(&r, "", &n, &e), 0);
    assert_int_equal(n, 9);
    assert_int_equal(msg_read_key(&r, "", names, 9, &seen, &e), 0);
    assert_int_equal(msg_read_str(&r, "s", &s, &e), 0);
    assert_int_equal(s.len, 3);
    assert_int_equal(msg_read_key(&r, "", names, 9, &seen, &e), 1);
    assert_int_equal(msg_read_int(&r, "i", INT64_MIN, 0, &v, &e), 0);
    assert_true(v == INT64_MIN);
    assert_int_equal(msg_read_key(&r, "", names, 9, &seen, &e), 2);
    assert_int_equal(msg_read_bool(&r, "b", &flag, &e), 0);
    assert_int_equal(flag, 1);
    assert_int_equal(msg_read_key(&r, "", names, 9, &seen, &e), 3);
    assert_int_equal(*r.at, 0xca); /* float 32, never a double */
    assert_int_equal(msg_read_float(&r, "f", &d, &e), 0);
    assert_true(d == -2.5);
    assert_int_equal(msg_read_key(&r, "", names, 9, &seen, &e), 4);
    assert_int_equal(msg_read_uint64(&r, "u", &u, &e), 0);
    assert_true(u == UINT64_MAX);
    assert_int_equal(msg_read_key(&r, "", names, 9, &seen, &e), 5);
    assert_int_equal(msg_peek(&r), MSG_NIL);
    assert_int_equal(msg_read_raw(&r, "n", 1, &s, &e), 0);
    assert_int_equal(msg_read_key(&r, "", names, 9, &seen, &e), 6);
    assert_int_equal(msg_read_bin(&r, "bin", &s, &e), 0);
    assert_memory_equal(s.at, "\0\xff", 2);
    assert_int_equal(msg_read_key(&r, "", names, 9, &seen, &e), 7);
    assert_int_equal(msg_read_raw(&r, "empty", 2, &s, &e), 0);
    assert_int_equal(s.len, 1 + 2 + 1 + 1);
    assert_int_equal(msg_read_key(&r, "", names, 9, &seen, &e), 8);
    assert_int_equal(msg_read_float(&r, "f32", &d, &e), 0);
    assert_true((float)d == 0.1f);
    assert_int_equal(msg_read_end(&r, &e), 0);
    drop(&r);
    msg_writer_release(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_first_byte_has_its_type),
        cmocka_unit_test(integers_of_every_width),
        cmocka_unit_test(integers_out_of_range_are_refused_with_the_numbers),
        cmocka_unit_test(floats_are_not_integers_nor_the_other_way),
        cmocka_unit_test(another_type_is_named),
        cmocka_unit_test(extension_types_and_c1_are_refused),
        cmocka_unit_test(strings_are_utf8),
        cmocka_unit_test(keys_are_known_and_come_once),
        cmocka_unit_test(what_is_written_is_read),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
