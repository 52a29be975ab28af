/* jinja_parser.c - what all parsing of a template shares: errors, names, nodes, the next token, and
 * the targets of set and for. */
#include "broker/text/jinja_private.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "schema/alloc.h"

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

int jinja_is_constant_name(struct slice name)
{
    static const char *const names[] = {"true", "false", "none", "True", "False", "None"};
    for (int i = 0; i < 6; i++)
        if (slice_is(name, names[i]))
            return 1;
    return 0;
}

struct jinja_string *jinja_parser_string(struct jinja *t, struct slice text)
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
    t->names[t->n_names] = jinja_parser_string(t, name);
    return t->n_names++;
}

const struct jinja_string *jinja_word(struct jinja *t, struct slice text)
{
    t->words = list_grow(t->words, t->n_words, &t->words_room, sizeof *t->words);
    return t->words[t->n_words++] = jinja_parser_string(t, text);
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
    return p->at->type == T_OPERATOR && slice_is(p->at->text, op);
}

int jinja_at_name(const struct jinja_parser *p, const char *name)
{
    return p->at->type == T_NAME && slice_is(p->at->text, name);
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

void jinja_fail_expected(struct jinja_parser *p, const char *expected)
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
        jinja_fail_expected(p, op);
}

struct slice jinja_expect_name(struct jinja_parser *p)
{
    if (p->at->type != T_NAME)
        jinja_fail_expected(p, "a name");
    return (p->at++)->text;
}

/* ---- targets ---- */

struct jinja_node *jinja_parse_target_name(struct jinja_parser *p)
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
        return jinja_parse_target_name(p);
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
