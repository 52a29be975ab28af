/* jinja_parse.c - a template's tokens to nodes: statements (jinja_expression.c has the rest). */
#include "broker/text/jinja_private.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "schema/alloc.h"
#include "schema/log.h"

/* ---- statements ---- */

static struct jinja_node *parse_body(struct jinja_parser *p, const char *const *ends);

static void expect_tag_end(struct jinja_parser *p)
{
    if (p->at->type != T_BLOCK_END)
        jinja_fail_expected(p, "%}");
    p->at++;
}

void jinja_fail_unknown(struct jinja_parser *p)
{
    const struct jinja_node *node = p->unknown;
    struct slice name;
    if (!node)
        return;
    name = jinja_slice(node->value.u.s);
    jinja_parse_fail(p, node->line, "the %s %.*s is not supported",
        node->type == N_TEST ? "test" : "filter", (int)(name.len < 60 ? name.len : 60),
        (const char *)name.at);
}

/* The body of a statement up to one of `ends`, whose name is then next. */
static struct jinja_node *parse_block(struct jinja_parser *p, const char *const *ends)
{
    struct jinja_node *unknown = p->unknown;
    p->unknown = NULL;
    jinja_skip(p, ":");
    expect_tag_end(p);
    struct jinja_node *body = parse_body(p, ends);
    jinja_fail_unknown(p);
    p->unknown = unknown;
    return body;
}

/* A body of `if`, where an unknown filter or test counts only when it is reached. */
static struct jinja_node *parse_branch(struct jinja_parser *p, const char *const *ends)
{
    jinja_skip(p, ":");
    expect_tag_end(p);
    return parse_body(p, ends);
}

static struct jinja_node *parse_whole_block(struct jinja_parser *p, const char *end)
{
    const char *const ends[] = {end, NULL};
    struct jinja_node *body = parse_block(p, ends);
    p->at++;
    return body;
}

/* A body whose text is taken: break and continue of a loop around it do not reach into it. */
static struct jinja_node *parse_captured(struct jinja_parser *p, const char *end)
{
    int in_loop = p->in_loop;
    p->in_loop = 0;
    struct jinja_node *body = parse_whole_block(p, end);
    p->in_loop = in_loop;
    return body;
}

static struct jinja_node *parse_if(struct jinja_parser *p)
{
    static const char *const ends[] = {"elif", "else", "endif", NULL};
    struct jinja_node *node = jinja_node_new(p, N_IF), *unknown = p->unknown;
    do {
        jinja_node_add(p, node, jinja_parse_tuple(p, 0, 0, NULL));
        jinja_node_add(p, node, parse_branch(p, ends));
    } while (jinja_skip_name(p, "elif"));
    if (jinja_skip_name(p, "else"))
        node->b = parse_branch(p, ends + 2);
    p->at++;
    p->unknown = unknown;
    return node;
}

static struct jinja_node *parse_for(struct jinja_parser *p)
{
    static const char *const ends[] = {"endfor", "else", NULL};
    struct jinja_node *node = jinja_node_new(p, N_FOR);
    node->a = jinja_parse_target(p, "in");
    if (!jinja_skip_name(p, "in"))
        jinja_fail_expected(p, "in");
    node->b = jinja_parse_tuple(p, 0, 0, "recursive");
    if (jinja_skip_name(p, "if"))
        node->c = jinja_parse_expression(p, 1);
    if (jinja_at_name(p, "recursive"))
        jinja_parse_fail(p, p->at->line, "recursive loops are not supported");
    p->in_loop++;
    jinja_node_add(p, node, parse_block(p, ends));
    p->in_loop--;
    if (jinja_skip_name(p, "else"))
        jinja_node_add(p, node, parse_whole_block(p, "endfor"));
    else
        p->at++;
    return node;
}

static struct jinja_node *parse_set(struct jinja_parser *p)
{
    struct jinja_node *node = jinja_node_new(p, N_SET);
    if (p->at->type == T_NAME && p->at[1].type == T_OPERATOR && slice_is(p->at[1].text, ".")) {
        node->type = N_SET_ATTRIBUTE;
        node->name = jinja_name_number(p->t, jinja_expect_name(p));
        p->at++;
        node->value = jinja_string_value(jinja_word(p->t, jinja_expect_name(p)));
        if (!jinja_at(p, "="))
            jinja_parse_fail(
                p, p->at->line, "a block or a tuple assigned to an attribute is not supported");
    } else
        node->a = jinja_parse_target(p, NULL);
    if (jinja_skip(p, "=")) {
        node->b = jinja_parse_tuple(p, 1, 0, NULL);
        return node;
    }
    node->type = N_SET_BLOCK;
    node->c = jinja_parse_filters(p, NULL, 0);
    node->b = parse_captured(p, "endset");
    return node;
}

static void parse_signature(struct jinja_parser *p, struct jinja_node *node)
{
    uint32_t *names = NULL;
    jinja_expect(p, "(");
    while (!jinja_at(p, ")")) {
        if (node->n_parameters > 0)
            jinja_expect(p, ",");
        struct jinja_node *name = jinja_parse_target_name(p);
        uint32_t *more = arena_take(&p->t->arena, (node->n_parameters + 1) * sizeof *more);
        if (names)
            memcpy(more, names, node->n_parameters * sizeof *more);
        names = more;
        if (slice_is(jinja_slice(p->t->names[name->name]), "caller"))
            jinja_parse_fail(p, name->line, "a parameter named caller is not supported");
        names[node->n_parameters++] = name->name;
        if (jinja_skip(p, "="))
            jinja_node_add(p, node, jinja_parse_expression(p, 1));
        else if (node->n > 0)
            jinja_parse_fail(p, name->line, "a parameter without a default follows one with it");
    }
    node->parameters = names;
    jinja_expect(p, ")");
}

static void parse_macro_body(struct jinja_parser *p, struct jinja_node *node, const char *end)
{
    int uses = p->macro_uses;
    p->macro_uses = 0;
    node->b = parse_captured(p, end);
    node->op = p->macro_uses;
    p->macro_uses |= uses;
}

static struct jinja_node *parse_macro(struct jinja_parser *p)
{
    struct jinja_node *node = jinja_node_new(p, N_MACRO);
    node->name = jinja_parse_target_name(p)->name;
    parse_signature(p, node);
    parse_macro_body(p, node, "endmacro");
    return node;
}

static struct jinja_node *parse_call_block(struct jinja_parser *p)
{
    struct jinja_node *node = jinja_node_new(p, N_CALL_BLOCK);
    if (jinja_at(p, "("))
        parse_signature(p, node);
    node->a = jinja_parse_expression(p, 1);
    if (node->a->type != N_CALL)
        jinja_parse_fail(p, node->line, "expected a call");
    parse_macro_body(p, node, "endcall");
    return node;
}

static struct jinja_node *parse_filter_block(struct jinja_parser *p)
{
    struct jinja_node *node = jinja_node_new(p, N_FILTER_BLOCK);
    node->c = jinja_parse_filters(p, NULL, 1);
    node->b = parse_captured(p, "endfilter");
    return node;
}

static struct jinja_node *parse_with(struct jinja_parser *p)
{
    struct jinja_node *node = jinja_node_new(p, N_WITH);
    while (p->at->type != T_BLOCK_END) {
        if (node->n > 0)
            jinja_expect(p, ",");
        jinja_node_add(p, node, jinja_parse_target_name(p));
        jinja_expect(p, "=");
        jinja_node_add(p, node, jinja_parse_expression(p, 1));
    }
    node->b = parse_whole_block(p, "endwith");
    return node;
}

static struct jinja_node *parse_generation(struct jinja_parser *p)
{
    struct jinja_node *node = jinja_node_new(p, N_GENERATION);
    node->b = parse_captured(p, "endgeneration");
    return node;
}

static struct jinja_node *parse_print(struct jinja_parser *p)
{
    struct jinja_node *body = jinja_node_new(p, N_BODY);
    while (p->at->type != T_BLOCK_END) {
        if (body->n > 0)
            jinja_expect(p, ",");
        struct jinja_node *node = jinja_node_new(p, N_PRINT);
        node->a = jinja_parse_expression(p, 1);
        jinja_node_add(p, body, node);
    }
    return body;
}

static struct jinja_node *parse_jump(struct jinja_parser *p, enum jinja_node_type type)
{
    if (!p->in_loop)
        jinja_parse_fail(
            p, p->at->line, "%s outside of a loop", type == N_BREAK ? "break" : "continue");
    return jinja_node_new(p, type);
}

static struct jinja_node *parse_statement(struct jinja_parser *p)
{
    static const struct {
        const char *name;
        struct jinja_node *(*parse)(struct jinja_parser *);
    } statements[] = {{"if", parse_if}, {"for", parse_for}, {"set", parse_set},
        {"macro", parse_macro}, {"call", parse_call_block}, {"filter", parse_filter_block},
        {"with", parse_with}, {"generation", parse_generation}, {"print", parse_print}};
    uint32_t line = p->at->line;
    struct slice name = jinja_expect_name(p);
    for (size_t i = 0; i < sizeof statements / sizeof statements[0]; i++)
        if (slice_is(name, statements[i].name))
            return statements[i].parse(p);
    if (slice_is(name, "break"))
        return parse_jump(p, N_BREAK);
    if (slice_is(name, "continue"))
        return parse_jump(p, N_CONTINUE);
    jinja_parse_fail(p, line, "the tag %.*s is not expected here, or not supported",
        (int)(name.len < 60 ? name.len : 60), (const char *)name.at);
}

static int at_end(const struct jinja_parser *p, const char *const *ends)
{
    for (; ends && *ends; ends++)
        if (jinja_at_name(p, *ends))
            return 1;
    return 0;
}

static struct jinja_node *parse_data(struct jinja_parser *p)
{
    struct jinja_node *node = jinja_node_new(p, N_TEXT);
    node->value = jinja_string_value(jinja_parser_string(p->t, p->at->text));
    p->at++;
    return node;
}

static struct jinja_node *parse_print_tag(struct jinja_parser *p)
{
    struct jinja_node *node = jinja_node_new(p, N_PRINT);
    p->at++;
    node->a = jinja_parse_tuple(p, 1, 0, NULL);
    if (p->at->type != T_PRINT_END)
        jinja_fail_expected(p, "}}");
    p->at++;
    return node;
}

/* ends: names of tags, one of which ends the body and is then next; NULL: the template's end. */
static struct jinja_node *parse_body(struct jinja_parser *p, const char *const *ends)
{
    struct jinja_node *body = jinja_node_new(p, N_BODY);
    jinja_parser_enter(p);
    for (;;) {
        if (p->at->type == T_DATA)
            jinja_node_add(p, body, parse_data(p));
        else if (p->at->type == T_PRINT)
            jinja_node_add(p, body, parse_print_tag(p));
        else if (p->at->type == T_END) {
            if (ends)
                jinja_parse_fail(p, body->line, "the block that begins here has no %s", ends[0]);
            break;
        } else {
            p->at++;
            if (at_end(p, ends))
                break;
            jinja_node_add(p, body, parse_statement(p));
            expect_tag_end(p);
        }
    }
    p->depth--;
    return body;
}

/* ---- the template ---- */

/* What changes between setjmp and longjmp lies on the heap. */
int jinja_parse(struct jinja **out, struct slice source, struct err *e)
{
    struct jinja_parser *p = xcalloc(1, sizeof *p);
    struct jinja *t = xcalloc(1, sizeof *t);
    p->t = t;
    p->e = e;
    int failed = setjmp(p->fail);
    if (!failed) {
        jinja_name_number(t, (struct slice){(const uint8_t *)"loop", 4}); /* JINJA_LOOP */
        jinja_name_number(t, (struct slice){(const uint8_t *)"caller", 6});
        jinja_lex(p, source);
        p->at = p->tokens;
        t->root = parse_body(p, NULL);
        jinja_fail_unknown(p);
    }
    free(p->tokens);
    free(p);
    *out = t;
    if (failed)
        jinja_free(out);
    return failed ? ASSAY_EFORMAT : 0;
}

void jinja_free(struct jinja **t)
{
    if (!*t)
        return;
    arena_release(&(*t)->arena);
    free((*t)->names);
    free((*t)->words);
    free(*t);
    *t = NULL;
}

static int has_word(const struct jinja_string *s, const char *word)
{
    return s->len > 0 && memmem(s->at, s->len, word, strlen(word)) != NULL;
}

int jinja_mentions(const struct jinja *t, const char *word)
{
    for (uint32_t i = 0; i < t->n_names; i++)
        if (slice_is(jinja_slice(t->names[i]), word))
            return 1;
    for (size_t i = 0; i < t->n_words; i++)
        if (has_word(t->words[i], word))
            return 1;
    return 0;
}
