/* jinja_parse.c - a template's tokens to nodes: statements, and what all parsing shares. */
#include "broker/text/jinja_private.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "schema/alloc.h"
#include "schema/log.h"

/* ---- shared ---- */

void jinja_parse_fail(struct jinja_parser *p, uint32_t line, const char *fmt, ...)
{
    char text[ERR_MESSAGE_BYTES];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    err_set(p->e, ASSAY_EFORMAT, "line %u: %s", line, text);
    longjmp(p->fail, 1);
}

int jinja_is(struct slice s, const char *text)
{
    return s.len == strlen(text) && memcmp(s.at, text, s.len) == 0;
}

int jinja_is_constant_name(struct slice name)
{
    static const char *const names[] = {"true", "false", "none", "True", "False", "None"};
    for (int i = 0; i < 6; i++)
        if (jinja_is(name, names[i]))
            return 1;
    return 0;
}

static struct jinja_string *new_string(struct jinja *t, struct slice text)
{
    struct jinja_string *s = arena_take(&t->arena, sizeof *s);
    *s = (struct jinja_string){.at = text.at, .len = text.len};
    return s;
}

uint32_t jinja_name_number(struct jinja *t, struct slice name)
{
    size_t room = t->names_room;
    for (uint32_t i = 0; i < t->n_names; i++)
        if (t->names[i]->len == name.len && memcmp(t->names[i]->at, name.at, name.len) == 0)
            return i;
    t->names = list_grow(t->names, t->n_names, &room, sizeof *t->names);
    t->names_room = (uint32_t)room;
    t->names[t->n_names] = new_string(t, name);
    return t->n_names++;
}

const struct jinja_string *jinja_word(struct jinja *t, struct slice text)
{
    t->words = list_grow(t->words, t->n_words, &t->words_room, sizeof *t->words);
    return t->words[t->n_words++] = new_string(t, text);
}

struct jinja_node *jinja_node_new(struct jinja_parser *p, enum jinja_node_type type)
{
    struct jinja_node *node = arena_take(&p->t->arena, sizeof *node);
    node->type = type;
    node->line = p->at->line;
    return node;
}

/* Lists double when they are full: at powers of two. */
void jinja_node_add(struct jinja_parser *p, struct jinja_node *node, struct jinja_node *item)
{
    if ((node->n & (node->n - 1)) == 0) {
        struct jinja_node **list =
            arena_take(&p->t->arena, (node->n ? 2 * node->n : 1) * sizeof *list);
        if (node->n > 0)
            memcpy(list, node->list, node->n * sizeof *list);
        node->list = list;
    }
    node->list[node->n++] = item;
}

void jinja_parser_enter(struct jinja_parser *p)
{
    if (++p->depth > JINJA_MAX_DEPTH)
        jinja_parse_fail(p, p->at->line, "nested deeper than %d", JINJA_MAX_DEPTH);
}

int jinja_at(const struct jinja_parser *p, const char *op)
{
    return p->at->type == T_OPERATOR && jinja_is(p->at->text, op);
}

int jinja_at_name(const struct jinja_parser *p, const char *name)
{
    return p->at->type == T_NAME && jinja_is(p->at->text, name);
}

int jinja_skip(struct jinja_parser *p, const char *op)
{
    int found = jinja_at(p, op);
    p->at += found;
    return found;
}

int jinja_skip_name(struct jinja_parser *p, const char *name)
{
    int found = jinja_at_name(p, name);
    p->at += found;
    return found;
}

static void fail_expected(struct jinja_parser *p, const char *expected)
{
    static const char *const kinds[] = {"the end of the template", "text", "{{", "}}", "{%", "%}",
        "the name ", "a string", "a number", "a number", ""};
    struct slice text = {NULL, 0};
    if (p->at->type == T_NAME || p->at->type == T_OPERATOR)
        text = p->at->text;
    jinja_parse_fail(p, p->at->line, "expected %s, found %s%.*s", expected, kinds[p->at->type],
        (int)(text.len < 60 ? text.len : 60), text.len ? (const char *)text.at : "");
}

void jinja_expect(struct jinja_parser *p, const char *op)
{
    if (!jinja_skip(p, op))
        fail_expected(p, op);
}

struct slice jinja_expect_name(struct jinja_parser *p)
{
    if (p->at->type != T_NAME)
        fail_expected(p, "a name");
    return (p->at++)->text;
}

/* ---- targets ---- */

static struct jinja_node *parse_target_name(struct jinja_parser *p)
{
    struct jinja_node *node = jinja_node_new(p, N_NAME);
    struct slice name = jinja_expect_name(p);
    if (jinja_is_constant_name(name))
        jinja_parse_fail(
            p, node->line, "cannot assign to %.*s", (int)name.len, (const char *)name.at);
    node->name = jinja_name_number(p->t, name);
    return node;
}

static struct jinja_node *parse_target_item(struct jinja_parser *p)
{
    if (!jinja_skip(p, "("))
        return parse_target_name(p);
    jinja_parser_enter(p);
    struct jinja_node *node = jinja_parse_target(p, NULL);
    p->depth--;
    jinja_expect(p, ")");
    return node;
}

struct jinja_node *jinja_parse_target(struct jinja_parser *p, const char *end_name)
{
    struct jinja_node *tuple = NULL, *first = parse_target_item(p);
    while (jinja_skip(p, ",")) {
        if (!tuple) {
            tuple = jinja_node_new(p, N_TUPLE);
            jinja_node_add(p, tuple, first);
        }
        if (jinja_at(p, "=") || jinja_at(p, ")") || (end_name && jinja_at_name(p, end_name)))
            break;
        jinja_node_add(p, tuple, parse_target_item(p));
    }
    return tuple ? tuple : first;
}

/* ---- statements ---- */

static struct jinja_node *parse_body(struct jinja_parser *p, const char *const *ends);

static void expect_tag_end(struct jinja_parser *p)
{
    if (p->at->type != T_BLOCK_END)
        fail_expected(p, "%}");
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
        fail_expected(p, "in");
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
    if (p->at->type == T_NAME && p->at[1].type == T_OPERATOR && jinja_is(p->at[1].text, ".")) {
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
        struct jinja_node *name = parse_target_name(p);
        uint32_t *more = arena_take(&p->t->arena, (node->n_parameters + 1) * sizeof *more);
        if (names)
            memcpy(more, names, node->n_parameters * sizeof *more);
        names = more;
        if (jinja_is(jinja_slice(p->t->names[name->name]), "caller"))
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
    node->name = parse_target_name(p)->name;
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
        jinja_node_add(p, node, parse_target_name(p));
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
        if (jinja_is(name, statements[i].name))
            return statements[i].parse(p);
    if (jinja_is(name, "break"))
        return parse_jump(p, N_BREAK);
    if (jinja_is(name, "continue"))
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
    node->value = jinja_string_value(new_string(p->t, p->at->text));
    p->at++;
    return node;
}

static struct jinja_node *parse_print_tag(struct jinja_parser *p)
{
    struct jinja_node *node = jinja_node_new(p, N_PRINT);
    p->at++;
    node->a = jinja_parse_tuple(p, 1, 0, NULL);
    if (p->at->type != T_PRINT_END)
        fail_expected(p, "}}");
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
        if (jinja_is(jinja_slice(t->names[i]), word))
            return 1;
    for (size_t i = 0; i < t->n_words; i++)
        if (has_word(t->words[i], word))
            return 1;
    return 0;
}
