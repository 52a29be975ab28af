/* test_truncation.c - which tokens of a sequence that is too long stay. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "broker/api/truncation.h"

#define MAX_LEN 8

static const struct side_truncation left = {1, UINT32_MAX}, right = {0, UINT32_MAX};

/* A row's sequence, and what stays of it. */
struct cut {
    uint32_t n, before, behind, max_length;
    int side, keep_last;
    uint32_t head, tail;
};

static int keep(
    const struct cut *c, const struct side_truncation *own, struct kept *kept, struct err *e)
{
    struct row_request q = {.truncation = {1, c->max_length, c->side, c->keep_last}};
    struct long_sequence s = {c->n, c->before, c->behind, MAX_LEN, own};
    return truncation_keep(&q, &s, kept, e);
}

static void either_end_is_cut(void **state)
{
    (void)state;
    static const struct cut cuts[] = {
        {8, 0, 0, 0, SIDE_RIGHT, 1, 8, 0}, /* it fits */
        {9, 0, 0, 0, SIDE_RIGHT, 0, 8, 0},
        {9, 0, 0, 0, SIDE_LEFT, 0, 0, 8},
        {9, 0, 0, 5, SIDE_RIGHT, 0, 5, 0},
        {9, 0, 0, 5, SIDE_RIGHT, 1, 4, 1},
        {9, 0, 0, 5, SIDE_LEFT, 1, 0, 5},
        {9, 1, 2, 5, SIDE_RIGHT, 0, 3, 2}, /* what is around the text stays */
        {9, 1, 2, 5, SIDE_RIGHT, 1, 3, 2},
        {9, 1, 2, 5, SIDE_LEFT, 0, 1, 4},
        {9, 1, 2, 3, SIDE_LEFT, 0, 1, 2},
        {9, 1, 0, 5, SIDE_RIGHT, 1, 4, 1},
        {9, 0, 0, 1, SIDE_RIGHT, 1, 0, 1},
    };
    for (size_t i = 0; i < sizeof cuts / sizeof cuts[0]; i++) {
        struct kept kept = {0};
        struct err e = {0};
        assert_int_equal(keep(&cuts[i], &right, &kept, &e), 0);
        assert_int_equal(kept.head, cuts[i].head);
        assert_int_equal(kept.tail, cuts[i].tail);
    }
}

static void a_limit_has_room(void **state)
{
    (void)state;
    static const struct cut above = {3, 0, 0, MAX_LEN + 1, SIDE_RIGHT, 0, 0, 0};
    static const struct cut below = {9, 1, 2, 2, SIDE_RIGHT, 0, 0, 0};
    struct kept kept;
    struct err e = {0};
    assert_int_equal(keep(&above, &right, &kept, &e), ASSAY_ETOOLONG);
    assert_string_equal(e.field, "max_length");
    assert_int_equal(keep(&below, &right, &kept, &e), ASSAY_ETOOLONG);
    assert_non_null(strstr(e.msg, "3 tokens"));
}

/* Only where the files would cut otherwise, and the row does not say how. */
static void the_files_reading_is_asked_about(void **state)
{
    (void)state;
    static const struct side_truncation shorter = {0, 6}, longer = {0, 100};
    static const struct {
        struct cut cut;
        const struct side_truncation *own;
        const char *field; /* NULL: no question */
    } cases[] = {
        {{9, 0, 0, 0, SIDE_UNSAID, 0, 0, 0}, &left, "truncation_side"},
        {{9, 0, 0, 0, SIDE_RIGHT, 0, 0, 0}, &left, NULL},
        {{8, 0, 0, 0, SIDE_UNSAID, 0, 0, 0}, &left, NULL},
        {{9, 0, 0, 0, SIDE_UNSAID, 0, 0, 0}, NULL, NULL},
        {{7, 0, 0, 0, SIDE_UNSAID, 0, 0, 0}, &shorter, "max_length"},
        {{7, 0, 0, 8, SIDE_UNSAID, 0, 0, 0}, &shorter, NULL},
        {{6, 0, 0, 0, SIDE_UNSAID, 0, 0, 0}, &shorter, NULL},
        {{9, 0, 0, 0, SIDE_UNSAID, 0, 0, 0}, &longer, NULL},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct kept kept;
        struct err e = {0};
        int rc = keep(&cases[i].cut, cases[i].own, &kept, &e);
        assert_int_equal(rc, cases[i].field ? ASSAY_EBADREQ : 0);
        assert_string_equal(e.field, cases[i].field ? cases[i].field : "");
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(either_end_is_cut),
        cmocka_unit_test(a_limit_has_room), cmocka_unit_test(the_files_reading_is_asked_about)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
