/* jinja_filters.c - jinja2's filters of single values; jinja_sequence.c has those of sequences,
 * jinja_json.c tojson. */
#include "broker/text/jinja_private.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "broker/text/unicode.h"

#define FILTER(name)                                                                               \
    static struct jinja_value name(                                                                \
        struct jinja_run *r, struct jinja_value v, const struct jinja_value *p)

static const struct jinja_string *text_of(struct jinja_run *r, struct jinja_value v)
{
    return jinja_str(r, v).u.s;
}

/* ---- text ---- */

FILTER(trim)
{
    return jinja_strip(r, text_of(r, v), p[0], STRIP_LEFT | STRIP_RIGHT);
}

FILTER(upper)
{
    (void)p;
    return jinja_upper(r, text_of(r, v));
}

FILTER(lower)
{
    (void)p;
    return jinja_lower(r, text_of(r, v));
}

FILTER(capitalize)
{
    (void)p;
    return jinja_capitalize(r, text_of(r, v));
}

FILTER(title)
{
    (void)p;
    return jinja_title(r, text_of(r, v));
}

FILTER(string)
{
    (void)p;
    return jinja_str(r, v);
}

FILTER(center)
{
    int64_t width = p[0].kind == J_MISSING ? 80 : jinja_want_int(r, p[0], "center");
    return jinja_pad(r, text_of(r, v), width, NULL, 0);
}

FILTER(replace)
{
    int64_t times =
        p[2].kind == J_MISSING || p[2].kind == J_NONE ? -1 : jinja_want_int(r, p[2], "replace");
    return jinja_replace(r, text_of(r, v), text_of(r, p[0]), text_of(r, p[1]), times);
}

FILTER(safe)
{
    (void)p;
    return jinja_markup(r, jinja_str(r, v));
}

FILTER(escape)
{
    (void)p;
    return jinja_escape(r, v);
}

FILTER(forceescape)
{
    struct jinja_string *plain = jinja_take(r, sizeof *plain);
    (void)p;
    *plain = *text_of(r, v);
    plain->markup = 0;
    return jinja_escape(r, jinja_string_value(plain));
}

static struct jinja_value part_to(
    struct jinja_run *r, const struct jinja_string *s, int64_t n_chars)
{
    return jinja_part(r, s, 0, jinja_char_offset(s, (size_t)n_chars));
}

/* p: length, killwords, end, leeway. */
FILTER(truncate_)
{
    struct jinja_value end = p[2].kind == J_MISSING ? jinja_literal(r, "...") : p[2];
    int64_t length = p[0].kind == J_MISSING ? 255 : jinja_want_int(r, p[0], "truncate");
    int64_t leeway = p[3].kind == J_MISSING || p[3].kind == J_NONE
                         ? 5
                         : jinja_want_int(r, p[3], "truncate: leeway");
    int64_t n_end = (int64_t)jinja_n_chars(jinja_want_string(r, end, "truncate: end"));
    if (length < n_end || leeway < 0)
        jinja_fail(r, "truncate: expected a length of %lld or more, and no leeway below 0",
            (long long)n_end);
    if (v.kind == J_UNDEFINED)
        return v;
    const struct jinja_string *s = jinja_want_string(r, v, "truncate");
    if ((int64_t)jinja_n_chars(s) - length <= leeway)
        return v;
    if (s->markup || end.u.s->markup)
        jinja_fail(r, "truncate of what |safe made is not supported");
    struct jinja_value kept = part_to(r, s, length - n_end);
    size_t to = kept.u.s->len;
    while (to > 0 && kept.u.s->at[to - 1] != ' ')
        to--;
    if (to > 0 && !jinja_true(r, p[1]))
        kept = jinja_part(r, s, 0, to - 1);
    return jinja_binary(r, '+', kept, end);
}

FILTER(format)
{
    struct jinja_value arguments = p[0];
    if (p[0].u.q->n > 0 && p[1].u.d->n > 0)
        jinja_fail(r, "format: values with and without names do not go together");
    if (p[1].u.d->n > 0)
        arguments = p[1];
    const struct jinja_string *s = text_of(r, v);
    if (s->markup)
        jinja_fail(r, "format of what |safe made is not supported");
    return jinja_format_percent(r, s, arguments);
}

FILTER(wordcount)
{
    const struct jinja_string *s = text_of(r, v);
    int64_t n = 0;
    int in_word = 0;
    unsigned bytes;
    (void)p;
    jinja_spend(r, s->len / 8);
    for (size_t i = 0; i < s->len; i += bytes) {
        uint32_t c = unicode_decode(s->at + i, &bytes);
        if (c >= 0x80 && !unicode_is_python_space(c))
            jinja_fail(r, "wordcount of text that is not ASCII is not supported");
        int is_word = (c | 32) - 'a' < 26u || c - '0' < 10u || c == '_';
        n += is_word && !in_word;
        in_word = is_word;
    }
    return jinja_int(n);
}

/* p: width, first, blank. Lines are those of splitlines, once a newline was put at the end. */
FILTER(indent)
{
    struct jinja_value width = p[0].kind == J_MISSING ? jinja_int(4) : p[0];
    int first = jinja_true(r, p[1]), blank = jinja_true(r, p[2]);
    const struct jinja_string *s = jinja_want_string(r, v, "indent");
    struct jinja_value by = width;
    if (s->markup)
        jinja_fail(r, "indent of what |safe made is not supported");
    if (width.kind != J_STR)
        by = jinja_binary(
            r, '*', jinja_literal(r, " "), jinja_int(jinja_want_int(r, width, "indent")));
    const struct jinja_seq *lines =
        jinja_lines(r, jinja_binary(r, '+', v, jinja_literal(r, "\n")).u.s, 0);
    size_t begin = jinja_mark_here(r);
    for (size_t i = 0; i < lines->n; i++) {
        if (i > 0)
            jinja_put_c(r, "\n");
        if (i == 0 ? first : blank || lines->at[i].u.s->len > 0)
            jinja_put_string(r, by.u.s);
        jinja_put_string(r, lines->at[i].u.s);
    }
    return jinja_cut(r, begin);
}

/* ---- numbers ---- */

FILTER(absolute)
{
    (void)p;
    if (v.kind == J_FLOAT)
        return jinja_float(fabs(v.u.f));
    int64_t n = jinja_want_int(r, v, "abs");
    return n < 0 ? jinja_binary(r, '-', jinja_int(0), jinja_int(n)) : jinja_int(n);
}

static int is_digit(uint8_t c)
{
    return c >= '0' && c <= '9';
}

/* The text without white space around it and underscores between digits, as int() and float() read
 * it; 0 if it cannot be a number or is too long. */
static int number_text(struct jinja_run *r, const struct jinja_string *s, char *text, size_t size)
{
    struct jinja_value none = {.kind = J_MISSING};
    const struct jinja_string *t = jinja_strip(r, s, none, STRIP_LEFT | STRIP_RIGHT).u.s;
    size_t n = 0;
    for (size_t i = 0; i < t->len; i++) {
        int between = i > 0 && i + 1 < t->len && is_digit(t->at[i - 1]) && is_digit(t->at[i + 1]);
        if (t->at[i] >= 0x80)
            jinja_fail(r, "a number of characters that are not ASCII is not supported");
        if (t->at[i] == '_' && between)
            continue;
        if (n + 1 >= size || t->at[i] <= ' ' || (t->at[i] | 32) == 'x')
            return 0;
        text[n++] = (char)t->at[i];
    }
    text[n] = '\0';
    return n > 0;
}

/* Reads what Python's float() reads. */
static int read_float(struct jinja_run *r, const struct jinja_string *s, double *f)
{
    char text[400], *end;
    if (!number_text(r, s, text, sizeof text) || strchr(text, '('))
        return 0;
    *f = strtod(text, &end);
    return *end == '\0';
}

static int read_int(struct jinja_run *r, const struct jinja_string *s, int64_t *n)
{
    char text[400], *end;
    if (!number_text(r, s, text, sizeof text))
        return 0;
    errno = 0;
    *n = strtoll(text, &end, 10);
    if (*end != '\0')
        return 0;
    if (errno == ERANGE)
        jinja_fail(r, "int: integers beyond 64 bits are not supported");
    return 1;
}

static struct jinja_value int_of_float(struct jinja_run *r, double f, struct jinja_value otherwise)
{
    if (isnan(f))
        return otherwise;
    if (!(f > -9.2e18 && f < 9.2e18))
        jinja_fail(r, "int: integers beyond 64 bits are not supported");
    return jinja_int((int64_t)f);
}

static void fail_if_undefined(struct jinja_run *r, struct jinja_value v)
{
    if (v.kind == J_UNDEFINED)
        jinja_fail(r, "'%.*s' is undefined", (int)(v.u.s->len < 60 ? v.u.s->len : 60),
            (const char *)v.u.s->at);
}

/* p: default, base. */
FILTER(to_int)
{
    struct jinja_value otherwise = p[0].kind == J_MISSING ? jinja_int(0) : p[0];
    int64_t n;
    double f;
    fail_if_undefined(r, v);
    if (p[1].kind != J_MISSING && jinja_want_int(r, p[1], "int: base") != 10)
        jinja_fail(r, "int: bases other than ten are not supported");
    if (v.kind == J_INT || v.kind == J_BOOL)
        return jinja_int(v.u.n);
    if (v.kind == J_FLOAT)
        return int_of_float(r, v.u.f, otherwise);
    if (v.kind != J_STR)
        return otherwise;
    if (read_int(r, v.u.s, &n))
        return jinja_int(n);
    return read_float(r, v.u.s, &f) ? int_of_float(r, f, otherwise) : otherwise;
}

FILTER(to_float)
{
    struct jinja_value otherwise = p[0].kind == J_MISSING ? jinja_float(0) : p[0];
    double f;
    fail_if_undefined(r, v);
    if (v.kind == J_STR)
        return read_float(r, v.u.s, &f) ? jinja_float(f) : otherwise;
    return jinja_is_number(v) ? jinja_binary(r, '/', v, jinja_float(1)) : otherwise;
}

/* p: precision, method. Digits are cut from the number's exact decimal digits, as Python does. */
FILTER(round_to)
{
    int64_t precision = p[0].kind == J_MISSING ? 0 : jinja_want_int(r, p[0], "round");
    struct slice how = {(const uint8_t *)"common", 6};
    char text[400];
    if (p[1].kind != J_MISSING)
        how = jinja_slice(jinja_want_string(r, p[1], "round"));
    int is_common = slice_is(how, "common");
    if (!is_common && !slice_is(how, "ceil") && !slice_is(how, "floor"))
        jinja_fail(r, "round: expected common, ceil or floor");
    if (precision < 0 || precision > 20 || !jinja_is_number(v))
        jinja_fail(r, "round: expected a number and a precision of 0 to 20");
    if (is_common && v.kind != J_FLOAT)
        return jinja_int(v.u.n);
    double f = jinja_binary(r, '/', v, jinja_float(1)).u.f, scale = pow(10, (double)precision);
    if (!is_common) {
        f *= scale;
        return jinja_float(
            (slice_is(how, "ceil") ? ceil(f) : floor(f)) / scale + 0.0); /* no -0.0 */
    }
    snprintf(text, sizeof text, "%.*f", (int)precision, f);
    return jinja_float(strtod(text, NULL));
}

/* ---- any value ---- */

FILTER(otherwise)
{
    int replaced = v.kind == J_UNDEFINED || (jinja_true(r, p[1]) && !jinja_true(r, v));
    if (!replaced)
        return v;
    return p[0].kind == J_MISSING ? jinja_literal(r, "") : p[0];
}

FILTER(length)
{
    (void)p;
    return jinja_int(jinja_length(r, v));
}

FILTER(tojson)
{
    return jinja_json(r, v, p);
}

FILTER(attribute)
{
    struct jinja_value name = jinja_str(r, p[0]);
    if (v.kind == J_DICT || v.kind == J_STR || v.kind == J_SEQ)
        jinja_fail(r, "the filter attr of a %s is not supported", jinja_type_name(v));
    return jinja_attribute(r, v, name.u.s);
}

static const struct jinja_builtin filters[] = {
    {"trim", "chars", 0, trim},
    {"upper", "", 0, upper},
    {"lower", "", 0, lower},
    {"capitalize", "", 0, capitalize},
    {"title", "", 0, title},
    {"string", "", 0, string},
    {"center", "width", 0, center},
    {"replace", "old new count", 2, replace},
    {"safe", "", 0, safe},
    {"e", "", 0, escape},
    {"escape", "", 0, escape},
    {"forceescape", "", 0, forceescape},
    {"truncate", "length killwords end leeway", 0, truncate_},
    {"format", "*", 0, format},
    {"wordcount", "", 0, wordcount},
    {"indent", "width first blank", 0, indent},
    {"abs", "", 0, absolute},
    {"int", "default base", 0, to_int},
    {"float", "default", 0, to_float},
    {"round", "precision method", 0, round_to},
    {"default", "default_value boolean", 0, otherwise},
    {"d", "default_value boolean", 0, otherwise},
    {"length", "", 0, length},
    {"count", "", 0, length},
    {"tojson", "ensure_ascii indent separators sort_keys", 0, tojson},
    {"attr", "name", 1, attribute},
};

/* Those of jinja2 that are not here. */
static const char *const others[] = {"filesizeformat", "pprint", "random", "striptags", "urlencode",
    "urlize", "wordwrap", "xmlattr"};

int jinja_is_filter_name(struct slice name)
{
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++)
        if (slice_is(name, others[i]))
            return 1;
    return jinja_filter(name) != NULL;
}

const struct jinja_builtin *jinja_filter(struct slice name)
{
    const struct jinja_builtin *found =
        jinja_find(filters, sizeof filters / sizeof filters[0], name);
    return found ? found : jinja_sequence_filter(name);
}
