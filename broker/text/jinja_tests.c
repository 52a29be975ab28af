/* jinja_tests.c - jinja2's tests: what stands behind `is`, and in select and reject. */
#include "broker/text/jinja_private.h"

#define TEST(name, expression)                                                                     \
    static struct jinja_value name(                                                                \
        struct jinja_run *r, struct jinja_value v, const struct jinja_value *p)                    \
    {                                                                                              \
        (void)r;                                                                                   \
        (void)p;                                                                                   \
        return jinja_bool(expression);                                                             \
    }

/* Is v % by this rest? */
static int leaves(struct jinja_run *r, struct jinja_value v, struct jinja_value by, int64_t rest)
{
    return jinja_equal(r, jinja_binary(r, '%', v, by), jinja_int(rest));
}

static int is_iterable(struct jinja_value v)
{
    return v.kind == J_STR || v.kind == J_SEQ || v.kind == J_DICT || v.kind == J_UNDEFINED ||
           v.kind == J_LOOP;
}

/* What has a length and places: views of maps have no places, iterators neither. */
static int is_sequence(struct jinja_value v)
{
    return v.kind == J_STR || v.kind == J_DICT || v.kind == J_UNDEFINED ||
           (v.kind == J_SEQ && v.u.q->type <= SEQ_RANGE);
}

static int is_same(struct jinja_run *r, struct jinja_value a, struct jinja_value b)
{
    if (a.kind != b.kind)
        return 0;
    if (a.kind == J_NONE || a.kind == J_BOOL)
        return a.kind == J_NONE || a.u.n == b.u.n;
    jinja_fail(r, "sameas of values other than true, false and none is not supported");
}

static int has_letters(struct jinja_run *r, struct jinja_value v, int upper)
{
    return jinja_has_case(r, jinja_str(r, v).u.s, upper);
}

static int is_name(struct jinja_value v, int of_test)
{
    if (v.kind != J_STR)
        return 0;
    return of_test ? jinja_test(jinja_slice(v.u.s)) != NULL
                   : jinja_is_filter_name(jinja_slice(v.u.s));
}

TEST(defined, v.kind != J_UNDEFINED)
TEST(undefined, v.kind == J_UNDEFINED)
TEST(none, v.kind == J_NONE)
TEST(boolean, v.kind == J_BOOL)
TEST(is_true, v.kind == J_BOOL && v.u.n)
TEST(is_false, v.kind == J_BOOL && !v.u.n)
TEST(integer, v.kind == J_INT)
TEST(is_float, v.kind == J_FLOAT)
TEST(number, jinja_is_number(v))
TEST(string, v.kind == J_STR)
TEST(mapping, v.kind == J_DICT)
TEST(iterable, is_iterable(v))
TEST(sequence, is_sequence(v))
TEST(callable, v.kind >= J_MACRO || v.kind == J_UNDEFINED)
TEST(escaped, v.kind == J_STR && v.u.s->markup)
TEST(odd, leaves(r, v, jinja_int(2), 1))
TEST(even, leaves(r, v, jinja_int(2), 0))
TEST(divisibleby, leaves(r, v, p[0], 0))
TEST(filter, is_name(v, 0))
TEST(test, is_name(v, 1))
TEST(sameas, is_same(r, v, p[0]))
TEST(lower, has_letters(r, v, 0))
TEST(upper, has_letters(r, v, 1))
TEST(in, jinja_compare(r, JINJA_IN, v, p[0]))
TEST(eq, jinja_compare(r, JINJA_EQ, v, p[0]))
TEST(ne, jinja_compare(r, JINJA_NE, v, p[0]))
TEST(lt, jinja_compare(r, JINJA_LT, v, p[0]))
TEST(le, jinja_compare(r, JINJA_LE, v, p[0]))
TEST(gt, jinja_compare(r, JINJA_GT, v, p[0]))
TEST(ge, jinja_compare(r, JINJA_GE, v, p[0]))

static const struct jinja_builtin tests[] = {
    {"defined", "", 0, defined},
    {"undefined", "", 0, undefined},
    {"none", "", 0, none},
    {"boolean", "", 0, boolean},
    {"true", "", 0, is_true},
    {"false", "", 0, is_false},
    {"integer", "", 0, integer},
    {"float", "", 0, is_float},
    {"number", "", 0, number},
    {"string", "", 0, string},
    {"mapping", "", 0, mapping},
    {"iterable", "", 0, iterable},
    {"sequence", "", 0, sequence},
    {"callable", "", 0, callable},
    {"escaped", "", 0, escaped},
    {"odd", "", 0, odd},
    {"even", "", 0, even},
    {"divisibleby", "num", 1, divisibleby},
    {"filter", "", 0, filter},
    {"test", "", 0, test},
    {"sameas", "other", 1, sameas},
    {"lower", "", 0, lower},
    {"upper", "", 0, upper},
    {"in", "seq", 1, in},
    {"eq", "/other", 1, eq},
    {"equalto", "/other", 1, eq},
    {"==", "/other", 1, eq},
    {"ne", "/other", 1, ne},
    {"!=", "/other", 1, ne},
    {"lt", "/other", 1, lt},
    {"lessthan", "/other", 1, lt},
    {"<", "/other", 1, lt},
    {"le", "/other", 1, le},
    {"<=", "/other", 1, le},
    {"gt", "/other", 1, gt},
    {"greaterthan", "/other", 1, gt},
    {">", "/other", 1, gt},
    {"ge", "/other", 1, ge},
    {">=", "/other", 1, ge},
};

const struct jinja_builtin *jinja_test(struct slice name)
{
    return jinja_find(tests, sizeof tests / sizeof tests[0], name);
}
