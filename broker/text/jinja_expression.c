/* jinja_expression.c - parses expressions, with the precedence of jinja2's parser:
 *     a if b else c; or; and; not; comparisons and `in`; + -; ~; * / // %; **; unary; .x [x] (x);
 *     |filter and `is test`. */
#include "broker/text/jinja_private.h"

#include <string.h>

static struct jinja_node *parse_or(struct jinja_parser *p);
static struct jinja_node *parse_unary(struct jinja_parser *p, int with_filter);

static struct jinja_node *node_of(
    struct jinja_parser *p, enum jinja_node_type type, struct jinja_node *a, struct jinja_node *b)
{
    struct jinja_node *node = jinja_node_new(p, type);
    node->a = a;
    node->b = b;
    if (a)
        node->line = a->line;
    return node;
}

static struct jinja_node *constant(struct jinja_parser *p, struct jinja_value v)
{
    struct jinja_node *node = jinja_node_new(p, N_CONST);
    node->value = v;
    return node;
}

/* ---- calls ---- */

static void add_keyword(struct jinja_parser *p, struct jinja_node *node, struct slice name)
{
    const struct jinja_string **names =
        arena_take(&p->t->arena, (node->n_keywords + 1) * sizeof *names);
    if (node->n_keywords > 0)
        memcpy(names, node->keywords, node->n_keywords * sizeof *names);
    for (uint32_t k = 0; k < node->n_keywords; k++)
        if (names[k]->len == name.len && memcmp(names[k]->at, name.at, name.len) == 0)
            jinja_parse_fail(p, p->at->line, "the argument %.*s is given twice", (int)name.len,
                (const char *)name.at);
    names[node->n_keywords++] = jinja_word(p->t, name);
    node->keywords = names;
}

static void parse_argument(struct jinja_parser *p, struct jinja_node *node)
{
    if (jinja_at(p, "*") || jinja_at(p, "**"))
        jinja_parse_fail(p, p->at->line, "* and ** arguments are not supported");
    if (p->at->type == T_NAME && p->at[1].type == T_OPERATOR && slice_is(p->at[1].text, "=")) {
        add_keyword(p, node, p->at->text);
        p->at += 2;
    } else if (node->n_keywords > 0)
        jinja_parse_fail(p, p->at->line, "an argument without a name follows one with a name");
    jinja_node_add(p, node, jinja_parse_expression(p, 1));
}

static void parse_arguments(struct jinja_parser *p, struct jinja_node *node)
{
    jinja_expect(p, "(");
    while (!jinja_at(p, ")")) {
        parse_argument(p, node);
        if (!jinja_skip(p, ","))
            break;
    }
    jinja_expect(p, ")");
}

static struct jinja_node *parse_call(struct jinja_parser *p, struct jinja_node *callee)
{
    struct jinja_node *node = node_of(p, N_CALL, callee, NULL);
    node->line = p->at->line;
    parse_arguments(p, node);
    return node;
}

/* ---- what follows a value ---- */

static struct jinja_node *parse_bound(struct jinja_parser *p)
{
    if (jinja_at(p, ":") || jinja_at(p, "]") || jinja_at(p, ","))
        return NULL;
    return jinja_parse_expression(p, 1);
}

static struct jinja_node *parse_key(struct jinja_parser *p)
{
    struct jinja_node *first = parse_bound(p);
    if (!jinja_at(p, ":")) {
        if (!first)
            jinja_parse_fail(p, p->at->line, "expected an expression between [ and ]");
        return first;
    }
    struct jinja_node *node = jinja_node_new(p, N_SLICE);
    node->a = first;
    jinja_expect(p, ":");
    node->b = parse_bound(p);
    if (jinja_skip(p, ":"))
        node->c = parse_bound(p);
    return node;
}

static struct jinja_node *parse_subscript(struct jinja_parser *p, struct jinja_node *of)
{
    struct jinja_node *node;
    if (jinja_skip(p, "[")) {
        node = node_of(p, N_ITEM, of, NULL);
        node->line = p->at->line;
        node->b = parse_key(p);
        if (jinja_at(p, ","))
            jinja_parse_fail(p, p->at->line, "several subscripts in [] are not supported");
        jinja_expect(p, "]");
        return node;
    }
    jinja_expect(p, ".");
    if (p->at->type == T_INT) {
        node = node_of(p, N_ITEM, of, constant(p, jinja_int(p->at->n)));
        p->at++;
        return node;
    }
    node = node_of(p, N_ATTRIBUTE, of, NULL);
    node->line = p->at->line;
    node->value = jinja_string_value(jinja_word(p->t, jinja_expect_name(p)));
    return node;
}

static struct jinja_node *parse_postfix(struct jinja_parser *p, struct jinja_node *node)
{
    for (;;)
        if (jinja_at(p, ".") || jinja_at(p, "["))
            node = parse_subscript(p, node);
        else if (jinja_at(p, "("))
            node = parse_call(p, node);
        else
            return node;
}

/* A filter's or a test's name. jinja2 refuses an unknown one at once only where it is not under a
 * condition. */
static void parse_function(struct jinja_parser *p, struct jinja_node *node)
{
    struct slice name = jinja_expect_name(p);
    node->value = jinja_string_value(jinja_word(p->t, name));
    node->function = node->type == N_TEST ? jinja_test(name) : jinja_filter(name);
    if (!node->function && !p->unknown)
        p->unknown = node;
    if (jinja_at(p, "."))
        jinja_parse_fail(p, p->at->line, "filters and tests with a dot are not supported");
}

struct jinja_node *jinja_parse_filters(struct jinja_parser *p, struct jinja_node *node, int begun)
{
    while (begun || jinja_skip(p, "|")) {
        begun = 0;
        struct jinja_node *filter = node_of(p, N_FILTER, node, NULL);
        filter->line = p->at->line;
        parse_function(p, filter);
        if (jinja_at(p, "("))
            parse_arguments(p, filter);
        node = filter;
    }
    return node;
}

/* Does an argument without brackets follow a test's name? Any value that is not one of these words
 * does, as in jinja2. */
static int at_test_argument(struct jinja_parser *p)
{
    if (p->at->type == T_NAME && jinja_at_name(p, "is"))
        jinja_parse_fail(p, p->at->line, "tests with `is` cannot be chained");
    return p->at->type == T_STRING || p->at->type == T_INT || p->at->type == T_FLOAT ||
           jinja_at(p, "[") || jinja_at(p, "{") ||
           (p->at->type == T_NAME && !jinja_at_name(p, "else") && !jinja_at_name(p, "or") &&
               !jinja_at_name(p, "and"));
}

static struct jinja_node *parse_primary(struct jinja_parser *p);

static struct jinja_node *parse_test(struct jinja_parser *p, struct jinja_node *of)
{
    int is_negated = jinja_skip_name(p, "not");
    struct jinja_node *node = node_of(p, N_TEST, of, NULL);
    node->line = p->at->line;
    parse_function(p, node);
    if (jinja_at(p, "("))
        parse_arguments(p, node);
    else if (at_test_argument(p))
        jinja_node_add(p, node, parse_postfix(p, parse_primary(p)));
    return is_negated ? node_of(p, N_NOT, node, NULL) : node;
}

static struct jinja_node *parse_filters_and_tests(struct jinja_parser *p, struct jinja_node *node)
{
    for (;;)
        if (jinja_at(p, "|"))
            node = jinja_parse_filters(p, node, 0);
        else if (jinja_skip_name(p, "is"))
            node = parse_test(p, node);
        else if (jinja_at(p, "("))
            node = parse_call(p, node);
        else
            return node;
}

/* ---- values ---- */

static struct jinja_node *parse_list(struct jinja_parser *p)
{
    struct jinja_node *node = jinja_node_new(p, N_LIST);
    jinja_expect(p, "[");
    while (!jinja_at(p, "]")) {
        jinja_node_add(p, node, jinja_parse_expression(p, 1));
        if (!jinja_skip(p, ","))
            break;
    }
    jinja_expect(p, "]");
    return node;
}

static struct jinja_node *parse_dict(struct jinja_parser *p)
{
    struct jinja_node *node = jinja_node_new(p, N_DICT);
    jinja_expect(p, "{");
    while (!jinja_at(p, "}")) {
        jinja_node_add(p, node, jinja_parse_expression(p, 1));
        jinja_expect(p, ":");
        jinja_node_add(p, node, jinja_parse_expression(p, 1));
        if (!jinja_skip(p, ","))
            break;
    }
    jinja_expect(p, "}");
    return node;
}

static struct jinja_node *parse_name(struct jinja_parser *p)
{
    struct slice name = jinja_expect_name(p);
    if (slice_is(name, "true") || slice_is(name, "True"))
        return constant(p, jinja_bool(1));
    if (slice_is(name, "false") || slice_is(name, "False"))
        return constant(p, jinja_bool(0));
    if (jinja_is_constant_name(name))
        return constant(p, jinja_none());
    p->macro_uses |= slice_is(name, "caller")    ? MACRO_CALLER
                     : slice_is(name, "varargs") ? MACRO_VARARGS
                     : slice_is(name, "kwargs")  ? MACRO_KWARGS
                                                 : 0;
    struct jinja_node *node = jinja_node_new(p, N_NAME);
    node->line = p->at[-1].line;
    node->name = jinja_name_number(p->t, name);
    return node;
}

/* Strings next to each other are one. */
static struct jinja_node *parse_string(struct jinja_parser *p)
{
    struct slice text = p->at->text;
    while ((++p->at)->type == T_STRING) {
        struct slice more = p->at->text;
        uint8_t *both = arena_take(&p->t->arena, text.len + more.len + 1);
        memcpy(both, text.at, text.len);
        memcpy(both + text.len, more.at, more.len);
        text = (struct slice){both, text.len + more.len};
    }
    return constant(p, jinja_string_value(jinja_word(p->t, text)));
}

static struct jinja_node *parse_primary(struct jinja_parser *p)
{
    struct jinja_node *node;
    if (p->at->type == T_NAME)
        return parse_name(p);
    if (p->at->type == T_STRING)
        return parse_string(p);
    if (p->at->type == T_INT)
        return constant(p, jinja_int((p->at++)->n));
    if (p->at->type == T_FLOAT)
        return constant(p, jinja_float((p->at++)->f));
    if (jinja_skip(p, "(")) {
        node = jinja_parse_tuple(p, 1, 1, NULL);
        jinja_expect(p, ")");
        return node;
    }
    if (jinja_at(p, "["))
        return parse_list(p);
    if (!jinja_at(p, "{"))
        jinja_expect(p, "an expression");
    return parse_dict(p);
}

/* ---- operators ---- */

static struct jinja_node *parse_unary(struct jinja_parser *p, int with_filter)
{
    struct jinja_node *node;
    jinja_parser_enter(p);
    if (jinja_skip(p, "-"))
        node = node_of(p, N_NEGATIVE, parse_unary(p, 0), NULL);
    else if (jinja_skip(p, "+"))
        node = node_of(p, N_POSITIVE, parse_unary(p, 0), NULL);
    else
        node = parse_primary(p);
    node = parse_postfix(p, node);
    p->depth--;
    return with_filter ? parse_filters_and_tests(p, node) : node;
}

/* A chain of one more operand leans to the left, and so is as deep as it is long. */
static struct jinja_node *binary(
    struct jinja_parser *p, int op, struct jinja_node *a, struct jinja_node *b, int n)
{
    if (n > JINJA_MAX_DEPTH / 2)
        jinja_parse_fail(p, p->at->line, "more than %d operators in a row", JINJA_MAX_DEPTH / 2);
    struct jinja_node *node = node_of(p, N_BINARY, a, b);
    node->op = op;
    return node;
}

static struct jinja_node *parse_power(struct jinja_parser *p)
{
    struct jinja_node *left = parse_unary(p, 1);
    for (int n = 0; jinja_skip(p, "**"); n++)
        left = binary(p, OP_POWER, left, parse_unary(p, 1), n);
    return left;
}

static struct jinja_node *parse_product(struct jinja_parser *p)
{
    struct jinja_node *left = parse_power(p);
    for (int n = 0;; n++) {
        int op = jinja_skip(p, "*")    ? '*'
                 : jinja_skip(p, "/")  ? '/'
                 : jinja_skip(p, "//") ? OP_FLOOR
                 : jinja_skip(p, "%")  ? '%'
                                       : 0;
        if (!op)
            return left;
        left = binary(p, op, left, parse_power(p), n);
    }
}

static struct jinja_node *parse_concat(struct jinja_parser *p)
{
    struct jinja_node *first = parse_product(p), *node;
    if (!jinja_at(p, "~"))
        return first;
    node = jinja_node_new(p, N_CONCAT);
    node->line = first->line;
    jinja_node_add(p, node, first);
    while (jinja_skip(p, "~"))
        jinja_node_add(p, node, parse_product(p));
    return node;
}

static struct jinja_node *parse_sum(struct jinja_parser *p)
{
    struct jinja_node *left = parse_concat(p);
    for (int n = 0;; n++) {
        int op = jinja_skip(p, "+") ? '+' : jinja_skip(p, "-") ? '-' : 0;
        if (!op)
            return left;
        left = binary(p, op, left, parse_concat(p), n);
    }
}

static int skip_comparison(struct jinja_parser *p)
{
    static const char *const operators[] = {"==", "!=", "<", "<=", ">", ">="};
    for (int op = JINJA_EQ; op <= JINJA_GE; op++)
        if (jinja_skip(p, operators[op]))
            return op;
    if (jinja_skip_name(p, "in"))
        return JINJA_IN;
    if (!jinja_at_name(p, "not") || p->at[1].type != T_NAME || !slice_is(p->at[1].text, "in"))
        return -1;
    p->at += 2;
    return JINJA_NOT_IN;
}

static struct jinja_node *parse_comparison(struct jinja_parser *p)
{
    struct jinja_node *first = parse_sum(p), *node = NULL;
    for (int op; (op = skip_comparison(p)) >= 0;) {
        if (!node)
            node = node_of(p, N_COMPARE, first, NULL);
        struct jinja_node *operand = node_of(p, N_OPERAND, parse_sum(p), NULL);
        operand->op = op;
        jinja_node_add(p, node, operand);
    }
    return node ? node : first;
}

static struct jinja_node *parse_not(struct jinja_parser *p)
{
    if (!jinja_skip_name(p, "not"))
        return parse_comparison(p);
    jinja_parser_enter(p);
    struct jinja_node *node = node_of(p, N_NOT, parse_not(p), NULL);
    p->depth--;
    return node;
}

/* `and` and `or` chains are lists of a node's operands. */
static struct jinja_node *parse_chain(struct jinja_parser *p, enum jinja_node_type type,
    const char *word, struct jinja_node *(*parse)(struct jinja_parser *))
{
    struct jinja_node *first = parse(p), *node;
    if (!jinja_at_name(p, word))
        return first;
    node = jinja_node_new(p, type);
    node->line = first->line;
    jinja_node_add(p, node, first);
    while (jinja_skip_name(p, word))
        jinja_node_add(p, node, parse(p));
    return node;
}

static struct jinja_node *parse_and(struct jinja_parser *p)
{
    return parse_chain(p, N_AND, "and", parse_not);
}

static struct jinja_node *parse_or(struct jinja_parser *p)
{
    return parse_chain(p, N_OR, "or", parse_and);
}

struct jinja_node *jinja_parse_expression(struct jinja_parser *p, int with_condition)
{
    jinja_parser_enter(p);
    struct jinja_node *unknown = p->unknown, *node = parse_or(p);
    for (int n = 0; with_condition && jinja_skip_name(p, "if"); n++) {
        struct jinja_node *condition = node_of(p, N_CONDITION, node, parse_or(p));
        if (jinja_skip_name(p, "else"))
            condition->c = jinja_parse_expression(p, 1);
        if (n > JINJA_MAX_DEPTH / 2)
            jinja_parse_fail(p, p->at->line, "too many conditions in a row");
        node = condition;
        p->unknown = unknown;
    }
    p->depth--;
    return node;
}

static int at_tuple_end(const struct jinja_parser *p, const char *end_name)
{
    return p->at->type == T_PRINT_END || p->at->type == T_BLOCK_END || jinja_at(p, ")") ||
           (end_name && jinja_at_name(p, end_name));
}

struct jinja_node *jinja_parse_tuple(
    struct jinja_parser *p, int with_condition, int in_parentheses, const char *end_name)
{
    struct jinja_node *first = NULL, *tuple = NULL;
    if (!at_tuple_end(p, end_name))
        first = jinja_parse_expression(p, with_condition);
    else if (!in_parentheses)
        jinja_expect(p, "an expression");
    if (first && !jinja_at(p, ","))
        return first;
    tuple = jinja_node_new(p, N_TUPLE);
    if (first)
        jinja_node_add(p, tuple, first);
    while (first && jinja_skip(p, ",") && !at_tuple_end(p, end_name))
        jinja_node_add(p, tuple, jinja_parse_expression(p, with_condition));
    return tuple;
}
