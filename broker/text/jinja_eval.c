/* jinja_eval.c - an evaluation: its state, scopes, and statements.
 *
 * Scopes are jinja2's: a loop's body has one for each pass, a macro's body one whose parent is
 * where the macro was defined, a set block, a filter block, `with` and generation one each; `if`
 * has none. A name is looked up outwards; what is assigned stays in the innermost scope. */
#include "broker/text/jinja_private.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "schema/alloc.h"
#include "schema/log.h"

#define STEPS_PER_INPUT_BYTE 4
#define BYTES_PER_INPUT_BYTE 16

/* How a statement ended. */
enum flow { FLOW_ON, FLOW_BREAK, FLOW_CONTINUE };

static enum flow run_body(struct jinja_run *r, const struct jinja_node *node);

/* ---- the state ---- */

struct jinja_run *jinja_run_new(void)
{
    return xcalloc(1, sizeof(struct jinja_run));
}

void jinja_run_free(struct jinja_run **run)
{
    struct jinja_run *r = *run;
    if (!r)
        return;
    arena_release(&r->arena);
    buffer_release(&r->out);
    free(r->variables);
    free(r->marks);
    free(r);
    *run = NULL;
}

void jinja_begin(struct jinja_run *r, const struct jinja *t)
{
    arena_clear(&r->arena);
    r->t = t;
    r->out.len = 0;
    r->n_marks = 0;
    r->input_bytes = 0;
    if (r->variables_room < t->n_names) {
        free(r->variables);
        r->variables = xcalloc(t->n_names, sizeof *r->variables);
        r->variables_room = t->n_names;
    }
    if (t->n_names > 0)
        memset(r->variables, 0, t->n_names * sizeof *r->variables);
}

int jinja_set_date(struct jinja_run *r, const char *date, struct err *e)
{
    static const int days[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    int end = 0;
    int n = sscanf(date, "%4d-%2d-%2d%n", &r->year, &r->month, &r->day, &end);
    int is_leap = r->year % 4 == 0 && (r->year % 100 != 0 || r->year % 400 == 0);
    if (n != 3 || end != 10 || date[10] || date[4] != '-' || r->year < 1 || r->month < 1 ||
        r->month > 12 || r->day < 1 || r->day > days[r->month - 1] + (r->month == 2 && is_leap))
        return err_set(e, ASSAY_EFORMAT, "expected a day as YYYY-MM-DD, found '%s'", date);
    r->has_date = 1;
    return 0;
}

int jinja_write(struct jinja_run *r, struct jinja_text *out, struct err *e)
{
    r->e = e;
    r->line = 1;
    r->depth = r->calls = 0;
    r->scope = NULL;
    r->steps = JINJA_STEPS + STEPS_PER_INPUT_BYTE * r->input_bytes;
    r->max_bytes = JINJA_BYTES + BYTES_PER_INPUT_BYTE * r->input_bytes + r->arena.bytes;
    if (setjmp(r->fail) != 0)
        return ASSAY_EBADTEXT;
    run_body(r, r->t->root);
    *out = (struct jinja_text){r->out.at, r->out.len, r->marks, r->n_marks};
    return 0;
}

/* ---- scopes ---- */

struct jinja_scope *jinja_scope_new(struct jinja_run *r, struct jinja_scope *parent)
{
    struct jinja_scope *s = jinja_take(r, sizeof *s);
    s->parent = parent;
    s->at = s->inside;
    s->room = sizeof s->inside / sizeof s->inside[0];
    return s;
}

static struct jinja_variable *find_in(struct jinja_scope *s, uint32_t name)
{
    for (uint32_t i = 0; i < s->n; i++)
        if (s->at[i].name == name)
            return &s->at[i];
    return NULL;
}

static void grow_scope(struct jinja_run *r, struct jinja_scope *s)
{
    struct jinja_variable *more = jinja_take(r, 2 * s->room * sizeof *more);
    memcpy(more, s->at, s->n * sizeof *more);
    s->at = more;
    s->room *= 2;
}

void jinja_assign(struct jinja_run *r, uint32_t name, struct jinja_value v)
{
    struct jinja_scope *s = r->scope;
    struct jinja_variable *found = s ? find_in(s, name) : NULL;
    if (!s) {
        r->variables[name] = v;
        return;
    }
    if (!found) {
        if (s->n == s->room)
            grow_scope(r, s);
        found = &s->at[s->n++];
    }
    *found = (struct jinja_variable){name, v};
}

struct jinja_value jinja_lookup(struct jinja_run *r, uint32_t name)
{
    for (struct jinja_scope *s = r->scope; s; s = s->parent) {
        const struct jinja_variable *found = find_in(s, name);
        if (found && found->value.kind != J_MISSING)
            return found->value;
    }
    if (r->variables[name].kind != J_MISSING)
        return r->variables[name];
    struct slice text = jinja_slice(r->t->names[name]);
    const struct jinja_builtin *global = jinja_global(text);
    if (global)
        return (struct jinja_value){.kind = J_FUNCTION, .u.function = global};
    if (slice_is(text, "cycler") || slice_is(text, "joiner") || slice_is(text, "lipsum") ||
        slice_is(text, "self"))
        jinja_fail(r, "%.*s is not supported", (int)text.len, (const char *)text.at);
    return jinja_undefined(r, text);
}

static void assign_to(struct jinja_run *r, const struct jinja_node *target, struct jinja_value v)
{
    if (target->type == N_NAME) {
        jinja_assign(r, target->name, v);
        return;
    }
    const struct jinja_seq *q = jinja_items(r, v);
    if (q->n != target->n)
        jinja_fail(r, "expected %u values to unpack, found %zu", target->n, q->n);
    for (uint32_t i = 0; i < target->n; i++)
        assign_to(r, target->list[i], q->at[i]);
}

/* ---- macros ---- */

/* Takes the argument of this name out of the call's keywords; *given counts those taken. */
static struct jinja_value keyword(
    const struct jinja_call *call, const struct jinja_string *name, uint32_t *given)
{
    for (uint32_t i = 0; i < call->n_keywords; i++)
        if (call->names[i]->len == name->len &&
            memcmp(call->names[i]->at, name->at, name->len) == 0) {
            ++*given;
            return call->keyword[i];
        }
    return (struct jinja_value){.kind = J_MISSING};
}

static void bind_parameters(
    struct jinja_run *r, const struct jinja_node *node, const struct jinja_call *call)
{
    uint32_t given = 0, n = node->n_parameters;
    for (uint32_t i = 0; i < n; i++) {
        struct jinja_value v =
            i < call->n ? call->at[i] : keyword(call, r->t->names[node->parameters[i]], &given);
        jinja_assign(r, node->parameters[i], v);
    }
    if (call->n > n)
        jinja_fail(r, "the macro takes %u arguments, found %u", n, call->n);
    if (given < call->n_keywords)
        jinja_fail(r, "the macro was given an argument that it does not have, or has already");
    for (uint32_t i = 0; i < n; i++) {
        uint32_t from = n - node->n;
        if (find_in(r->scope, node->parameters[i])->value.kind != J_MISSING)
            continue;
        jinja_assign(r, node->parameters[i],
            i >= from ? jinja_eval(r, node->list[i - from])
                      : jinja_undefined(r, jinja_slice(r->t->names[node->parameters[i]])));
    }
}

/* caller: the block of a call block, or NULL. */
static struct jinja_value run_macro(struct jinja_run *r, const struct jinja_macro *m,
    const struct jinja_call *call, const struct jinja_value *caller)
{
    const struct jinja_node *node = m->node;
    struct jinja_scope *scope = r->scope;
    uint32_t line = r->line;
    size_t begin = jinja_mark_here(r);
    if (node->op & (MACRO_VARARGS | MACRO_KWARGS))
        jinja_fail(r, "varargs and kwargs of macros are not supported");
    if (caller && !(node->op & MACRO_CALLER))
        jinja_fail(r, "the macro does not use its caller");
    if (++r->calls > JINJA_MAX_CALLS)
        jinja_fail(r, "macros call one another deeper than %d", JINJA_MAX_CALLS);
    jinja_enter(r);
    r->scope = jinja_scope_new(r, m->scope);
    if (node->op & MACRO_CALLER)
        jinja_assign(r, JINJA_CALLER, caller ? *caller : jinja_undefined_text(r, "caller"));
    bind_parameters(r, node, call);
    run_body(r, node->b);
    r->scope = scope;
    r->line = line;
    r->calls--;
    jinja_leave(r);
    return jinja_cut(r, begin);
}

struct jinja_value jinja_call_macro(
    struct jinja_run *r, const struct jinja_macro *m, const struct jinja_call *call)
{
    return run_macro(r, m, call, NULL);
}

static struct jinja_value new_macro(struct jinja_run *r, const struct jinja_node *node)
{
    struct jinja_macro *m = jinja_take(r, sizeof *m);
    *m = (struct jinja_macro){node, r->scope};
    return (struct jinja_value){.kind = J_MACRO, .u.macro = m};
}

static void run_call_block(struct jinja_run *r, const struct jinja_node *node)
{
    struct jinja_value caller = new_macro(r, node), callee = jinja_eval(r, node->a->a);
    struct jinja_call call = jinja_arguments(r, node->a);
    if (callee.kind != J_MACRO)
        jinja_fail(r, "a call block calls a %s; expected a macro", jinja_type_name(callee));
    struct jinja_value text = run_macro(r, callee.u.macro, &call, &caller);
    jinja_put_string(r, text.u.s);
}

/* ---- loops ---- */

/* The next item that the loop's filter lets through; J_MISSING: none. */
static struct jinja_value pull(struct jinja_run *r, struct jinja_loop *loop)
{
    const struct jinja_node *node = loop->node;
    while (loop->next < loop->items->n) {
        struct jinja_value v = loop->items->at[loop->next++];
        if (!node->c)
            return v;
        struct jinja_scope *scope = r->scope;
        r->scope = jinja_scope_new(r, loop->scope);
        assign_to(r, node->a, v);
        int passes = jinja_true(r, jinja_eval(r, node->c));
        r->scope = scope;
        if (passes)
            return v;
    }
    return (struct jinja_value){.kind = J_MISSING};
}

static struct jinja_value peek(struct jinja_run *r, struct jinja_loop *loop)
{
    if (loop->after.kind == J_MISSING)
        loop->after = pull(r, loop);
    return loop->after;
}

/* With a filter, all that is left is read to be counted, as in jinja2. */
static int64_t loop_length(struct jinja_run *r, struct jinja_loop *loop)
{
    if (loop->length < 0) {
        struct jinja_seq *rest = jinja_seq_new(r, SEQ_LIST).u.q;
        for (struct jinja_value v; (v = pull(r, loop)).kind != J_MISSING;)
            jinja_seq_add(r, rest, v);
        loop->length = (int64_t)rest->n + loop->index0 + 1 + (loop->after.kind != J_MISSING);
        struct jinja_node *plain = jinja_take(r, sizeof *plain);
        *plain = *loop->node;
        plain->c = NULL; /* what is left has passed the filter */
        loop->node = plain;
        loop->items = rest;
        loop->next = 0;
    }
    return loop->length;
}

struct jinja_value jinja_loop_attribute(
    struct jinja_run *r, struct jinja_loop *loop, const struct jinja_string *name)
{
    struct slice s = jinja_slice(name);
    if (slice_is(s, "index"))
        return jinja_int(loop->index0 + 1);
    if (slice_is(s, "index0"))
        return jinja_int(loop->index0);
    if (slice_is(s, "first"))
        return jinja_bool(loop->index0 == 0);
    if (slice_is(s, "last"))
        return jinja_bool(peek(r, loop).kind == J_MISSING);
    if (slice_is(s, "length"))
        return jinja_int(loop_length(r, loop));
    if (slice_is(s, "revindex"))
        return jinja_int(loop_length(r, loop) - loop->index0);
    if (slice_is(s, "revindex0"))
        return jinja_int(loop_length(r, loop) - loop->index0 - 1);
    if (slice_is(s, "previtem"))
        return loop->index0 == 0 ? jinja_undefined(r, s) : loop->before;
    if (slice_is(s, "nextitem"))
        return peek(r, loop).kind == J_MISSING ? jinja_undefined(r, s) : loop->after;
    if (slice_is(s, "depth") || slice_is(s, "depth0"))
        return jinja_int(slice_is(s, "depth"));
    return (struct jinja_value){.kind = J_MISSING};
}

static int next_pass(struct jinja_run *r, struct jinja_loop *loop)
{
    struct jinja_value v = loop->after.kind != J_MISSING ? loop->after : pull(r, loop);
    if (v.kind == J_MISSING)
        return 0;
    loop->after.kind = J_MISSING;
    loop->index0++;
    loop->before = loop->current;
    loop->current = v;
    return 1;
}

static enum flow run_else(struct jinja_run *r, const struct jinja_node *node)
{
    struct jinja_scope *scope = r->scope;
    if (node->n < 2)
        return FLOW_ON;
    r->scope = jinja_scope_new(r, scope);
    enum flow flow = run_body(r, node->list[1]);
    r->scope = scope;
    return flow;
}

/* The `else` is for a loop of which no pass came to its end: all were left by continue or break. */
static enum flow run_for(struct jinja_run *r, const struct jinja_node *node)
{
    struct jinja_value of = jinja_eval(r, node->b);
    struct jinja_loop *loop = jinja_take(r, sizeof *loop);
    struct jinja_scope *scope = r->scope;
    struct jinja_value self = {.kind = J_LOOP, .u.loop = loop};
    enum flow flow = FLOW_ON;
    int ended = 0;
    *loop = (struct jinja_loop){.node = node, .scope = scope, .index0 = -1, .length = -1};
    loop->items = jinja_items(r, of);
    if (!node->c && !(of.kind == J_SEQ && of.u.q->type == SEQ_ITERATOR))
        loop->length = (int64_t)loop->items->n;
    while (flow != FLOW_BREAK && next_pass(r, loop)) {
        jinja_spend(r, 1);
        r->scope = jinja_scope_new(r, scope);
        assign_to(r, node->a, loop->current);
        jinja_assign(r, JINJA_LOOP, self);
        flow = run_body(r, node->list[0]);
        r->scope = scope;
        ended |= flow == FLOW_ON;
    }
    return ended ? FLOW_ON : run_else(r, node);
}

/* ---- statements ---- */

static void set_attribute(struct jinja_run *r, const struct jinja_node *node)
{
    struct jinja_value v = jinja_eval(r, node->b), ns = jinja_lookup(r, node->name);
    if (ns.kind != J_NAMESPACE)
        jinja_fail(r, "cannot set an attribute of a %s; expected a namespace", jinja_type_name(ns));
    if (node->value.u.s->len > 0 && node->value.u.s->at[0] == '_')
        jinja_fail(r, "an attribute of a namespace begins with an underscore");
    jinja_dict_put(r, ns.u.d, node->value, v);
}

/* Runs a body in a scope of its own and returns its text, through filters if there are any. */
static struct jinja_value capture(struct jinja_run *r, const struct jinja_node *node)
{
    struct jinja_scope *scope = r->scope;
    size_t begin = jinja_mark_here(r);
    r->scope = jinja_scope_new(r, scope);
    run_body(r, node->b);
    struct jinja_value text = jinja_cut(r, begin);
    r->scope = scope;
    return text;
}

static struct jinja_value apply_filters(
    struct jinja_run *r, const struct jinja_node *filter, struct jinja_value v)
{
    if (!filter)
        return v;
    return jinja_apply(r, filter, apply_filters(r, filter->a, v));
}

static enum flow run_with(struct jinja_run *r, const struct jinja_node *node)
{
    struct jinja_scope *scope = r->scope, *own = jinja_scope_new(r, scope);
    for (uint32_t i = 0; i < node->n; i += 2) {
        struct jinja_value v = jinja_eval(r, node->list[i + 1]); /* in the scope around it */
        r->scope = own;
        assign_to(r, node->list[i], v);
        r->scope = scope;
    }
    r->scope = own;
    enum flow flow = run_body(r, node->b);
    r->scope = scope;
    return flow;
}

static enum flow run_if(struct jinja_run *r, const struct jinja_node *node)
{
    for (uint32_t i = 0; i < node->n; i += 2) {
        r->line = node->list[i]->line;
        if (jinja_true(r, jinja_eval(r, node->list[i])))
            return run_body(r, node->list[i + 1]);
    }
    return node->b ? run_body(r, node->b) : FLOW_ON;
}

static enum flow run_statement(struct jinja_run *r, const struct jinja_node *node)
{
    struct jinja_value v;
    switch (node->type) {
    case N_TEXT:
        jinja_put(r, node->value.u.s->at, node->value.u.s->len);
        break;
    case N_PRINT:
        v = jinja_eval(r, node->a);
        jinja_put_value(r, v);
        break;
    case N_BODY:
        return run_body(r, node);
    case N_IF:
        return run_if(r, node);
    case N_FOR:
        return run_for(r, node);
    case N_SET:
        assign_to(r, node->a, jinja_eval(r, node->b));
        break;
    case N_SET_ATTRIBUTE:
        set_attribute(r, node);
        break;
    case N_SET_BLOCK:
        v = apply_filters(r, node->c, capture(r, node));
        assign_to(r, node->a, v);
        break;
    case N_FILTER_BLOCK:
        v = apply_filters(r, node->c, capture(r, node));
        jinja_put_value(r, v);
        break;
    case N_GENERATION:
        jinja_put_string(r, capture(r, node).u.s);
        break;
    case N_MACRO:
        jinja_assign(r, node->name, new_macro(r, node));
        break;
    case N_CALL_BLOCK:
        run_call_block(r, node);
        break;
    case N_WITH:
        return run_with(r, node);
    case N_BREAK:
        return FLOW_BREAK;
    default:
        return FLOW_CONTINUE;
    }
    return FLOW_ON;
}

static enum flow run_body(struct jinja_run *r, const struct jinja_node *node)
{
    enum flow flow = FLOW_ON;
    jinja_enter(r);
    for (uint32_t i = 0; flow == FLOW_ON && i < node->n; i++) {
        jinja_spend(r, 1);
        r->line = node->list[i]->line;
        flow = run_statement(r, node->list[i]);
    }
    jinja_leave(r);
    return flow;
}
