/* jinja_private.h - what the files of the interpreter (jinja.h) share: values, nodes, the state of
 * a parse and of an evaluation.
 *
 * Errors leave by longjmp, from anywhere, to jinja_parse or jinja_write: all that a parse or an
 * evaluation holds lies in its arena, or in buffers of the run, so nothing is lost on the way. */
#ifndef ASSAY_JINJA_PRIVATE_H
#define ASSAY_JINJA_PRIVATE_H

#include <setjmp.h>

#include "broker/text/buffer.h"
#include "broker/text/jinja.h"

#define JINJA_MAX_DEPTH 200     /* of nested expressions and statements in a template */
#define JINJA_MAX_NESTED 1000   /* of calls into one another in an evaluation, as in Python */
#define JINJA_MAX_CALLS 100     /* of macros in one another */
#define JINJA_STEPS (1u << 20)  /* of an evaluation, with JINJA_STEPS_PER_BYTE of input more */
#define JINJA_BYTES (16u << 20) /* of memory and of text, with a multiple of the input more */
#define JINJA_MAX_RANGE 100000  /* jinja2's own limit */

/* ---- memory ---- */

struct jinja_block {
    struct jinja_block *next;
    size_t room, used;
    _Alignas(16) uint8_t bytes[];
};

struct jinja_arena {
    struct jinja_block *first, *now;
    size_t bytes; /* handed out */
};

void *arena_take(struct jinja_arena *a, size_t n); /* zeroed, 16-aligned; dies without memory */
void arena_clear(struct jinja_arena *a);
void arena_release(struct jinja_arena *a);

/* ---- values ---- */

enum jinja_kind {
    J_MISSING, /* no value at all: an argument that was not given, a name that is not set */
    J_UNDEFINED,
    J_NONE,
    J_BOOL,
    J_INT,
    J_FLOAT,
    J_STR,
    J_SEQ,
    J_DICT,
    J_NAMESPACE,
    J_MACRO,
    J_LOOP,
    J_METHOD,
    J_FUNCTION,
};

struct jinja_string {
    const uint8_t *at; /* UTF-8 */
    size_t len;
    const struct jinja_mark *marks;
    uint32_t n_marks;
    int markup; /* made by |safe or |escape: Markup, which + and the methods treat otherwise */
};

enum jinja_seq_type {
    SEQ_LIST,
    SEQ_TUPLE,
    SEQ_RANGE,
    SEQ_KEYS,
    SEQ_VALUES,
    SEQ_ITEMS,
    SEQ_ITERATOR
};

struct jinja_value {
    uint8_t kind;
    union {
        int64_t n; /* J_BOOL, J_INT */
        double f;
        const struct jinja_string *s; /* of J_UNDEFINED: its name in messages */
        struct jinja_seq *q;
        struct jinja_dict *d; /* J_DICT, J_NAMESPACE */
        struct jinja_macro *macro;
        struct jinja_loop *loop;
        const struct jinja_method *method;
        const struct jinja_builtin *function;
    } u;
};

struct jinja_seq {
    struct jinja_value *at;
    size_t n, room, next; /* next: of an iterator, which is read once */
    enum jinja_seq_type type;
    int is_group; /* of groupby: a tuple whose items have the names grouper and list too */
};

struct jinja_dict {
    struct jinja_value *keys, *values;
    size_t n, room;
};

/* A function of the tables. */
struct jinja_run;
#define JINJA_MAX_PARAMETERS 6
typedef struct jinja_value jinja_builtin_function(
    struct jinja_run *r, struct jinja_value self, const struct jinja_value *p);
struct jinja_builtin {
    const char *name;
    const char *parameters; /* their names, or "/" and names that are not keywords */
    int n_required;
    jinja_builtin_function *call;
};

struct jinja_method {
    struct jinja_value self;
    const struct jinja_builtin *function;
};

/* ---- nodes ---- */

enum jinja_node_type {
    /* expressions */
    N_CONST,
    N_NAME,
    N_LIST,
    N_TUPLE,
    N_DICT, /* list: key, value, key, .. */
    N_AND,
    N_OR,
    N_NOT,
    N_NEGATIVE,
    N_POSITIVE,
    N_BINARY,    /* op: '+' '-' '*' '/' '%', OP_FLOOR, OP_POWER */
    N_CONCAT,    /* list */
    N_COMPARE,   /* a, then list of N_OPERAND */
    N_OPERAND,   /* op: JINJA_EQ .. */
    N_CONDITION, /* a if b else c (may be NULL) */
    N_ATTRIBUTE, /* a, value: the name */
    N_ITEM,      /* a[b] */
    N_SLICE,     /* [a:b:c], each may be NULL */
    N_CALL,      /* a(list) */
    N_FILTER,    /* a|function(list); a is NULL for a block's text; value: its name */
    N_TEST,      /* a is function(list); function NULL: an error when it is reached */
    /* statements */
    N_BODY, /* list */
    N_TEXT,
    N_PRINT,
    N_IF,  /* list: test, body, test, body ..; b: else */
    N_FOR, /* target a in b if c: body list[0], else list[1] */
    N_SET,
    N_SET_ATTRIBUTE, /* of a namespace: name, value; a: the expression */
    N_SET_BLOCK,     /* a: target; b: body; c: filters */
    N_MACRO,
    N_CALL_BLOCK,
    N_FILTER_BLOCK, /* b: body; c: filters */
    N_WITH,         /* list: target, value, ..; b: body */
    N_GENERATION,   /* b */
    N_BREAK,
    N_CONTINUE,
};

enum { OP_FLOOR = 'f', OP_POWER = 'p' };
enum jinja_comparison {
    JINJA_EQ,
    JINJA_NE,
    JINJA_LT,
    JINJA_LE,
    JINJA_GT,
    JINJA_GE,
    JINJA_IN,
    JINJA_NOT_IN
};
enum { MACRO_CALLER = 1, MACRO_VARARGS = 2, MACRO_KWARGS = 4 };

struct jinja_node {
    enum jinja_node_type type;
    int op; /* N_MACRO, N_CALL_BLOCK: MACRO_ flags */
    uint32_t line;
    uint32_t name; /* N_NAME, N_MACRO, N_SET_ATTRIBUTE */
    struct jinja_node *a, *b, *c;
    struct jinja_node **list;
    uint32_t n, n_keywords; /* of the list; the last n_keywords are keyword arguments, named: */
    const struct jinja_string *const *keywords;
    uint32_t n_parameters; /* N_MACRO, N_CALL_BLOCK: names; the last n of them have defaults list */
    const uint32_t *parameters;
    const struct jinja_builtin *function;
    struct jinja_value value;
};

/* The numbers of the names that the interpreter itself assigns. */
enum { JINJA_LOOP, JINJA_CALLER };

struct jinja {
    struct jinja_arena arena;
    struct jinja_node *root;
    const struct jinja_string **names; /* variables by number */
    uint32_t n_names, names_room;
    const struct jinja_string **words; /* attributes and strings */
    size_t n_words, words_room;
};

/* ---- parsing ---- */

enum jinja_token_type {
    T_END,
    T_DATA,
    T_PRINT,
    T_PRINT_END,
    T_BLOCK,
    T_BLOCK_END,
    T_NAME,
    T_STRING,
    T_INT,
    T_FLOAT,
    T_OPERATOR
};

struct jinja_token {
    enum jinja_token_type type;
    uint32_t line;
    struct slice text; /* T_STRING: its value */
    int64_t n;
    double f;
};

struct jinja_parser {
    struct jinja *t;
    const struct jinja_token *at;
    struct jinja_token *tokens;
    size_t n_tokens, tokens_room;
    int depth, in_loop;
    int macro_uses;             /* MACRO_ flags of the macro under way */
    struct jinja_node *unknown; /* the first filter or test here that the tables have not */
    struct err *e;
    jmp_buf fail;
};

/* Fills p->tokens, ending in T_END. */
void jinja_lex(struct jinja_parser *p, struct slice source);
void jinja_parse_fail(struct jinja_parser *p, uint32_t line, const char *fmt, ...)
    __attribute__((noreturn, format(printf, 3, 4)));
void jinja_fail_unknown(struct jinja_parser *p); /* fails if there is one */
struct jinja_node *jinja_node_new(struct jinja_parser *p, enum jinja_node_type type);
void jinja_node_add(struct jinja_parser *p, struct jinja_node *node, struct jinja_node *item);
uint32_t jinja_name_number(struct jinja *t, struct slice name);
const struct jinja_string *jinja_word(struct jinja *t, struct slice text);
int jinja_at(const struct jinja_parser *p, const char *op); /* is this operator next? */
int jinja_at_name(const struct jinja_parser *p, const char *name);
int jinja_skip(struct jinja_parser *p, const char *op);
int jinja_skip_name(struct jinja_parser *p, const char *name);
void jinja_expect(struct jinja_parser *p, const char *op);
struct slice jinja_expect_name(struct jinja_parser *p);
void jinja_fail_expected(struct jinja_parser *p, const char *expected);
void jinja_parser_enter(struct jinja_parser *p);
/* Copies the text into the template. */
struct jinja_string *jinja_parser_string(struct jinja *t, struct slice text);
/* with_condition: `a if b` may follow. */
struct jinja_node *jinja_parse_expression(struct jinja_parser *p, int with_condition);
/* end_name: a name that ends the tuple, or NULL. */
struct jinja_node *jinja_parse_tuple(
    struct jinja_parser *p, int with_condition, int in_parentheses, const char *end_name);
struct jinja_node *jinja_parse_target_name(struct jinja_parser *p);
struct jinja_node *jinja_parse_target(struct jinja_parser *p, const char *end_name);
struct jinja_node *jinja_parse_filters(struct jinja_parser *p, struct jinja_node *node, int begun);
int jinja_is_constant_name(struct slice name);

/* ---- an evaluation ---- */

struct jinja_variable {
    uint32_t name;
    struct jinja_value value;
};

struct jinja_scope {
    struct jinja_scope *parent; /* NULL: the variables by number in the run */
    struct jinja_variable *at;
    uint32_t n, room;
    struct jinja_variable inside[4];
};

struct jinja_macro {
    const struct jinja_node *node;
    struct jinja_scope *scope; /* where it was defined */
};

struct jinja_loop {
    const struct jinja_node *node;
    struct jinja_scope *scope; /* of the filter */
    struct jinja_seq *items;
    size_t next; /* item to look at */
    struct jinja_value after, current, before, last_changed;
    int64_t index0, length; /* length -1: not known yet */
};

struct jinja_run {
    const struct jinja *t;
    struct jinja_arena arena;
    struct jinja_value *variables; /* by number */
    size_t variables_room;
    struct jinja_scope *scope;
    struct buffer out;
    struct jinja_mark *marks;
    size_t n_marks, marks_room;
    size_t input_bytes, steps, max_bytes;
    uint32_t line;
    int depth, calls;
    int has_date, year, month, day;
    struct err *e;
    jmp_buf fail;
};

void jinja_fail(struct jinja_run *r, const char *fmt, ...)
    __attribute__((noreturn, format(printf, 2, 3)));
void *jinja_take(struct jinja_run *r, size_t n); /* from the arena, within the limit */
void jinja_spend(struct jinja_run *r, size_t steps);

/* Goes one level deeper into expressions or values; jinja_leave comes back. */
void jinja_enter(struct jinja_run *r);
static inline void jinja_leave(struct jinja_run *r)
{
    r->depth--;
}

/* values, jinja_value.c */
static inline struct jinja_value jinja_bool(int v)
{
    return (struct jinja_value){.kind = J_BOOL, .u.n = v != 0};
}
static inline struct jinja_value jinja_int(int64_t v)
{
    return (struct jinja_value){.kind = J_INT, .u.n = v};
}
static inline struct jinja_value jinja_float(double v)
{
    return (struct jinja_value){.kind = J_FLOAT, .u.f = v};
}
static inline struct jinja_value jinja_none(void)
{
    return (struct jinja_value){.kind = J_NONE};
}
static inline struct jinja_value jinja_string_value(const struct jinja_string *s)
{
    return (struct jinja_value){.kind = J_STR, .u.s = s};
}
static inline int jinja_is_number(struct jinja_value v)
{
    return v.kind == J_BOOL || v.kind == J_INT || v.kind == J_FLOAT;
}
static inline struct slice jinja_slice(const struct jinja_string *s)
{
    return (struct slice){s->at, s->len};
}
struct jinja_value jinja_undefined(struct jinja_run *r, struct slice name);
struct jinja_value jinja_undefined_text(struct jinja_run *r, const char *name);
struct jinja_value jinja_literal(struct jinja_run *r, const char *text);
/* A part of a string: the same bytes, its marks. */
struct jinja_value jinja_part(
    struct jinja_run *r, const struct jinja_string *s, size_t from, size_t len);
struct jinja_value jinja_seq_new(struct jinja_run *r, enum jinja_seq_type type);
void jinja_seq_add(struct jinja_run *r, struct jinja_seq *q, struct jinja_value v);
struct jinja_value jinja_dict_new(struct jinja_run *r, enum jinja_kind kind);
void jinja_dict_put(
    struct jinja_run *r, struct jinja_dict *d, struct jinja_value key, struct jinja_value v);
/* NULL: not there. */
struct jinja_value *jinja_dict_find(
    struct jinja_run *r, const struct jinja_dict *d, struct jinja_value key);
struct jinja_value *jinja_dict_get(
    struct jinja_run *r, const struct jinja_dict *d, struct slice key);
int jinja_true(struct jinja_run *r, struct jinja_value v);
int jinja_equal(struct jinja_run *r, struct jinja_value a, struct jinja_value b);
/* -1, 0, 1, or 2 where a float is not a number. `op` names the comparison in messages. */
int jinja_order(struct jinja_run *r, struct jinja_value a, struct jinja_value b, const char *op);
const char *jinja_type_name(struct jinja_value v);
/* Makes what Python would iterate over a list; an iterator is used up. */
struct jinja_seq *jinja_items(struct jinja_run *r, struct jinja_value v);
int64_t jinja_length(struct jinja_run *r, struct jinja_value v);
size_t jinja_n_chars(const struct jinja_string *s);
size_t jinja_char_offset(const struct jinja_string *s, size_t n_chars); /* in bytes */

/* Text is made at the end of the run's own text and cut off from there (jinja_cut), so pieces nest:
 * macros, filters and concatenation write where the template writes. */
size_t jinja_mark_here(const struct jinja_run *r);
void jinja_put(struct jinja_run *r, const void *bytes, size_t n);
void jinja_put_c(struct jinja_run *r, const char *text);
void jinja_put_string(struct jinja_run *r, const struct jinja_string *s);
void jinja_put_part(struct jinja_run *r, const struct jinja_string *s, size_t from, size_t len);
/* The text since `begin` was made of `of`, and is the input's if that is. */
void jinja_mark_changed(struct jinja_run *r, size_t begin, const struct jinja_string *of);
struct jinja_value jinja_cut(struct jinja_run *r, size_t begin);
void jinja_put_value(struct jinja_run *r, struct jinja_value v); /* Python's str() */
void jinja_put_repr(struct jinja_run *r, struct jinja_value v);
void jinja_put_float(struct jinja_run *r, double f);
struct jinja_value jinja_str(struct jinja_run *r, struct jinja_value v); /* str(v), a J_STR */

/* expressions */
struct jinja_value jinja_eval(struct jinja_run *r, const struct jinja_node *node);
struct jinja_value jinja_apply(
    struct jinja_run *r, const struct jinja_node *filter_or_test, struct jinja_value v);
struct jinja_value jinja_binary(
    struct jinja_run *r, int op, struct jinja_value a, struct jinja_value b);
int jinja_compare(
    struct jinja_run *r, enum jinja_comparison op, struct jinja_value a, struct jinja_value b);
int jinja_contains(struct jinja_run *r, struct jinja_value container, struct jinja_value v);
struct jinja_value jinja_escape(struct jinja_run *r, struct jinja_value v);
struct jinja_value jinja_markup(struct jinja_run *r, struct jinja_value v);
struct jinja_value jinja_format_percent(
    struct jinja_run *r, const struct jinja_string *format, struct jinja_value arguments);
struct jinja_value jinja_format_braces(struct jinja_run *r, const struct jinja_string *format,
    const struct jinja_seq *values, const struct jinja_dict *named);

/* access and calls */
struct jinja_call {
    struct jinja_value *at;
    uint32_t n;
    struct jinja_value *keyword;
    const struct jinja_string *const *names;
    uint32_t n_keywords;
};
struct jinja_value jinja_attribute(
    struct jinja_run *r, struct jinja_value v, const struct jinja_string *name);
struct jinja_value jinja_item(struct jinja_run *r, struct jinja_value v, struct jinja_value key);
struct jinja_value jinja_slice_of(
    struct jinja_run *r, struct jinja_value v, const struct jinja_value bounds[3]);
struct jinja_call jinja_arguments(struct jinja_run *r, const struct jinja_node *node);
struct jinja_value jinja_call_builtin(struct jinja_run *r, const struct jinja_builtin *function,
    struct jinja_value self, const struct jinja_call *call);
struct jinja_value jinja_call_value(
    struct jinja_run *r, struct jinja_value callee, const struct jinja_call *call);
struct jinja_value jinja_call_macro(
    struct jinja_run *r, const struct jinja_macro *m, const struct jinja_call *call);
struct jinja_value jinja_loop_attribute(
    struct jinja_run *r, struct jinja_loop *loop, const struct jinja_string *name);
/* Walks "a.b.0", as the attribute arguments of filters do. `absent` (NULL: none) takes the place of
 * what is undefined on the way. */
struct jinja_value jinja_path(struct jinja_run *r, struct jinja_value v, struct jinja_value path,
    const struct jinja_value *absent);
int64_t jinja_want_int(struct jinja_run *r, struct jinja_value v, const char *what);
const struct jinja_string *jinja_want_string(
    struct jinja_run *r, struct jinja_value v, const char *what);

/* scopes */
struct jinja_scope *jinja_scope_new(struct jinja_run *r, struct jinja_scope *parent);
void jinja_assign(struct jinja_run *r, uint32_t name, struct jinja_value v);
struct jinja_value jinja_lookup(struct jinja_run *r, uint32_t name);

/* tables; NULL: not there */
const struct jinja_builtin *jinja_find(
    const struct jinja_builtin *table, size_t n, struct slice name);
const struct jinja_builtin *jinja_filter(struct slice name);
const struct jinja_builtin *jinja_sequence_filter(struct slice name);
int jinja_is_filter_name(struct slice name); /* has jinja2 a filter of this name? */
const struct jinja_builtin *jinja_test(struct slice name);
const struct jinja_builtin *jinja_string_method(struct slice name);
const struct jinja_builtin *jinja_case_method(struct slice name);
const struct jinja_builtin *jinja_pad_method(struct slice name);
const struct jinja_builtin *jinja_container_method(struct jinja_value v, struct slice name);
const struct jinja_builtin *jinja_global(struct slice name);

/* strings */
struct jinja_value jinja_strip(
    struct jinja_run *r, const struct jinja_string *s, struct jinja_value chars, int sides);
enum { STRIP_LEFT = 1, STRIP_RIGHT = 2 };
struct jinja_value jinja_replace(struct jinja_run *r, const struct jinja_string *s,
    const struct jinja_string *old, const struct jinja_string *new, int64_t count);
struct jinja_seq *jinja_lines(struct jinja_run *r, const struct jinja_string *s, int keep_ends);
struct jinja_value jinja_upper(struct jinja_run *r, const struct jinja_string *s);
struct jinja_value jinja_lower(struct jinja_run *r, const struct jinja_string *s);
struct jinja_value jinja_capitalize(struct jinja_run *r, const struct jinja_string *s);
/* side: -1 pads on the left, 1 on the right, 0 on both; fill: one character, NULL: a blank. */
struct jinja_value jinja_pad(struct jinja_run *r, const struct jinja_string *s, int64_t width,
    const struct jinja_string *fill, int side);
int jinja_has_case(struct jinja_run *r, const struct jinja_string *s, int upper);
struct jinja_value jinja_title(struct jinja_run *r, const struct jinja_string *s);
struct jinja_value jinja_json(
    struct jinja_run *r, struct jinja_value v, const struct jinja_value *p);
int jinja_is_printable(uint32_t c);

#endif
