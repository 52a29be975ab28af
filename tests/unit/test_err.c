/* test_err.c - errors are filled whole, cut where they must be, and always fit to be shown. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <errno.h>
#include <cmocka.h>

#include "schema/err.h"
#include "schema/utf8.h"

static void set_fills_code_and_text(void **state)
{
    (void)state;
    struct err e = {.code = 7, .retry_after_ms = 9, .field = "old"};
    assert_int_equal(err_set(&e, ASSAY_EBADMSG, "%s: %u > %u", "tokens", 5u, 4u), ASSAY_EBADMSG);
    assert_int_equal(e.code, ASSAY_EBADMSG);
    assert_string_equal(e.msg, "tokens: 5 > 4");
    assert_string_equal(e.field, "");
    assert_int_equal(e.retry_after_ms, 0);
    assert_int_equal(err_field(&e, ASSAY_EBADREQ, "rows[3].ids", "none"), ASSAY_EBADREQ);
    assert_string_equal(e.field, "rows[3].ids");
}

static void no_err_is_allowed(void **state)
{
    (void)state;
    errno = EIO;
    assert_int_equal(err_set(NULL, ASSAY_EINTERNAL, "x"), ASSAY_EINTERNAL);
    assert_int_equal(err_field(NULL, ASSAY_EBADREQ, "f", "x"), ASSAY_EBADREQ);
    assert_int_equal(err_errno(NULL, ASSAY_EIO, "x"), ASSAY_EIO);
}

static void errno_is_named_and_a_full_disk_is_full(void **state)
{
    (void)state;
    struct err e;
    errno = ENOENT;
    assert_int_equal(err_errno(&e, ASSAY_EIO, "open '%s'", "f"), ASSAY_EIO);
    assert_string_equal(e.msg, "open 'f': No such file or directory");
    errno = ENOSPC;
    assert_int_equal(err_errno(&e, ASSAY_EIO, "write"), ASSAY_EFULL);
    assert_int_equal(e.code, ASSAY_EFULL);
    errno = EDQUOT;
    assert_int_equal(err_errno(&e, ASSAY_EIO, "write"), ASSAY_EFULL);
}

static int is_utf8(const char *s)
{
    for (size_t left = strlen(s); left > 0;) {
        int len = utf8_length((const uint8_t *)s, left);
        if (len == 0)
            return 0;
        s += len;
        left -= (size_t)len;
    }
    return 1;
}

/* Two-byte characters after an odd number of bytes: the cut falls inside one. */
static void a_cut_leaves_utf8(void **state)
{
    (void)state;
    struct err e;
    char text[2000] = "";
    for (size_t i = 0; i < sizeof text - 3; i += 2)
        memcpy(text + i, "\xc3\xa9", 3);
    for (int odd = 0; odd < 2; odd++) {
        err_field(&e, ASSAY_EBADREQ, text + 2 * odd, "%s%s", odd ? "x" : "", text);
        assert_int_equal(strlen(e.msg), ERR_MESSAGE_BYTES - 1);
        assert_int_equal(strlen(e.field), ERR_FIELD_BYTES - 1);
        assert_true(is_utf8(e.msg));
        assert_true(is_utf8(e.field));
    }
}

static void what_a_peer_sent_is_made_printable(void **state)
{
    (void)state;
    struct err e;
    err_field(&e, ASSAY_EBADREQ, "a\nb\x1b[31m", "%s",
        "\xff ok \xc3\xa9 \xed\xa0\x80 \xf4\x90\x80\x80 \xc0\x80 \x7f\xe2\x82");
    assert_string_equal(e.field, "a?b?[31m");
    assert_string_equal(e.msg, "? ok \xc3\xa9 ??? ???? ?? ???");
}

static void utf8_edges(void **state)
{
    (void)state;
    static const struct {
        const char *bytes;
        int length;
    } cases[] = {{"a", 1}, {"\x7f", 1}, {"\x80", 0}, {"\xbf", 0}, {"\xc1\xbf", 0}, {"\xc2\x80", 2},
        {"\xdf\xbf", 2}, {"\xe0\x9f\xbf", 0}, {"\xe0\xa0\x80", 3}, {"\xed\x9f\xbf", 3},
        {"\xed\xa0\x80", 0}, {"\xed\xbf\xbf", 0}, {"\xee\x80\x80", 3}, {"\xf0\x8f\xbf\xbf", 0},
        {"\xf0\x90\x80\x80", 4}, {"\xf4\x8f\xbf\xbf", 4}, {"\xf4\x90\x80\x80", 0},
        {"\xf8\x88\x80\x80", 0}, {"\xff", 0}, {"\xc3z", 0}, {"\xe2\x82z", 0}, {"\xf0\x9f\x98z", 0}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const uint8_t *p = (const uint8_t *)cases[i].bytes;
        size_t n = strlen(cases[i].bytes);
        assert_int_equal(utf8_length(p, n), cases[i].length);
        if (cases[i].length > 1)
            assert_int_equal(utf8_length(p, n - 1), 0);
    }
    assert_int_equal(utf8_length((const uint8_t *)"\0", 1), 1);
}

/* The names are the protocol's: a change here breaks clients and readers of the database. */
static void names_on_the_wire(void **state)
{
    (void)state;
    static const struct {
        int code;
        const char *name;
    } names[] = {{ASSAY_OK, "ok"}, {ASSAY_EBADMSG, "bad_message"}, {ASSAY_EBADREQ, "bad_request"},
        {ASSAY_EUNSUPPORTED, "unsupported"}, {ASSAY_EUNKNOWNJOB, "unknown_job"},
        {ASSAY_EKEYREUSED, "key_reused"}, {ASSAY_ETOOLONG, "too_long"},
        {ASSAY_ETOOLARGE, "too_large"}, {ASSAY_EQUEUEFULL, "queue_full"},
        {ASSAY_ENOTREADY, "not_ready"}, {ASSAY_EUNAUTHORIZED, "unauthorized"},
        {ASSAY_EINTERNAL, "internal"}, {ASSAY_ETIMEOUT, "timeout"}, {ASSAY_ESTATE, "wrong_state"},
        {ASSAY_EBADTOKEN, "bad_token"}, {ASSAY_ENOTOKENS, "no_tokens"},
        {ASSAY_ENOSTEP, "no_step_token"}, {ASSAY_EADAPTER, "unknown_adapter"},
        {ASSAY_EBADTEXT, "bad_text"}, {ASSAY_ENONFINITE, "non_finite"},
        {ASSAY_EKILLED, "worker_killed"}, {ASSAY_EPOSITION, "bad_position"},
        {ASSAY_EFULL, "queue_full"}, {ASSAY_EIO, "internal"}, {ASSAY_ENOMEM, "internal"},
        {-12345, "internal"}, {1, "internal"}};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        assert_string_equal(err_name(names[i].code), names[i].name);
}

static void names_are_read_back(void **state)
{
    (void)state;
    for (int code = -1; code > ASSAY_ELOCAL; code--) {
        const char *name = err_name(code);
        int again = strcmp(name, "internal") == 0 ? ASSAY_EINTERNAL : code;
        assert_int_equal(err_code(name, strlen(name)), again);
    }
    assert_int_equal(err_code("unknown_model", 13), ASSAY_EMODEL);
    assert_int_equal(err_code("unknown_model", 12), ASSAY_EINTERNAL);
    assert_int_equal(err_code("ok", 2), ASSAY_EINTERNAL);
    assert_int_equal(err_code(NULL, 0), ASSAY_EINTERNAL);
}

static void what_a_terminal_acts_on_is_not_shown(void **state)
{
    (void)state;
    char text[] = "a\x1b\x7f\xc2\x9b|\xe2\x80\xae|\xe2\x81\xa6|\xd8\x9c|\xe2\x80\xa8|"
                  "\xe2\x80\x8b\xc3\xa9\xe2\x80\xaf\xff";
    utf8_make_printable(text);
    assert_string_equal(text, "a???|?|?|?|?|\xe2\x80\x8b\xc3\xa9\xe2\x80\xaf?");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_a_terminal_acts_on_is_not_shown),
        cmocka_unit_test(set_fills_code_and_text),
        cmocka_unit_test(no_err_is_allowed),
        cmocka_unit_test(errno_is_named_and_a_full_disk_is_full),
        cmocka_unit_test(a_cut_leaves_utf8),
        cmocka_unit_test(what_a_peer_sent_is_made_printable),
        cmocka_unit_test(utf8_edges),
        cmocka_unit_test(names_on_the_wire),
        cmocka_unit_test(names_are_read_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
