/* test_output.c - how many lines are kept while their results are not there. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "broker/cli/output.h"
#include "http_fixture.h"

#define LINE_BYTES (1u << 20)

static void expect_line(struct output *o, int64_t i)
{
    struct line line = {.number = i + 1,
        .n_rows = 1,
        .bytes = LINE_BYTES,
        .id = json_integer(i + 1),
        .object = json_pack("{s:s}", "text", "so")};
    output_expect(o, &line, i);
    line_release(&line);
}

/* With keep_input the size of what is kept counts, without it only the number of lines. */
static void fill(int keep_input, int64_t most)
{
    struct err e;
    struct output o = {
        .keep_input = keep_input, .target = {.file = fopen("/dev/null", "w"), .fd = -1}};
    int64_t n = 0;
    while (!output_is_full(&o))
        expect_line(&o, n++);
    assert_int_equal(n, most);
    json_t *row = json_pack("{s:i, s:f, s:n}", "i", 0, "score", 0.5, "error");
    assert_int_equal(output_result(&o, 0, row, &e), 0);
    assert_int_equal(output_flush(&o, &e), 0);
    assert_false(output_is_full(&o));
    json_decref(row);
    output_release(&o);
}

static void test_kept_objects(void **state)
{
    (void)state;
    fill(1, 32);
}

static void test_lines(void **state)
{
    (void)state;
    fill(0, 50000);
}

/* ---- requests ---- */

static json_t *request(const char *url, const char *field, int n)
{
    json_t *texts = json_array();
    for (int k = 0; k < n; k++)
        json_array_append_new(texts, json_sprintf("text %d", k));
    json_t *body = json_pack("{s:o}", field, texts);
    if (strcmp(url, "/rerank") == 0)
        json_object_set_new(body, "query", json_string("q"));
    return json_pack(
        "{s:s, s:s, s:s, s:o}", "custom_id", "a", "method", "POST", "url", url, "body", body);
}

static void expect_request(struct output *o, struct card *card, const json_t *whole, int64_t i)
{
    struct line line = {.bytes = LINE_BYTES, .id = json_string("a")};
    assert_int_equal(asked_new(&line.asked, card, whole, 1, &line.err), 0);
    line.n_rows = asked_n_rows(line.asked);
    output_expect(o, &line, i);
    line_release(&line);
}

/* Returns how many such requests are read ahead. The first is answered then, which makes room. */
static int64_t fill_with(json_t *whole, int n_rows)
{
    struct err e;
    struct output o = {.target = {.file = fopen("/dev/null", "w"), .fd = -1}};
    struct card *card = http_card("seq_cls", "sigmoid");
    int64_t n = 0;
    for (; !output_is_full(&o); n++)
        expect_request(&o, card, whole, n * n_rows);
    size_t before = o.kept_bytes;
    for (int k = 0; k < n_rows; k++) {
        json_t *row = json_pack(
            "{s:i, s:i, s:f, s:i, s:n}", "i", k, "id", 1, "score", 0.5, "n_tokens", 3, "error");
        assert_int_equal(output_result(&o, k, row, &e), 0);
        json_decref(row);
    }
    assert_true(o.kept_bytes > before); /* by its values */
    assert_int_equal(output_flush(&o, &e), 0);
    assert_false(output_is_full(&o));
    output_release(&o);
    assert_int_equal(o.kept_bytes, 0);
    card_release(&card);
    json_decref(whole);
    return n;
}

/* Documents that are given back count as their line does, and every row counts. */
static void test_requests(void **state)
{
    (void)state;
    assert_int_equal(fill_with(request("/rerank", "documents", 2), 2), 32);
    assert_in_range(fill_with(request("/v1/classify", "input", 100), 100), 300, 3000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_kept_objects),
        cmocka_unit_test(test_lines),
        cmocka_unit_test(test_requests),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
