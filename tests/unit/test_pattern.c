/* test_pattern.c - split patterns: what is refused, what matches, limits. (That the pieces are the
 * reference's is shown in tests/e2e/test_patterns.py.) */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "broker/text/pattern.h"
#include "broker/text/pattern_syntax.h"

static struct slice text_slice(const char *text)
{
    return (struct slice){(const uint8_t *)text, strlen(text)};
}

/* Expects these matches, separated by '/'. */
static void matches(const char *pattern, const char *text, const char *expected)
{
    struct pattern *p;
    struct pattern_matcher *m = pattern_matcher_new();
    struct err e = {0};
    struct span s;
    struct buffer found = {0};
    if (pattern_new(&p, pattern, &e) != 0)
        fail_msg("%s: refused: %s", pattern, e.msg);
    pattern_begin(m, p, text_slice(text));
    while (pattern_next(m, &s, &e) == 1) {
        buffer_append(&found, text + s.begin, s.end - s.begin);
        buffer_text(&found, "/");
    }
    buffer_append(&found, "", 1);
    assert_int_equal(e.code, 0);
    if (strcmp((const char *)found.at, expected) != 0)
        fail_msg("%s: expected '%s', found '%s'", pattern, expected, found.at);
    buffer_release(&found);
    pattern_matcher_free(&m);
    pattern_free(&p);
}

/* As Oniguruma 6.9 by way of tokenizers 0.23.3 has them. */
static void patterns_mean_what_the_reference_means(void **state)
{
    (void)state;
    matches("a{1,3}+", "aaaaab", "aaaaa/");
    matches("(?:ab){2,3}+", "ababababab", "ababababab/");
    matches("a{,2}b", "aab", "aab/");
    matches("\\s+$", "x  \ny \n", "  / \n/");
    matches("(?i:k)", "kK\u212ax", "k/K/\u212a/");
    matches("'(?i:[st])", "'s'T'\u017f", "'s/'T/'\u017f/");
    matches("\\v", "a\vb\nc", "\v/");
    matches("[a-z&&[^c]]", "abcd", "a/b/d/");
    matches("[^a&&[^b]]", "abc", "b/c/");
    matches("\\w", "a\u00b2\u200d", "a/\u00b2/");
    matches("[\\w]", "a\u00b2\u200d", "a/");
    matches("\\p{^L}", "a1", "1/");
    matches("\\P{L}+", "a12b", "12/");
    matches("(?<=a)b|c", "abcb", "b/c/");
    matches(".+", "ab\nc", "ab/c/");
    matches("[a-][-b][\\]\\-]", "a-]--- -b-", "a-]/---/-b-/");
    matches("\\x41\\x{4e2d}\\u00e9", "A\u4e2d\u00e9", "A\u4e2d\u00e9/");
    matches("(?>a+)b|a", "aaab aa", "aaab/a/a/");
    matches("\\p{Han}+", "a\u4e2d\u6587b", "\u4e2d\u6587/");
}

static void what_cannot_be_honoured_is_named(void **state)
{
    (void)state;
    static const struct {
        const char *pattern, *words;
    } cases[] = {{"\\bx", "'\\bx' at byte 0"}, {"^a", "'^a' at byte 0"}, {"(a)\\1", "'\\1'"},
        {"[[:alpha:]]", "POSIX"}, {"(?<n>a)", "kind"}, {"(?m:a)", "kind"}, {"a(?i)b", "kind"},
        {"\\hx", "escape"}, {"\\R", "escape"}, {"\\p{Greek}", "category"},
        {"\\pL", "expected \\p{"}, {"a**", "quantifier on"}, {"a{2}?", "quantifier on"},
        {"a{2,1}", "smaller"}, {"a{2000}", "1000"}, {"a*", "may match nothing"},
        {"a|", "may match nothing"}, {"", "nothing"}, {"(a*)+b", "a repetition of what may"},
        {"(?=a)+b", "a repetition of what may"}, {"$", "may match nothing"},
        {"(?i:ss)", "may stand"}, {"(?i:(f)i)", "may stand"}, {"(?i:s+)", "may stand"},
        {"(?i:\u00e9)", "ASCII"}, {"(?i:[^a])", "ASCII"}, {"a{", "'{'"}, {"a{x", "'{x'"},
        {"a]", "']'"}, {"[]a]", "expected characters"}, {"[a", "expected characters"},
        {"[a-", "expected the end of a range"}, {"[b-a]", "expected the end of a range"},
        {"[\\s-a]", "hyphen"}, {"[a-c-e]", "hyphen"}, {"[--a]", "hyphen"},
        {"[a&&]", "expected characters"}, {"(a", "closing"}, {"a)", "not opened"}, {"\\", "escape"},
        {"\\x", "number"}, {"\\x{110000}", "number"}, {"\\x{d800}", "number"},
        {"\\xe9", "up to 7f"}, {"\\u12", "four digits"}, {"\\p{L", "category"},
        {"(?<=a+)b", "PCRE2"}, {"*", "'*'"}, {"\\u00e9{", "'{'"}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct pattern *p;
        struct err e = {0};
        assert_int_equal(pattern_new(&p, cases[i].pattern, &e), ASSAY_EFORMAT);
        assert_null(p);
        if (!strstr(e.msg, cases[i].words))
            fail_msg("%s: expected '%s', found '%s'", cases[i].pattern, cases[i].words, e.msg);
    }
}

static void depth_and_sets_are_limited(void **state)
{
    (void)state;
    static const char *const opening[] = {"(", "["};
    for (int k = 0; k < 2; k++) {
        struct buffer text = {0};
        struct pattern *p;
        struct err e = {0};
        for (int i = 0; i < 50000; i++)
            buffer_text(&text, opening[k]);
        buffer_append(&text, "", 1);
        assert_int_equal(pattern_new(&p, (const char *)text.at, &e), ASSAY_EFORMAT);
        assert_non_null(strstr(e.msg, "too deep"));
        buffer_release(&text);
    }
    struct pattern *p;
    struct err e = {0};
    assert_int_equal(
        pattern_new(&p, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789,;:", &e),
        ASSAY_EFORMAT);
    assert_non_null(strstr(e.msg, "64 different sets"));
}

/* A pattern that would take the age of the world is an error of that text. */
static void steps_are_limited(void **state)
{
    (void)state;
    struct pattern *p;
    struct pattern_matcher *m = pattern_matcher_new();
    struct err e = {0};
    struct span s;
    assert_int_equal(pattern_new(&p, "(?:a|a)+b|x", &e), 0);
    pattern_begin(m, p, text_slice("xaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"));
    assert_int_equal(pattern_next(m, &s, &e), 1);
    assert_int_equal(pattern_next(m, &s, &e), ASSAY_EBADTEXT);
    assert_non_null(strstr(e.msg, "byte 1: the tokenizer's pattern takes too many steps"));
    pattern_matcher_free(&m);
    pattern_free(&p);
}

static void sets_of_characters(void **state)
{
    (void)state;
    struct charset a = {0}, b = {0};
    charset_add(&a, 'a', 'c');
    charset_add(&a, 'e', 'e');
    charset_add(&a, 'd', 'd');
    assert_int_equal(a.n, 1);
    charset_add(&b, 'd', 'z');
    charset_add(&b, 0, 5);
    charset_intersect(&b, &a);
    assert_true(b.n == 1 && b.at[0].first == 'd' && b.at[0].last == 'e');
    charset_invert(&b);
    assert_true(charset_has(&b, 'a') && !charset_has(&b, 'd') && charset_has(&b, UNICODE_END - 1));
    charset_add(&b, 0, UNICODE_END - 1);
    charset_invert(&b);
    assert_int_equal(b.n, 0);
    charset_release(&a);
    charset_release(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(patterns_mean_what_the_reference_means),
        cmocka_unit_test(what_cannot_be_honoured_is_named),
        cmocka_unit_test(depth_and_sets_are_limited),
        cmocka_unit_test(steps_are_limited),
        cmocka_unit_test(sets_of_characters),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
