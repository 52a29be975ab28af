/* test_http_multipart.c - parts of forms, cut anywhere, and what is no form. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "broker/http/multipart.h"

struct seen {
    char text[1024];
    size_t n;
};

static void put(struct seen *s, const char *bytes, size_t n)
{
    assert_true(s->n + n < sizeof s->text);
    memcpy(s->text + s->n, bytes, n);
    s->n += n;
    s->text[s->n] = '\0';
}

static void begin(void *arg, const struct multipart_part *part)
{
    char text[256];
    int n = snprintf(text, sizeof text, "[%s|%s|%s]", part->name,
        part->filename ? part->filename : "none", part->encoding);
    put(arg, text, (size_t)n);
}

static void take(void *arg, const char *bytes, size_t n)
{
    put(arg, bytes, n);
}

/* Feeds the form in two pieces. Returns what was seen, "" for what is refused, "cut" where the end is
 * not there. */
static void feed(const char *type, const char *form, size_t len, size_t cut, struct seen *s)
{
    struct multipart_taker taker = {begin, take, s};
    struct multipart *m;
    struct err e = {0};
    s->n = 0;
    s->text[0] = '\0';
    if (multipart_new(&m, type, &taker, &e) != 0) {
        assert_true(e.code == ASSAY_EBADREQ && !m);
        return;
    }
    if (multipart_feed(m, form, cut, &e) != 0 || multipart_feed(m, form + cut, len - cut, &e) != 0)
        s->text[0] = '\0';
    else if (!multipart_is_whole(m))
        strcpy(s->text, "cut");
    multipart_free(&m);
}

static void expect(const char *type, const char *form, const char *wanted)
{
    struct seen s;
    size_t len = strlen(form);
    for (size_t cut = 0; cut <= len; cut++) {
        feed(type, form, len, cut, &s);
        if (strcmp(s.text, wanted) != 0)
            fail_msg("%s, cut at %zu: expected %s, found %s", type, cut, wanted, s.text);
    }
}

#define HEAD(name) "Content-Disposition: form-data; name=\"" name "\"\r\n\r\n"
#define FORM "--b\r\n" HEAD("a") "1\r\n--b\r\n" HEAD("c") "\r\n--b--"

static void types(void **state)
{
    static const char *const good[] = {"multipart/form-data; boundary=b",
        "multipart/form-data;boundary=\"b\"", "Multipart/Form-Data; Boundary=b",
        "multipart/form-data; BOUNDARY = \"b\" ; charset=utf-8",
        "multipart/form-data; charset=\"x;boundary=y\"; boundary=b; a=b",
        "multipart/form-data; boundary=\"\\b\""};
    static const char *const bad[] = {"multipart/form-data",
        "multipart/form-data; boundary=", "multipart/form-data; boundary",
        "multipart/form-data; xboundary=b", "multipart/form-data; boundary=\"\""};
    char endless[400];
    (void)state;
    for (size_t k = 0; k < 5; k++)
        expect(good[k], FORM, "[a|none|]1[c|none|]");
    expect(good[5], "--\\b\r\n" HEAD("a") "1\r\n--\\b--", "[a|none|]1");
    for (size_t k = 0; k < sizeof bad / sizeof bad[0]; k++)
        expect(bad[k], FORM, "");
    snprintf(endless, sizeof endless, "multipart/form-data; boundary=%0300d", 0);
    expect(endless, FORM, "");
}

static void parts(void **state)
{
    static const char type[] = "multipart/form-data; boundary=b";
    (void)state;
    expect(type, FORM "\r\n", "[a|none|]1[c|none|]");
    expect(type, "a preamble\r\n" FORM "\r\nan epilogue\r\n--b\r\n", "[a|none|]1[c|none|]");
    expect(type, "\r\n--b  \t\r\n" HEAD("a") "1\r\n--b-- ", "[a|none|]1");
    expect(type, "--b\r\n" HEAD("a") "1\r\n--bc\r\n--b-\r\n--\r\r\n-\r\n--b x\r\n--b--",
        "[a|none|]1\r\n--bc\r\n--b-\r\n--\r\r\n-\r\n--b x");
    expect(type,
        "--b\r\nX: y\r\ncontent-disposition: form-data; name=file; FILENAME=\"a \\\"b\\\".c\"\r\n"
        "Content-Transfer-Encoding: 8bit\r\n\r\n\r\n\r\n--b--",
        "[file|a \"b\".c|8bit]\r\n");
    expect(type, "--b\r\n\r\nno head\r\n--b--", "[|none|]no head");
    expect(type, "--b\r\n" HEAD("a") "1\r\n--b", "cut");
    expect(type, "--b\r\n" HEAD("a") "1", "cut");
    expect(type, "", "cut");
    expect(type, "--B\r\n" HEAD("a") "1\r\n--B--", "cut");
}

/* What nobody would send is not read for ever. */
static void bounds(void **state)
{
    static char endless[MULTIPART_AROUND_BYTES + 100];
    static const char type[] = "multipart/form-data; boundary=b";
    struct seen s;
    (void)state;
    memset(endless, 'x', sizeof endless - 1);
    feed(type, endless, sizeof endless - 1, 1000, &s);
    assert_string_equal(s.text, "");
    memcpy(endless, "--b\r\n\r\n\r\n--b--", 14);
    feed(type, endless, sizeof endless - 1, 1000, &s);
    assert_string_equal(s.text, "");
    memcpy(endless, "--b\r\nX: ", 8);
    memset(endless + 8, 'x', 20);
    feed(type, endless, MULTIPART_HEAD_BYTES + 100, 1000, &s);
    assert_string_equal(s.text, "");
    feed(type, "--b\r\nX: \0\r\n\r\n--b--", 19, 3, &s);
    assert_string_equal(s.text, "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(types),
        cmocka_unit_test(parts),
        cmocka_unit_test(bounds),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
