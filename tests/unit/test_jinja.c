/* test_jinja.c - the interpreter of chat templates: against what jinja2 wrote
 * (tests/vectors/text/templates.json), its limits, its errors, and where text came from. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "broker/text/jinja.h"
#include "tests/unit/json_msgpack.h"

/* One evaluation without variables. Returns its code; the text's beginning is in `text`. */
static int write_text(const char *source, char *text, size_t size, struct err *e)
{
    struct jinja *t;
    struct jinja_text out = {0};
    struct jinja_run *r = jinja_run_new();
    *e = (struct err){0};
    int rc = jinja_parse(&t, slice_of(source), e);
    if (rc == 0) {
        jinja_begin(r, t);
        rc = jinja_write(r, &out, e);
    }
    snprintf(text, size, "%.*s", rc == 0 ? (int)out.len : 0, (const char *)out.at);
    jinja_run_free(&r);
    jinja_free(&t);
    return rc;
}

/* ---- against jinja2 ---- */

#define MAX_VARIABLES 32

struct packed {
    struct msg_writer at[MAX_VARIABLES];
    int n;
};

static void set_variables(struct jinja_run *r, const json_t *variables, struct packed *p)
{
    const char *key;
    json_t *v;
    struct err e = {0};
    p->n = 0;
    json_object_foreach((json_t *)variables, key, v)
    {
        assert_true(p->n < MAX_VARIABLES);
        struct msg_writer *w = &p->at[p->n++];
        msg_writer_init(w);
        pack_json(w, v);
        struct slice raw = {(const uint8_t *)w->buffer.data, w->buffer.size};
        assert_int_equal(jinja_set_msgpack(r, key, raw, &e), 0);
    }
}

static void check_vector(const json_t *all, const char *source, size_t len, const json_t *expected)
{
    struct jinja *t;
    struct jinja_text out = {0};
    struct packed packed = {.n = 0};
    struct err e = {0};
    struct jinja_run *r = jinja_run_new();
    int rc = jinja_parse(&t, (struct slice){(const uint8_t *)source, len}, &e);
    if (rc == 0) {
        jinja_begin(r, t);
        assert_int_equal(jinja_set_date(r, json_string_value(json_object_get(all, "date")), &e), 0);
        set_variables(r, json_object_get(all, "variables"), &packed);
        rc = jinja_write(r, &out, &e);
    }
    if (json_is_null(expected) != (rc != 0) ||
        (rc == 0 && (out.len != json_string_length(expected) ||
                        (out.len > 0 && memcmp(out.at, json_string_value(expected), out.len)))))
        fail_msg("%s\nexpected %s\nfound %.*s%s", source,
            json_is_null(expected) ? "(refused)" : json_string_value(expected), (int)out.len,
            (const char *)out.at, e.msg);
    if (rc != 0)
        assert_non_null(strstr(e.msg, "line "));
    while (packed.n > 0)
        msg_writer_release(&packed.at[--packed.n]);
    jinja_run_free(&r);
    jinja_free(&t);
}

static void texts_are_those_of_jinja2(void **state)
{
    (void)state;
    json_error_t why;
    json_t *all = json_load_file("tests/vectors/text/templates.json", JSON_ALLOW_NUL, &why);
    json_t *item, *source;
    size_t k;
    assert_non_null(all);
    json_array_foreach(json_object_get(all, "cases"), k, item)
    {
        source = json_array_get(item, 0);
        check_vector(
            all, json_string_value(source), json_string_length(source), json_array_get(item, 1));
    }
    assert_true(k >= 150);
    json_decref(all);
}

/* ---- errors ---- */

static void errors_name_line_and_reason(void **state)
{
    (void)state;
    static const struct {
        const char *source, *message;
    } cases[] = {
        {"a\n{% include 'x' %}", "line 2: the tag include"},
        {"{% for x in y recursive %}{% endfor %}", "line 1: recursive loops"},
        {"\n\n{{ x | tojsom }}", "line 3: the filter tojsom"},
        {"{{ x is strnig }}", "line 1: the test strnig"},
        {"{{ f(*x) }}", "line 1: * and **"},
        {"{% if x %}\n", "line 1: the block that begins here has no elif"},
        {"{{ 9223372036854775808 }}", "line 1: the integer 9223372036854775808"},
        {"{{ 9223372036854775807 + 1 }}", "line 1: integers beyond 64 bits"},
        {"\n{{ a.b }}", "line 2: 'a' is undefined"},
        {"{{ ''.__class__ }}", "the attribute __class__ of a str"},
        {"{{ {}.__class__ }}", "the attribute __class__ of a dict"},
        {"{{ 'x'.encode() }}", "the attribute encode of a str"},
        {"{{ '\xc3\x9f'.upper() }}", "upper of U+00DF"},
        {"{{ range(3) }}", "writing a range as text"},
        {"{{ strftime_now('%Y') }}", "--template-date"},
        {"{{ raise_exception('only\x1b[1m users') }}", "refuses the conversation: only?[1m users"},
        {"{{ '\xff' }}", "line 1: expected UTF-8"},
        {"{{ cycler('a') }}", "cycler is not supported"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char text[8];
        struct err e;
        int rc = write_text(cases[i].source, text, sizeof text, &e);
        assert_true(rc == ASSAY_EFORMAT || rc == ASSAY_EBADTEXT);
        if (!strstr(e.msg, cases[i].message))
            fail_msg("%s: expected '%s' in '%s'", cases[i].source, cases[i].message, e.msg);
    }
}

static void hostile_templates_end_soon(void **state)
{
    (void)state;
    static const char *const sources[] = {
        "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{{ 'x' * 1000000000 }}",
        "{{ [0] * 1000000000 }}",
        "{{ 'x'.center(1000000000) }}",
        "{{ range(1000000000) | list }}",
        "{{ [1] | slice(1000000000) | list }}",
        "{{ '%1000000000s' % 'x' }}",
        "{{ '{:>1000000000}'.format('x') }}",
        "{{ range(99999) | groupby('x.' * 99999, default='y') }}",
        "{% set ns = namespace(s='x') %}{% for i in range(99) %}{% set ns.s = ns.s ~ ns.s %}"
        "{% endfor %}",
        "{% set ns = namespace(s=[]) %}{% for i in range(99999) %}{% set ns.s = [ns.s] %}"
        "{% endfor %}{{ ns.s }}",
        "{% set ns = namespace(s=[]) %}{% for i in range(99999) %}{% set ns.s = ns.s + [i] %}"
        "{% endfor %}",
        "{% for i in range(99999) %}{{ 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa' * 999 }}"
        "{% endfor %}",
        "{{ 2 ** 1000000000 }}",
    };
    for (size_t i = 0; i < sizeof sources / sizeof sources[0]; i++) {
        char text[8];
        struct err e;
        clock_t begin = clock();
        int rc = write_text(sources[i], text, sizeof text, &e);
        double seconds = (double)(clock() - begin) / CLOCKS_PER_SEC;
        if (rc == 0 || seconds > 2)
            fail_msg("%s: code %d, %.3f s, %s", sources[i], rc, seconds, e.msg);
    }
}

static void deep_templates_are_refused(void **state)
{
    (void)state;
    static const char *const pieces[][2] = {{"(", ")"}, {"[", "]"}, {"-", ""}, {"not ", ""}};
    for (size_t k = 0; k < 4; k++) {
        char *source = calloc(1, 100000), text[8];
        struct err e;
        strcat(source, "{{ ");
        for (int i = 0; i < 5000; i++)
            strcat(source + strlen(source), pieces[k][0]);
        strcat(source, "1");
        for (int i = 0; i < 5000; i++)
            strcat(source + strlen(source), pieces[k][1]);
        strcat(source, " }}");
        assert_int_equal(write_text(source, text, sizeof text, &e), ASSAY_EFORMAT);
        free(source);
    }
}

static void long_chains_do_not_overflow(void **state)
{
    (void)state;
    char *source = calloc(1, 400000), text[8];
    struct err e;
    strcat(source, "{{ a");
    for (int i = 0; i < 50000; i++)
        memcpy(source + 4 + 4 * i, ".bcd", 4);
    strcat(source, " }}");
    assert_int_equal(write_text(source, text, sizeof text, &e), ASSAY_EBADTEXT);
    free(source);
}

/* ---- where text came from ---- */

/* Writes the text with the stretches of the input in brackets: [n:..] for source n, [..] for text
 * that was changed. */
static void show_marks(const struct jinja_text *t, char *shown)
{
    size_t i = 0;
    shown[0] = '\0';
    for (size_t k = 0; k < t->n_marks; k++) {
        const struct jinja_mark *m = &t->marks[k];
        assert_true(m->at >= i && m->at + m->len <= t->len);
        sprintf(shown + strlen(shown), "%.*s[", (int)(m->at - i), (const char *)t->at + i);
        if (m->source != JINJA_NO_SOURCE)
            sprintf(shown + strlen(shown), "%u+%zu:", m->source, m->from);
        sprintf(shown + strlen(shown), "%.*s]", (int)m->len, (const char *)t->at + m->at);
        i = m->at + m->len;
    }
    sprintf(shown + strlen(shown), "%.*s", (int)(t->len - i), (const char *)t->at + i);
}

static void text_of_the_input_is_known(void **state)
{
    (void)state;
    static const struct {
        const char *source, *shown;
    } cases[] = {
        {"<{{ m[0].content }}>", "<[7+0:  one two ]>"},
        {"{{ '<' + m[0].content + '>' }}", "<[7+0:  one two ]>"},
        {"{{ '<' ~ m[0].content | trim ~ '>' }}", "<[7+2:one two]>"},
        {"{{ m[0].content.split()[1] }}", "[7+6:two]"},
        {"{{ '%14s|{:.3}' .format(m[0].content) % m[0].content }}",
            "    [7+0:  one two ]|[7+0:  o]"},
        {"{{ m[0].content | truncate(6, true, '~', 0) }}", "[7+0:  one]~"},
        {"{{ (m | groupby('content') | first).grouper }}", "[7+0:  one two ]"},
        {"{{ m[0].content[3:5] }}", "[7+3:ne]"},
        {"{{ ('a' + m[0].content.strip() + 'b')[2:-2] }}", "[7+3:ne tw]"},
        {"{{ m[0].content.replace(' ', '_') }}", "__[7+2:one]_[7+6:two]_"},
        {"{{ m[0].content | upper }}", "[  ONE TWO ]"},
        {"{{ m[0].content | tojson }}", "\"[  one two ]\""},
        {"{{ [m[0].content] }}", "['[  one two ]']"},
        {"{% set x %}({{ m[0].content.strip() }}){% endset %}{{ x }}{{ x }}",
            "([7+2:one two])([7+2:one two])"},
        {"{% macro f(x) %}{{ x }}!{% endmacro %}{{ f(m[0].content[2:5]) }}", "[7+2:one]!"},
        {"{{ m | map(attribute='content') | join('|') | trim }}", "[7+2:one two]"},
        {"{{ '%s' % m[0].content[2:5] }}{{ '{}'.format(m[0].content[2:5]) }}",
            "[7+2:one][7+2:one]"},
        {"{{ m[0].content[::-1] }}", "[7+9: ][7+8:o][7+7:w][7+6:t][7+5: ][7+4:e][7+3:n][7+2:o]"
                                     "[7+1: ][7+0: ]"},
        {"{{ m[0].content.strip() | indent(first=true) }}", "    [7+2:one two]"},
        {"{{ m[0].role }}", "[user]"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct jinja *t;
        struct jinja_text out;
        struct err e = {0};
        char shown[400];
        struct jinja_run *r = jinja_run_new();
        assert_int_equal(jinja_parse(&t, slice_of(cases[i].source), &e), 0);
        jinja_begin(r, t);
        struct jinja_value *list = jinja_set_list(r, "m", 1);
        struct jinja_value *map = jinja_add_map(r, list, 2);
        jinja_put_text(r, map, "role", slice_of("user"), JINJA_NO_SOURCE);
        jinja_put_text(r, map, "content", slice_of("  one two "), 7);
        if (jinja_write(r, &out, &e) != 0)
            fail_msg("%s: %s", cases[i].source, e.msg);
        show_marks(&out, shown);
        assert_string_equal(shown, cases[i].shown);
        jinja_run_free(&r);
        jinja_free(&t);
    }
}

static void dates_are_checked(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "", "2024-7-26", "2024-02-30", "2023-02-29", "2024-07-26x", "2024/07/26", "today"};
    struct jinja_run *r = jinja_run_new();
    struct err e;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        assert_int_equal(jinja_set_date(r, bad[i], &e), ASSAY_EFORMAT);
    assert_int_equal(jinja_set_date(r, "2024-02-29", &e), 0);
    jinja_run_free(&r);
}

static void words_are_found(void **state)
{
    (void)state;
    struct jinja *t;
    struct err e;
    assert_int_equal(
        jinja_parse(&t, slice_of("{{ tools }}{{ m['tool_calls'] }}{{ x.y }} z"), &e), 0);
    assert_true(jinja_mentions(t, "tools") && jinja_mentions(t, "tool_calls"));
    assert_true(jinja_mentions(t, "y") && !jinja_mentions(t, "z"));
    jinja_free(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(texts_are_those_of_jinja2),
        cmocka_unit_test(errors_name_line_and_reason),
        cmocka_unit_test(hostile_templates_end_soon),
        cmocka_unit_test(deep_templates_are_refused),
        cmocka_unit_test(long_chains_do_not_overflow),
        cmocka_unit_test(text_of_the_input_is_known),
        cmocka_unit_test(dates_are_checked),
        cmocka_unit_test(words_are_found),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
