/* test_output.c - how many lines are kept while their results are not there. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>

#include "broker/cli/output.h"

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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_kept_objects),
        cmocka_unit_test(test_lines),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
