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

static struct slice slice_of(const char *text)
{
    return (struct slice){(const uint8_t *)text, strlen(text)};
}

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

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(tools_go_to_the_template)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
