/* fuzz_template.c - any chat template with any value.
 *
 * An input is a msgpack array: the template's text, and the value of its variable `messages`. It is
 * refused with words, or its text is UTF-8 and its marks are in order and within it. The seeds are
 * some of its own and, run from the repository's root, every template of
 * tests/vectors/text/templates.json, one for each construct. */
#include "tests/fuzz/fuzz.h"

#include <assert.h>
#include <jansson.h>
#include <string.h>

#include "broker/text/jinja.h"
#include "schema/utf8.h"

static void check_text(const struct jinja_text *t)
{
    size_t end = 0;
    assert(utf8_valid(t->at, t->len) == t->len);
    for (size_t i = 0; i < t->n_marks; i++) {
        assert(t->marks[i].at >= end && t->marks[i].len > 0);
        end = t->marks[i].at + t->marks[i].len;
        assert(end <= t->len);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len)
{
    struct msg_reader m;
    struct slice source;
    struct err e = {0};
    struct jinja *t;
    struct jinja_text out = {0};
    uint32_t n;
    msg_reader_init(&m, bytes, len);
    if (msg_read_array(&m, "", &n, &e) != 0 || n != 2 || msg_read_text(&m, "", &source, &e) != 0)
        return 0;
    if (jinja_parse(&t, source, &e) != 0) {
        assert(strncmp(e.msg, "line ", 5) == 0);
        return 0;
    }
    struct jinja_run *r = jinja_run_new();
    jinja_begin(r, t);
    jinja_set_text(r, "bos_token", (struct slice){(const uint8_t *)"<s>", 3});
    int rc = jinja_set_msgpack(r, "messages", (struct slice){m.at, (size_t)(m.end - m.at)}, &e);
    if (rc == 0)
        rc = jinja_write(r, &out, &e);
    if (rc == 0)
        check_text(&out);
    else
        assert(rc < 0 && e.msg[0]);
    jinja_run_free(&r);
    jinja_free(&t);
    return 0;
}

static const char *const seeds[] = {
    "{% for m in messages %}{{ m.role ~ ': ' ~ m['content'] | trim }}{% if not loop.last %},"
    "{% endif %}{% else %}none{% endfor %}",
    "{%- set ns = namespace(n=0) -%}{% for m in messages[::-1] if m.role == 'user' %}{% set "
    "ns.n = ns.n + loop.index %}{% endfor %}{{ ns.n // 2 }}",
    "{% macro f(a, b=1.5) %}{{ [a, b, none] }}{{ {'k': a} | tojson(indent=2) }}{% endmacro "
    "%}{{ "
    "f(messages[0].content[1:-1].split('a', 1), b=2 ** 3 % 5) }}",
    "{% set x %} {{ messages | length }}{% endset %}{{ x | upper | replace('A', 'b') | indent "
    "}}"
    "{{ 'a' if x in 'abc' and x is defined else '%s %d' % ('x', 3) }}{# c #}",
    "{% raw %}{{ }}{% endraw %}{{ messages | selectattr('role', 'equalto', 'user') | "
    "map(attribute='content') | list | sort | join(', ') }}{{ messages[0].get('x', 1) }}",
    "{% for g in messages | groupby('role', default='x', case_sensitive=true) %}{{ g.grouper ~ "
    "g.list | length }}{{ g.list | slice(2, none) | list }}{% endfor %}{{ messages | "
    "sort(attribute='role,content') | map(attribute='a.b', default=1) | list }}",
    "{{ messages[0].content | truncate(5, false, '-', 0) | forceescape }}{{ bos_token.find('s', 1, "
    "-1) }}{{ bos_token.count('', 2) }}{{ bos_token.endswith(('>', 's'), 0, 2) }}{{ 'e' is filter "
    "}}",
    "{{ '%-8s|%+05d|%7.2f' % (messages[0].content, 7, -2.5) }}{{ '{:*^9}|{:<5,}|{:08.1f}'"
    ".format(messages[0].role, 12345, 2.5) }}",
    "{% for k, v in messages[0].items() %}{{ k.title() }}{{ v.partition(' ') }}{{ "
    "loop.nextitem }}{% break %}{% endfor %}{% filter lower %}{{ bos_token }}{% endfilter %}",
};

/* Template n of those with golden texts, or NULL; the file is read once and kept. */
static const char *golden_template(size_t n)
{
    static json_t *root;
    if (!root)
        root = json_load_file("tests/vectors/text/templates.json", JSON_ALLOW_NUL, NULL);
    const json_t *one = json_array_get(json_object_get(root, "cases"), n);
    return json_string_value(json_array_get(one, 0));
}

int fuzz_seed(unsigned n, struct msg_writer *w)
{
    size_t own = sizeof seeds / sizeof seeds[0];
    const char *source = n < own ? seeds[n] : golden_template(n - own);
    if (!source)
        return 0;
    msg_array(w, 2);
    msg_str(w, source);
    msg_array(w, 2);
    msg_map(w, 2);
    msg_key_str(w, "role", "user");
    msg_key_str(w, "content", " a \xc3\xa9 b");
    msg_map(w, 3);
    msg_key_str(w, "role", "assistant");
    msg_key_str(w, "content", "<think>x</think>");
    msg_str(w, "n");
    msg_array(w, 3);
    msg_int(w, -3);
    msg_double(w, 2.5);
    msg_nil(w);
    return 1;
}
