/* jinja.h - evaluates chat templates: the part of Jinja that they use, as transformers compiles it.
 *
 * transformers renders a template with jinja2's ImmutableSandboxedEnvironment: trim_blocks and
 * lstrip_blocks on, the extensions loopcontrols and {% generation %}, no escaping, the default
 * Undefined, its own tojson, raise_exception and strftime_now. A template gives the same text here,
 * or it is refused with the line and the reason; what it never gives is another text. There is no
 * I/O, and no attribute beyond those of Python's str, list and dict and the keys of maps.
 *
 *     jinja_lex.c         template text to tokens, white space control
 *     jinja_parse.c       statements, jinja_expression.c expressions: tokens to nodes;
 *                         jinja_parser.c: what both share
 *     jinja_value.c       values, comparing them; jinja_print.c: as text; jinja_input.c: of a row
 *     jinja_eval.c        statements and scopes, jinja_operators.c expressions: nodes to text
 *     jinja_access.c      attributes, items, slices, calls
 *     jinja_functions.c   global functions, methods of lists and maps
 *     jinja_string.c      methods of strings; jinja_case.c: upper, lower and the like;
 *                         jinja_pad.c: filling up; jinja_format.c: % and format
 *     jinja_filters.c     filters; jinja_sequence.c: those that walk sequences; jinja_json.c:
 *                         tojson
 *     jinja_tests.c       tests ("is defined" ..)
 *
 * Parsing makes an immutable tree that threads share. An evaluation belongs to one thread; its
 * memory is an arena that is emptied when the next one begins. Steps, depth, bytes of memory and of
 * text are bounded, so that a hostile template ends in milliseconds with an error.
 *
 * Of each byte of text it is known whether it came from the input (struct jinja_mark), through
 * slices, concatenation, filters and macros: safe_text rests on it.
 *
 * REFUSED by name: inheritance, include and import, `recursive` loops, `do`, i18n, `*` and `**` in
 * calls, integers beyond 64 bits, formats other than s, r, d and f, views of maps and iterators
 * written as text, case mappings of one character to several, and filters, tests and methods that
 * are not in the tables.
 * LIMITS: what Python escapes in repr() and takes for letters follows the Unicode version of each
 * Python; here it is libutf8proc's. */
#ifndef ASSAY_JINJA_H
#define ASSAY_JINJA_H

#include "schema/err.h"
#include "schema/msg.h"

struct jinja;

/* Parses a template. ASSAY_EFORMAT with "line N: " and what was found: a syntax error, or what is
 * not supported. The template is copied. */
int jinja_parse(struct jinja **t, struct slice source, struct err *e);
void jinja_free(struct jinja **t);
/* Does the template use this word as a name, an attribute, or in a string? */
int jinja_mentions(const struct jinja *t, const char *word);

/* ---- an evaluation ---- */

#define JINJA_NO_SOURCE UINT32_MAX

/* A stretch of text that came from the input, ascending and not overlapping. */
struct jinja_mark {
    size_t at, len;
    uint32_t source; /* the number that the input string was given, JINJA_NO_SOURCE: none, or it
                        was changed on its way */
    size_t from;     /* where the stretch begins in that string */
};

struct jinja_text {
    const uint8_t *at;
    size_t len;
    const struct jinja_mark *marks;
    size_t n_marks;
};

struct jinja_run;
struct jinja_value;

struct jinja_run *jinja_run_new(void);
void jinja_run_free(struct jinja_run **r);
/* Begins an evaluation: what the last one made is gone. t outlives it. */
void jinja_begin(struct jinja_run *r, const struct jinja *t);
/* The day that strftime_now writes, as YYYY-MM-DD; without it strftime_now is an error. */
int jinja_set_date(struct jinja_run *r, const char *date, struct err *e);
/* Variables of the evaluation under way. A value of msgpack is copied; strings that are not UTF-8
 * and integers beyond 64 bits are ASSAY_EBADTEXT. A constant string is the caller's own text, not
 * the input's. */
int jinja_set_msgpack(struct jinja_run *r, const char *name, struct slice raw, struct err *e);
/* Is the variable a list of maps, or None, or one that the template does not use? */
int jinja_is_maps(struct jinja_run *r, const char *name);
/* The same of a reader's next value. */
int jinja_read_variable(struct jinja_run *r, const char *name, struct msg_reader *m, struct err *e);
void jinja_set_text(struct jinja_run *r, const char *name, struct slice text);
void jinja_set_bool(struct jinja_run *r, const char *name, int value);
void jinja_set_none(struct jinja_run *r, const char *name);
/* A list of n maps, filled in order: the list, then each map with the number of its keys, then
 * its keys. Strings are borrowed until the evaluation is over; `source` numbers them for marks. */
struct jinja_value *jinja_set_list(struct jinja_run *r, const char *name, size_t n);
struct jinja_value *jinja_add_map(struct jinja_run *r, struct jinja_value *list, size_t n);
/* A map of msgpack, with room for n_more keys; keys with null are left out, as transformers does
 * for a message. NULL with *e as jinja_set_msgpack. */
struct jinja_value *jinja_add_msgpack(
    struct jinja_run *r, struct jinja_value *list, struct slice raw, size_t n_more, struct err *e);
/* NULL: the map has no such key, or None under it. */
const struct jinja_value *jinja_get(const struct jinja_value *map, const char *key);
/* A key that is there keeps its place; with _first it keeps its value too. */
void jinja_put_same(
    struct jinja_run *r, struct jinja_value *map, const char *key, const struct jinja_value *v);
void jinja_put_first(
    struct jinja_run *r, struct jinja_value *map, const char *key, const struct jinja_value *v);
void jinja_put_text(struct jinja_run *r, struct jinja_value *map, const char *key,
    struct slice text, uint32_t source);
/* Writes the template's text; borrowed until the next jinja_begin. ASSAY_EBADTEXT with "line N: "
 * and the reason: the template's own raise_exception, an error that Python would raise, a limit, or
 * what is not supported. */
int jinja_write(struct jinja_run *r, struct jinja_text *out, struct err *e);

#endif
