/* test_control.c - what broker and ranks say to each other comes back as it was sent, and nothing
 * else does. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "schema/control.h"
#include "schema/msg.h"

static const struct control sample = {
    .type = CONTROL_DONE,
    .rank = 3,
    .incarnation = UINT64_MAX,
    .token = {UINT64_MAX, 2, 3, UINT32_MAX, 5},
    .digest = 0x8000000000000001u,
    .ms = UINT32_MAX,
    .busy_us = 1,
    .up_us = UINT64_MAX,
    .tokens = UINT64_MAX - 1,
    .reused = 7,
    .kv_bytes = 1ull << 40,
    .pid = INT32_MAX,
    .threads = 8,
    .code = 78,
    .device = "cpu avx2",
    .mode = "device=cpu",
    .checkpoint = "0f1e",
    .message = "h\xc3\xa9",
};

static int decode_copy(const void *bytes, size_t len, struct control *c, struct err *e)
{
    uint8_t *copy = malloc(len ? len : 1);
    memcpy(copy, bytes, len);
    int rc = control_decode(c, copy, len, e);
    free(copy);
    return rc;
}

static void assert_same(const struct control *a, const struct control *b)
{
    assert_int_equal(a->type, b->type);
    assert_int_equal(a->rank, b->rank);
    assert_true(a->incarnation == b->incarnation);
    assert_true(stage_token_equal(&a->token, &b->token));
    assert_true(a->digest == b->digest);
    assert_int_equal(a->ms, b->ms);
    assert_true(a->busy_us == b->busy_us && a->up_us == b->up_us);
    assert_true(a->tokens == b->tokens && a->reused == b->reused && a->kv_bytes == b->kv_bytes);
    assert_int_equal(a->pid, b->pid);
    assert_int_equal(a->threads, b->threads);
    assert_int_equal(a->code, b->code);
    assert_string_equal(a->device, b->device);
    assert_string_equal(a->mode, b->mode);
    assert_string_equal(a->checkpoint, b->checkpoint);
    assert_string_equal(a->message, b->message);
}

static void every_type_comes_back(void **state)
{
    (void)state;
    struct msg_writer w;
    struct err e;
    msg_writer_init(&w);
    for (int type = CONTROL_READY; type <= CONTROL_STOP; type++) {
        struct control sent = sample, got;
        sent.type = (enum control_type)type;
        control_encode(&sent, &w);
        assert_int_equal(decode_copy(w.buffer.data, w.buffer.size, &got, &e), 0);
        assert_same(&sent, &got);
    }
    struct control empty = {.type = CONTROL_STOP}, got;
    control_encode(&empty, &w);
    assert_int_equal(decode_copy(w.buffer.data, w.buffer.size, &got, &e), 0);
    assert_same(&empty, &got);
    msg_writer_release(&w);
}

static void longest_texts_fit(void **state)
{
    (void)state;
    struct msg_writer w;
    struct control sent = sample, got;
    memset(sent.device, 'd', sizeof sent.device - 1);
    memset(sent.message, 'm', sizeof sent.message - 1);
    msg_writer_init(&w);
    control_encode(&sent, &w);
    assert_int_equal(decode_copy(w.buffer.data, w.buffer.size, &got, NULL), 0);
    assert_same(&sent, &got);
    msg_writer_release(&w);
}

static void cut_or_longer_is_refused(void **state)
{
    (void)state;
    struct msg_writer w;
    struct control got;
    struct err e;
    msg_writer_init(&w);
    control_encode(&sample, &w);
    for (size_t cut = 0; cut < w.buffer.size; cut++)
        assert_int_equal(decode_copy(w.buffer.data, cut, &got, &e), ASSAY_EBADMSG);
    msg_nil(&w);
    assert_int_equal(decode_copy(w.buffer.data, w.buffer.size, &got, &e), ASSAY_EBADMSG);
    msg_writer_release(&w);
}

static const char *const keys[] = {"t", "rank", "incarnation", "token", "digest", "ms", "busy_us",
    "up_us", "tokens", "reused", "kv_bytes", "pid", "threads", "code", "device", "mode",
    "checkpoint", "message"};

/* A good message whose field `at` (-1: none) has the value that `raw` holds, or is left out when
 * raw is empty. */
static int with_field(int at, struct slice raw, struct err *e)
{
    struct msg_writer w;
    struct control got;
    int left_out = at >= 0 && raw.len == 0;
    msg_writer_init(&w);
    msg_map(&w, (uint32_t)(18 - left_out));
    for (int i = 0; i < 18; i++) {
        if (i == at && left_out)
            continue;
        msg_str(&w, keys[i]);
        if (i == at)
            msg_raw(&w, raw);
        else if (i == 0)
            msg_str(&w, "run");
        else if (i == 3)
            msg_raw(&w, (struct slice){(const uint8_t *)"\x95\x01\x02\x03\x04\x05", 6});
        else if (i >= 14)
            msg_str(&w, "");
        else
            msg_int(&w, i);
    }
    int rc = decode_copy(w.buffer.data, w.buffer.size, &got, e);
    msg_writer_release(&w);
    return rc;
}

#define RAW(literal) ((struct slice){(const uint8_t *)literal, sizeof literal - 1})

static void each_field_has_its_type_and_range(void **state)
{
    (void)state;
    struct err e;
    assert_int_equal(with_field(-1, RAW(""), &e), 0);
    for (int i = 0; i < 18; i++) {
        assert_int_equal(with_field(i, RAW(""), &e), ASSAY_EBADREQ);
        assert_int_equal(with_field(i, RAW("\xc0"), &e), ASSAY_EBADREQ);
        assert_string_equal(e.field, keys[i]);
        assert_int_equal(with_field(i, RAW("\xca\x00\x00\x00\x00"), &e), ASSAY_EBADREQ);
        assert_string_equal(e.field, keys[i]);
        assert_int_equal(with_field(i, RAW("\xd4\x01\x00"), &e), ASSAY_EBADMSG);
        if (i != 0 && i < 14) {
            assert_int_equal(with_field(i, RAW("\xff"), &e), ASSAY_EBADREQ);
            assert_string_equal(e.field, keys[i]);
        }
    }
    assert_int_equal(with_field(1, RAW("\xce\x80\x00\x00\x00"), &e), ASSAY_EBADREQ);
    assert_int_equal(with_field(5, RAW("\xcf\x00\x00\x00\x01\x00\x00\x00\x00"), &e), ASSAY_EBADREQ);
    assert_int_equal(with_field(0, RAW("\xa3yes"), &e), ASSAY_EBADREQ);
    assert_int_equal(with_field(0, RAW("\xa4run\0"), &e), ASSAY_EBADREQ);
    assert_int_equal(with_field(0, RAW("\xb4runrunrunrunrunrunru"), &e), ASSAY_EBADREQ);
    assert_int_equal(with_field(15,
                         RAW("\xa3"
                             "a\0b"),
                         &e),
        ASSAY_EBADREQ);
    assert_int_equal(with_field(15, RAW("\xa2\xc3z"), &e), ASSAY_EBADMSG);
}

static void a_token_has_five_numbers(void **state)
{
    (void)state;
    struct err e;
    assert_int_equal(with_field(3, RAW("\x94\x01\x02\x03\x04"), &e), ASSAY_EBADREQ);
    assert_string_equal(e.msg, "expected 5 numbers, found 4");
    assert_int_equal(with_field(3, RAW("\x96\x01\x02\x03\x04\x05\x06"), &e), ASSAY_EBADREQ);
    assert_int_equal(with_field(3, RAW("\x95\x01\x02\x03\x04\xc0"), &e), ASSAY_EBADREQ);
    assert_int_equal(
        with_field(3, RAW("\x95\x01\x02\x03\xcf\0\0\0\x01\0\0\0\0\x05"), &e), ASSAY_EBADREQ);
    assert_int_equal(with_field(3, RAW("\xdd\xff\xff\xff\xff"), &e), ASSAY_EBADMSG);
}

static void texts_too_long_are_refused_not_cut(void **state)
{
    (void)state;
    struct err e;
    uint8_t text[2 + 64] = {0xd9, 64};
    memset(text + 2, 'd', 64);
    assert_int_equal(with_field(14, (struct slice){text, sizeof text}, &e), ASSAY_EBADREQ);
    assert_string_equal(e.field, "device");
    text[1] = 63;
    assert_int_equal(with_field(14, (struct slice){text, sizeof text - 1}, &e), 0);
}

static void other_maps_are_refused(void **state)
{
    (void)state;
    struct control got;
    struct err e;
    static const struct slice cases[] = {{(const uint8_t *)"\x80", 1}, {(const uint8_t *)"\x90", 1},
        {(const uint8_t *)"\x81\xa1x\x01", 4}, {(const uint8_t *)"\x82\xa2ms\x01\xa2ms\x01", 9},
        {(const uint8_t *)"\x81\x01\x01", 3}, {(const uint8_t *)"\xdf\xff\xff\xff\xff", 5}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        assert_true(decode_copy(cases[i].at, cases[i].len, &got, &e) < 0);
}

static void tokens_differ_in_any_part(void **state)
{
    (void)state;
    const struct stage_token t = sample.token;
    struct stage_token other[5] = {t, t, t, t, t};
    other[0].epoch++;
    other[1].incarnation++;
    other[2].sequence++;
    other[3].slot--;
    other[4].generation++;
    assert_true(stage_token_equal(&t, &sample.token));
    for (int i = 0; i < 5; i++)
        assert_false(stage_token_equal(&t, &other[i]));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_type_comes_back),
        cmocka_unit_test(longest_texts_fit),
        cmocka_unit_test(cut_or_longer_is_refused),
        cmocka_unit_test(each_field_has_its_type_and_range),
        cmocka_unit_test(a_token_has_five_numbers),
        cmocka_unit_test(texts_too_long_are_refused_not_cut),
        cmocka_unit_test(other_maps_are_refused),
        cmocka_unit_test(tokens_differ_in_any_part),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
