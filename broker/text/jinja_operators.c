/* jinja_operators.c - expressions: operators as Python has them, and the walk over nodes. */
#include "broker/text/jinja_private.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* ---- arithmetic ---- */

static double as_double(struct jinja_run *r, struct jinja_value v)
{
    if (v.kind == J_FLOAT)
        return v.u.f;
    if (v.u.n > (1ll << 53) || v.u.n < -(1ll << 53))
        jinja_fail(r, "an integer beyond 2^53 among floats is not supported");
    return (double)v.u.n;
}

static void overflow(struct jinja_run *r)
{
    jinja_fail(r, "integers beyond 64 bits are not supported");
}

static int64_t floor_divide(struct jinja_run *r, int64_t a, int64_t b, int64_t *rest)
{
    if (b == 0)
        jinja_fail(r, "division by zero");
    if (a == INT64_MIN && b == -1)
        overflow(r);
    int64_t q = a / b;
    *rest = a % b;
    if (*rest != 0 && (*rest < 0) != (b < 0)) {
        q--;
        *rest += b;
    }
    return q;
}

static struct jinja_value power(struct jinja_run *r, int64_t a, int64_t b)
{
    int64_t v = 1;
    if (b < 0)
        return jinja_float(pow(as_double(r, jinja_int(a)), as_double(r, jinja_int(b))));
    if (a == 0 || a == 1 || a == -1)
        return jinja_int(b == 0 ? 1 : a == -1 && b % 2 == 0 ? 1 : a);
    for (; b > 0; b--)
        if (__builtin_mul_overflow(v, a, &v))
            overflow(r);
    return jinja_int(v);
}

static struct jinja_value integers(struct jinja_run *r, int op, int64_t a, int64_t b)
{
    int64_t v = 0, rest;
    int is_over = 0;
    switch (op) {
    case '+':
        is_over = __builtin_add_overflow(a, b, &v);
        break;
    case '-':
        is_over = __builtin_sub_overflow(a, b, &v);
        break;
    case '*':
        is_over = __builtin_mul_overflow(a, b, &v);
        break;
    case OP_FLOOR:
        return jinja_int(floor_divide(r, a, b, &rest));
    case '%':
        floor_divide(r, a, b, &rest);
        return jinja_int(rest);
    case OP_POWER:
        if (a == 0 && b < 0)
            jinja_fail(r, "zero to a negative power");
        return power(r, a, b);
    default:
        if (b == 0)
            jinja_fail(r, "division by zero");
        return jinja_float(as_double(r, jinja_int(a)) / as_double(r, jinja_int(b)));
    }
    if (is_over)
        overflow(r);
    return jinja_int(v);
}

static double float_modulo(double a, double b)
{
    double rest = fmod(a, b);
    if (rest != 0)
        return (rest < 0) != (b < 0) ? rest + b : rest;
    return copysign(0.0, b);
}

static struct jinja_value floats(struct jinja_run *r, int op, double a, double b)
{
    if ((op == '/' || op == OP_FLOOR || op == '%') && b == 0)
        jinja_fail(r, "division by zero");
    switch (op) {
    case '+':
        return jinja_float(a + b);
    case '-':
        return jinja_float(a - b);
    case '*':
        return jinja_float(a * b);
    case '/':
        return jinja_float(a / b);
    case '%':
        return jinja_float(float_modulo(a, b));
    case OP_FLOOR:
        return jinja_float(floor((a - float_modulo(a, b)) / b + 0.5));
    default:
        jinja_fail(r, "powers of floats are not supported");
    }
}

/* ---- text and lists ---- */

static void put_escaped(struct jinja_run *r, const struct jinja_string *s)
{
    size_t begin = jinja_mark_here(r), from = 0;
    for (size_t i = 0; i < s->len; i++) {
        uint8_t c = s->at[i];
        const char *as = c == '&'    ? "&amp;"
                         : c == '<'  ? "&lt;"
                         : c == '>'  ? "&gt;"
                         : c == '\'' ? "&#39;"
                         : c == '"'  ? "&#34;"
                                     : NULL;
        if (!as)
            continue;
        jinja_put(r, s->at + from, i - from);
        jinja_put_c(r, as);
        from = i + 1;
    }
    jinja_put(r, s->at + from, s->len - from);
    jinja_mark_changed(r, begin, s);
}

/* The same string as Markup. */
struct jinja_value jinja_markup(struct jinja_run *r, struct jinja_value v)
{
    struct jinja_string *s = jinja_take(r, sizeof *s);
    *s = *v.u.s;
    s->markup = 1;
    return jinja_string_value(s);
}

/* Text as Markup.escape() makes it: Markup stays as it is. */
struct jinja_value jinja_escape(struct jinja_run *r, struct jinja_value v)
{
    size_t begin = jinja_mark_here(r);
    struct jinja_value text = jinja_str(r, v);
    if (text.u.s->markup)
        return text;
    put_escaped(r, text.u.s);
    return jinja_markup(r, jinja_cut(r, begin));
}

static struct jinja_value add_strings(
    struct jinja_run *r, const struct jinja_string *a, const struct jinja_string *b)
{
    size_t begin = jinja_mark_here(r);
    if (a->markup || b->markup) {
        a = jinja_escape(r, jinja_string_value(a)).u.s;
        b = jinja_escape(r, jinja_string_value(b)).u.s;
    }
    jinja_put_string(r, a);
    jinja_put_string(r, b);
    struct jinja_value both = jinja_cut(r, begin);
    return a->markup ? jinja_markup(r, both) : both;
}

static struct jinja_value add_seqs(
    struct jinja_run *r, const struct jinja_seq *a, const struct jinja_seq *b)
{
    struct jinja_value both = jinja_seq_new(r, a->type);
    struct jinja_seq *q = both.u.q;
    q->n = q->room = a->n + b->n;
    q->at = jinja_take(r, q->n * sizeof *q->at);
    if (a->n > 0)
        memcpy(q->at, a->at, a->n * sizeof *q->at);
    if (b->n > 0)
        memcpy(q->at + a->n, b->at, b->n * sizeof *q->at);
    return both;
}

static struct jinja_value repeat(struct jinja_run *r, struct jinja_value v, int64_t n)
{
    if (v.kind == J_STR) {
        size_t begin = jinja_mark_here(r);
        if (v.u.s->len == 0)
            return v;
        for (; n > 0; n--) {
            jinja_spend(r, 1);
            jinja_put_string(r, v.u.s);
        }
        return jinja_cut(r, begin);
    }
    struct jinja_value all = jinja_seq_new(r, v.u.q->type);
    for (; n > 0 && v.u.q->n > 0; n--)
        for (size_t i = 0; i < v.u.q->n; i++)
            jinja_seq_add(r, all.u.q, v.u.q->at[i]);
    return all;
}

static int is_repeatable(struct jinja_value v)
{
    return (v.kind == J_STR && !v.u.s->markup) || (v.kind == J_SEQ && v.u.q->type <= SEQ_TUPLE);
}

static int is_whole(struct jinja_value v)
{
    return v.kind == J_INT || v.kind == J_BOOL;
}

struct jinja_value jinja_binary(
    struct jinja_run *r, int op, struct jinja_value a, struct jinja_value b)
{
    const char name[] = {op == OP_FLOOR || op == OP_POWER ? '/' : (char)op, 0};
    if (is_whole(a) && is_whole(b))
        return integers(r, op, a.u.n, b.u.n);
    if (jinja_is_number(a) && jinja_is_number(b))
        return floats(r, op, as_double(r, a), as_double(r, b));
    if (op == '+' && a.kind == J_STR && b.kind == J_STR)
        return add_strings(r, a.u.s, b.u.s);
    if (op == '+' && a.kind == J_SEQ && b.kind == J_SEQ && a.u.q->type == b.u.q->type &&
        a.u.q->type <= SEQ_TUPLE)
        return add_seqs(r, a.u.q, b.u.q);
    if (op == '*' && is_repeatable(a) && is_whole(b))
        return repeat(r, a, b.u.n);
    if (op == '*' && is_repeatable(b) && is_whole(a))
        return repeat(r, b, a.u.n);
    if (op == '%' && a.kind == J_STR && !a.u.s->markup)
        return jinja_format_percent(r, a.u.s, b);
    struct slice left = {0}, right = {0};
    if (a.kind == J_UNDEFINED)
        left = jinja_slice(a.u.s);
    if (b.kind == J_UNDEFINED)
        right = jinja_slice(b.u.s);
    jinja_fail(r, "%s between %s %.*s and %s %.*s",
        op == OP_FLOOR   ? "//"
        : op == OP_POWER ? "**"
                         : name,
        jinja_type_name(a), (int)(left.len < 60 ? left.len : 60), (const char *)left.at,
        jinja_type_name(b), (int)(right.len < 60 ? right.len : 60), (const char *)right.at);
}

/* ---- comparisons ---- */

int jinja_contains(struct jinja_run *r, struct jinja_value container, struct jinja_value v)
{
    if (container.kind == J_STR) {
        if (v.kind != J_STR)
            jinja_fail(r, "`in` a str: expected a str, found %s", jinja_type_name(v));
        jinja_spend(r, container.u.s->len / 16);
        return v.u.s->len == 0 ||
               memmem(container.u.s->at, container.u.s->len, v.u.s->at, v.u.s->len) != NULL;
    }
    if (container.kind == J_DICT)
        return jinja_dict_find(r, container.u.d, v) != NULL;
    const struct jinja_seq *q = jinja_items(r, container);
    for (size_t i = 0; i < q->n; i++)
        if (jinja_equal(r, q->at[i], v))
            return 1;
    return 0;
}

int jinja_compare(
    struct jinja_run *r, enum jinja_comparison op, struct jinja_value a, struct jinja_value b)
{
    static const char *const names[] = {"==", "!=", "<", "<=", ">", ">="};
    int c;
    if (op == JINJA_EQ || op == JINJA_NE)
        return jinja_equal(r, a, b) == (op == JINJA_EQ);
    if (op == JINJA_IN || op == JINJA_NOT_IN)
        return jinja_contains(r, b, a) == (op == JINJA_IN);
    c = jinja_order(r, a, b, names[op]);
    return c != 2 && (op == JINJA_LT      ? c < 0
                         : op == JINJA_LE ? c <= 0
                         : op == JINJA_GT ? c > 0
                                          : c >= 0);
}

static int compare_chain(struct jinja_run *r, const struct jinja_node *node)
{
    struct jinja_value left = jinja_eval(r, node->a);
    for (uint32_t i = 0; i < node->n; i++) {
        struct jinja_value right = jinja_eval(r, node->list[i]->a);
        if (!jinja_compare(r, (enum jinja_comparison)node->list[i]->op, left, right))
            return 0;
        left = right;
    }
    return 1;
}

/* ---- the walk ---- */

static struct jinja_value sequence(
    struct jinja_run *r, const struct jinja_node *node, enum jinja_seq_type type)
{
    struct jinja_value v = jinja_seq_new(r, type);
    for (uint32_t i = 0; i < node->n; i++)
        jinja_seq_add(r, v.u.q, jinja_eval(r, node->list[i]));
    return v;
}

static struct jinja_value map(struct jinja_run *r, const struct jinja_node *node)
{
    struct jinja_value v = jinja_dict_new(r, J_DICT);
    for (uint32_t i = 0; i < node->n; i += 2) {
        struct jinja_value key = jinja_eval(r, node->list[i]);
        jinja_dict_put(r, v.u.d, key, jinja_eval(r, node->list[i + 1]));
    }
    return v;
}

static struct jinja_value chain(struct jinja_run *r, const struct jinja_node *node)
{
    struct jinja_value v = {.kind = J_NONE};
    for (uint32_t i = 0; i < node->n; i++) {
        v = jinja_eval(r, node->list[i]);
        if (jinja_true(r, v) == (node->type == N_OR))
            break;
    }
    return v;
}

static struct jinja_value concat(struct jinja_run *r, const struct jinja_node *node)
{
    size_t begin = jinja_mark_here(r);
    for (uint32_t i = 0; i < node->n; i++) {
        struct jinja_value v = jinja_eval(r, node->list[i]);
        jinja_put_value(r, v);
    }
    return jinja_cut(r, begin);
}

static struct jinja_value sign(struct jinja_run *r, int is_negative, struct jinja_value v)
{
    if (!jinja_is_number(v))
        jinja_fail(r, "the sign of a %s", jinja_type_name(v));
    if (v.kind == J_FLOAT)
        return jinja_float(is_negative ? -v.u.f : v.u.f);
    if (is_negative && v.u.n == INT64_MIN)
        overflow(r);
    return jinja_int(is_negative ? -v.u.n : v.u.n);
}

static struct jinja_value condition(struct jinja_run *r, const struct jinja_node *node)
{
    if (jinja_true(r, jinja_eval(r, node->b)))
        return jinja_eval(r, node->a);
    return node->c ? jinja_eval(r, node->c)
                   : jinja_undefined_text(r, "the value of an `if` without `else`");
}

static struct jinja_value bound(struct jinja_run *r, const struct jinja_node *node)
{
    return node ? jinja_eval(r, node) : jinja_none();
}

static struct jinja_value item(struct jinja_run *r, const struct jinja_node *node)
{
    struct jinja_value of = jinja_eval(r, node->a);
    const struct jinja_node *key = node->b;
    if (key->type != N_SLICE)
        return jinja_item(r, of, jinja_eval(r, key));
    struct jinja_value bounds[3];
    bounds[0] = bound(r, key->a);
    bounds[1] = bound(r, key->b);
    bounds[2] = bound(r, key->c);
    return jinja_slice_of(r, of, bounds);
}

/* Applies a filter or a test to v. */
struct jinja_value jinja_apply(
    struct jinja_run *r, const struct jinja_node *node, struct jinja_value v)
{
    struct slice name = jinja_slice(node->value.u.s);
    r->line = node->line;
    if (!node->function)
        jinja_fail(r, "the %s %.*s is not supported", node->type == N_TEST ? "test" : "filter",
            (int)(name.len < 60 ? name.len : 60), (const char *)name.at);
    struct jinja_call arguments = jinja_arguments(r, node);
    r->line = node->line;
    return jinja_call_builtin(r, node->function, v, &arguments);
}

static struct jinja_value call(struct jinja_run *r, const struct jinja_node *node)
{
    struct jinja_value of = jinja_eval(r, node->a);
    struct jinja_call arguments = jinja_arguments(r, node);
    r->line = node->line;
    return jinja_call_value(r, of, &arguments);
}

static struct jinja_value eval(struct jinja_run *r, const struct jinja_node *node)
{
    struct jinja_value a;
    switch (node->type) {
    case N_LIST:
        return sequence(r, node, SEQ_LIST);
    case N_TUPLE:
        return sequence(r, node, SEQ_TUPLE);
    case N_DICT:
        return map(r, node);
    case N_AND:
    case N_OR:
        return chain(r, node);
    case N_NOT:
        return jinja_bool(!jinja_true(r, jinja_eval(r, node->a)));
    case N_NEGATIVE:
    case N_POSITIVE:
        return sign(r, node->type == N_NEGATIVE, jinja_eval(r, node->a));
    case N_BINARY:
        a = jinja_eval(r, node->a);
        return jinja_binary(r, node->op, a, jinja_eval(r, node->b));
    case N_CONCAT:
        return concat(r, node);
    case N_COMPARE:
        return jinja_bool(compare_chain(r, node));
    case N_CONDITION:
        return condition(r, node);
    case N_ATTRIBUTE:
        a = jinja_eval(r, node->a);
        r->line = node->line;
        return jinja_attribute(r, a, node->value.u.s);
    case N_ITEM:
        return item(r, node);
    case N_CALL:
        return call(r, node);
    default: /* N_FILTER, N_TEST */
        return jinja_apply(r, node, jinja_eval(r, node->a));
    }
}

struct jinja_value jinja_eval(struct jinja_run *r, const struct jinja_node *node)
{
    if (node->type == N_CONST)
        return node->value;
    if (node->type == N_NAME)
        return jinja_lookup(r, node->name);
    jinja_enter(r);
    jinja_spend(r, 1);
    struct jinja_value v = eval(r, node);
    jinja_leave(r);
    return v;
}
