/* test_compose.c - which way a row's conversation is written: by hand, or by the template. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "broker/text/compose.h"
#include "tests/unit/json_msgpack.h"
#include "tests/unit/tiny_tokenizer.h"

static const char source[] = "{{ tools | tojson if tools }}{{ messages[0].content }}"
                             "{{ messages[0].tool_calls | tojson if messages[0].tool_calls }}";

/* Composes a row. Returns its code; the text of its tokens goes to `text`. */
static int compose(const struct text_model *m, const char *row, char *text, struct err *e)
{
    struct msg_writer w;
    struct msg_reader r;
    struct row_request q;
    struct composed out;
    struct composer *c = composer_new(m);
    json_t *v = json_loads(row, 0, NULL);
    assert_non_null(v);
    msg_writer_init(&w);
    pack_json(&w, v);
    msg_reader_init(&r, (const uint8_t *)w.buffer.data, w.buffer.size);
    assert_int_equal(request_next_row(&r, 0, &q, e), 0);
    int rc = compose_row(c, &q, -1, &out, e);
    text[0] = '\0';
    for (uint32_t i = 0; rc == 0 && i < out.ends[0]; i++) {
        struct slice piece = tokenizer_piece(m->tokenizer, out.ids[i]);
        sprintf(text + strlen(text), "%.*s", (int)piece.len, (const char *)piece.at);
    }
    composer_free(&c);
    msg_writer_release(&w);
    json_decref(v);
    return rc;
}

static void tools_go_to_the_template(void **state)
{
    (void)state;
    static const char plain[] = "{\"messages\": [{\"role\": \"user\", \"content\": \"ab\"}]}";
    static const char tools[] = "{\"messages\": [{\"role\": \"user\", \"content\": \"ab\"}], "
                                "\"tools\": [{\"a\": 1}]}";
    static const char calls[] = "{\"messages\": [{\"role\": \"user\", \"content\": \"ab\", "
                                "\"tool_calls\": [\"<|im_end|>\"]}], \"safe_text\": true}";
    struct text_model m = {.tokenizer = tiny_tokenizer(), .chat.template = CHAT_QWEN25};
    struct err e = {0};
    char text[400];
    assert_int_equal(compose(&m, tools, text, &e), ASSAY_EBADTEXT);
    assert_string_equal(e.field, "tools");
    assert_int_equal(compose(&m, calls, text, &e), ASSAY_EBADTEXT);
    assert_string_equal(e.field, "messages[0].tool_calls");
    assert_int_equal(jinja_parse(&m.chat.jinja, slice_of(source), &e), 0);
    assert_int_equal(compose(&m, plain, text, &e), 0);
    assert_memory_equal(text, "<|im_start|>system\n", 19);
    assert_int_equal(compose(&m, tools, text, &e), 0);
    assert_string_equal(text, "[{\"a\": 1}]ab");
    assert_int_equal(compose(&m, calls, text, &e), 0);
    assert_string_equal(text, "ab[\"<|im_end|>\"]");
    chat_release(&m.chat);
}

/* What a template does with content that is no text: each row's text, or what its error says. */
static void content_that_is_no_text(void **state)
{
    (void)state;
#define PART(text) "{\"type\": \"text\", \"text\": \"" text "\"}"
#define ROW(role, content, more) "{\"messages\": [{\"role\": \"" role "\"" content "}]" more "}"
#define PARTS(list) ", \"content\": [" list "]"
    static const char reads[] =
        "{% for m in messages %}{{ m.role ~ ':' }}{% if m.content is string "
        "%}{{ m.content }}{% else %}{% for p in m.content %}{{ p.text }}{% "
        "endfor %}{% endif %}{% endfor %}";
    static const char only_lists[] =
        "{% for m in messages %}{% for p in m.content %}{{ p['text'] }}{% endfor %}{% endfor %}";
    static const char prints[] = "{% for m in messages %}{{ m.content }}{% endfor %}";
    static const char dumps[] = "{% for m in messages %}{{ m.content | tojson }}{% endfor %}";
    static const char adds[] = "{% for m in messages %}{{ 'a' + m.content }}{% endfor %}";
    static const char drops[] =
        "{% for m in messages %}{{ m.content if m.content is string else '' }}{% endfor %}";
    static const char asks[] =
        "{{ messages[0].content }}{% if add_generation_prompt %}>{% endif %}";
    static const char two[] = ROW("user", PARTS(PART("a") ", " PART("b")), "");
    static const char joined[] =
        ROW("user", PARTS(PART("a") ", " PART("b")), ", \"join_content\": true");
    static const struct {
        const char *template, *row;
        const char *text, *error; /* one of them */
    } cases[] = {
        {reads, two, "user:ab", NULL},
        {reads, joined, "user:a\nb", NULL},
        {reads, ROW("user", PARTS(""), ""), "user:", NULL},
        {only_lists, two, "ab", NULL},
        {prints, two, NULL, "join_content"},
        {prints, joined, "a\nb", NULL},
        {prints, ROW("user", PARTS(""), ", \"join_content\": true"), "", NULL},
        {dumps, two, NULL, "join_content"},
        {adds, two, NULL, "join_content"},
        {drops, two, NULL, "join_content"},
        {reads, ROW("user", PARTS("{\"type\": \"image\"}"), ""), NULL, "found 'image'"},
        {reads, ROW("user", PARTS("{\"type\": \"image\"}"), ", \"join_content\": true"), NULL,
            "content[0]: expected the type text"},
        {reads, ROW("user", PARTS("\"a\""), ""), NULL, "expected a part"},
        {reads, ROW("user", PARTS("{\"type\": \"text\", \"text\": null}"), ""), NULL,
            "expected a part"},
        {prints, ROW("user", ", \"content\": null", ""), NULL, "found nil"},
        {prints, ROW("user", ", \"content\": null, \"tool_calls\": [1]", ""), "", NULL},
        {prints, ROW("user", ", \"tool_calls\": [1]", ""), "", NULL},
        {adds, ROW("user", ", \"tool_calls\": [1]", ""), NULL, "line 1"},
        {asks, ROW("user", ", \"content\": \"a\"", ", \"add_generation_prompt\": true"), "a>",
            NULL},
        {asks, ROW("user", ", \"content\": \"a\"", ", \"add_generation_prompt\": false"), "a",
            NULL},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct text_model m = {.tokenizer = tiny_tokenizer(), .chat.template = CHAT_JINJA};
        struct err e = {0};
        char text[400];
        assert_int_equal(jinja_parse(&m.chat.jinja, slice_of(cases[i].template), &e), 0);
        int rc = compose(&m, cases[i].row, text, &e);
        assert_int_equal(rc, cases[i].text ? 0 : ASSAY_EBADTEXT);
        if (cases[i].text)
            assert_string_equal(text, cases[i].text);
        else if (!strstr(e.msg, cases[i].error))
            fail_msg("case %zu: expected '%s', found '%s'", i, cases[i].error, e.msg);
        chat_release(&m.chat);
    }
}

/* A writer by hand takes texts alone, and the template itself says what becomes of the rest. */
static void a_known_template_is_interpreted_for_it(void **state)
{
    (void)state;
    static const char calls[] = ROW("assistant", ", \"tool_calls\": [1]", "");
    struct text_model m = {.tokenizer = tiny_tokenizer(), .chat.template = CHAT_LLAMA3};
    struct err e = {0};
    char text[400];
    assert_int_equal(compose(&m, calls, text, &e), ASSAY_EBADTEXT);
    assert_string_equal(e.field, "messages[0].content");
    assert_non_null(strstr(e.msg, "--chat-template"));
    assert_int_equal(
        jinja_parse(&m.chat.jinja, slice_of("{{ messages[0].content | trim }}."), &e), 0);
    assert_int_equal(compose(&m, calls, text, &e), 0);
    assert_string_equal(text, ".");
    /* Llama 3.1's takes the date for one. */
    static const char date[] =
        ROW("user", ", \"content\": \"a\"", ", \"chat_template_kwargs\": {\"date_string\": \"b\"}");
    static const char thinking[] = ROW(
        "user", ", \"content\": \"a\"", ", \"chat_template_kwargs\": {\"enable_thinking\": true}");
    chat_release(&m.chat);
    m.chat.template = CHAT_LLAMA31;
    assert_int_equal(compose(&m, date, text, &e), ASSAY_EBADTEXT);
    assert_string_equal(e.field, "chat_template_kwargs");
    assert_int_equal(jinja_parse(&m.chat.jinja, slice_of("{{ date_string }}"), &e), 0);
    assert_int_equal(compose(&m, date, text, &e), 0);
    assert_string_equal(text, "b");
    assert_int_equal(compose(&m, thinking, text, &e), 0);
    assert_non_null(strstr(text, "26 Jul 2024"));
    chat_release(&m.chat);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(tools_go_to_the_template),
        cmocka_unit_test(content_that_is_no_text),
        cmocka_unit_test(a_known_template_is_interpreted_for_it)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
