/* jinja_format.c - Python's two ways to put values into a text: "..%s.." % values, and
 * "..{}..".format(values). Widths, flags and format specifications are refused by name. */
#include "broker/text/jinja_private.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- % ---- */

struct percent {
    struct jinja_value arguments;
    size_t next; /* of a tuple; or whether the only argument was used */
};

static struct jinja_value next_argument(struct jinja_run *r, struct percent *p)
{
    int is_tuple = p->arguments.kind == J_SEQ && p->arguments.u.q->type == SEQ_TUPLE;
    size_t i = p->next++;
    if (i >= (is_tuple ? p->arguments.u.q->n : 1))
        jinja_fail(r, "%%: not enough values for the format");
    return is_tuple ? p->arguments.u.q->at[i] : p->arguments;
}

/* %(name): the value of that key. */
static struct jinja_value named_argument(
    struct jinja_run *r, struct percent *p, const struct jinja_string *f, size_t *i)
{
    const uint8_t *end = memchr(f->at + *i, ')', f->len - *i);
    if (!end || p->arguments.kind != J_DICT)
        jinja_fail(r, "%%: expected a name in brackets and a map");
    struct slice name = {f->at + *i + 1, (size_t)(end - f->at) - *i - 1};
    const struct jinja_value *found = jinja_dict_get(r, p->arguments.u.d, name);
    if (!found)
        jinja_fail(r, "%%: the map has no key %.*s", (int)(name.len < 60 ? name.len : 60),
            (const char *)name.at);
    *i = (size_t)(end - f->at) + 1;
    p->next = 1;
    return *found;
}

static void put_fixed(struct jinja_run *r, struct jinja_value v, int precision)
{
    char text[512];
    if (!jinja_is_number(v) || precision > 100 ||
        (v.kind != J_FLOAT && (v.u.n > (1ll << 53) || v.u.n < -(1ll << 53))))
        jinja_fail(r, "%%f: expected a number, found %s", jinja_type_name(v));
    snprintf(text, sizeof text, "%.*f", precision, v.kind == J_FLOAT ? v.u.f : (double)v.u.n);
    jinja_put_c(r, text);
}

static void put_whole(struct jinja_run *r, struct jinja_value v)
{
    if (v.kind == J_FLOAT && v.u.f > -1e15 && v.u.f < 1e15)
        v = jinja_int((int64_t)v.u.f);
    if (v.kind != J_INT && v.kind != J_BOOL)
        jinja_fail(r, "%%d: expected a number, found %s", jinja_type_name(v));
    jinja_put_value(r, jinja_int(v.u.n));
}

/* One conversion behind its %, at *i. */
static void convert(struct jinja_run *r, struct percent *p, const struct jinja_string *f, size_t *i)
{
    int precision = 6, is_named = *i < f->len && f->at[*i] == '(';
    struct jinja_value v = {.kind = J_MISSING};
    if (*i < f->len && f->at[*i] == '%') {
        ++*i;
        jinja_put_c(r, "%");
        return;
    }
    if (is_named)
        v = named_argument(r, p, f, i);
    if (*i + 1 < f->len && f->at[*i] == '.' && f->at[*i + 1] >= '0' && f->at[*i + 1] <= '9') {
        precision = f->at[*i + 1] - '0';
        *i += 2;
        if (*i >= f->len || f->at[*i] != 'f')
            jinja_fail(r, "%%: a precision of anything but f is not supported");
    }
    char c = *i < f->len ? (char)f->at[(*i)++] : '\0';
    if (!c || !strchr("sdirf", c))
        jinja_fail(r, "%%: the conversion '%c' is not supported", c >= 0x20 ? c : '?');
    if (!is_named)
        v = next_argument(r, p);
    if (c == 's')
        jinja_put_value(r, v);
    else if (c == 'r')
        jinja_put_repr(r, v);
    else if (c == 'f')
        put_fixed(r, v, precision);
    else
        put_whole(r, v);
}

struct jinja_value jinja_format_percent(
    struct jinja_run *r, const struct jinja_string *f, struct jinja_value arguments)
{
    struct percent p = {.arguments = arguments};
    size_t begin = jinja_mark_here(r), from = 0, i = 0;
    while (i < f->len) {
        const uint8_t *at = memchr(f->at + i, '%', f->len - i);
        i = at ? (size_t)(at - f->at) : f->len;
        jinja_put_part(r, f, from, i - from);
        if (at) {
            i++;
            convert(r, &p, f, &i);
        }
        from = i;
    }
    int is_seq = arguments.kind == J_SEQ, is_tuple = is_seq && arguments.u.q->type == SEQ_TUPLE;
    int is_mapping = arguments.kind == J_DICT || (is_seq && arguments.u.q->type <= SEQ_RANGE);
    if (is_tuple ? p.next < arguments.u.q->n : p.next == 0 && !is_mapping)
        jinja_fail(r, "%%: not all values have a place in the format");
    return jinja_cut(r, begin);
}

/* ---- {} ---- */

struct braces {
    const struct jinja_seq *values;
    const struct jinja_dict *named;
    size_t next;
    int counted, numbered; /* {} and {0} do not go together */
};

static struct jinja_value value_of(struct jinja_run *r, struct braces *b, struct slice field)
{
    size_t n = 0, i = 0;
    while (i < field.len && i < 9 && field.at[i] >= '0' && field.at[i] <= '9')
        n = n * 10 + (size_t)(field.at[i++] - '0');
    int is_number = i == field.len;
    if (is_number && field.len == 0) {
        n = b->next++;
        b->counted = 1;
    } else if (is_number)
        b->numbered = 1;
    if (b->counted && b->numbered)
        jinja_fail(r, "format: {} and {0} in one text");
    if (is_number && n < b->values->n)
        return b->values->at[n];
    const struct jinja_value *found = is_number ? NULL : jinja_dict_get(r, b->named, field);
    if (!found)
        jinja_fail(r, "format: there is no value for {%.*s}, or it is not supported",
            (int)(field.len < 60 ? field.len : 60), (const char *)field.at);
    return *found;
}

static size_t put_field(
    struct jinja_run *r, struct braces *b, const struct jinja_string *f, size_t i)
{
    const uint8_t *end = memchr(f->at + i, '}', f->len - i);
    if (!end)
        jinja_fail(r, "format: a { has no }");
    struct slice field = {f->at + i, (size_t)(end - f->at) - i};
    jinja_put_value(r, value_of(r, b, field));
    return i + field.len + 1;
}

struct jinja_value jinja_format_braces(struct jinja_run *r, const struct jinja_string *f,
    const struct jinja_seq *values, const struct jinja_dict *named)
{
    struct braces b = {.values = values, .named = named};
    size_t begin = jinja_mark_here(r), i = 0;
    if (f->markup)
        jinja_fail(r, "format of what |safe made is not supported");
    while (i < f->len) {
        uint8_t c = f->at[i];
        int is_double = i + 1 < f->len && f->at[i + 1] == c;
        if (c == '}' && !is_double)
            jinja_fail(r, "format: a } has no {");
        if (c == '{' && !is_double) {
            i = put_field(r, &b, f, i + 1);
            continue;
        }
        jinja_put_part(r, f, i, 1);
        i += c == '{' || c == '}' ? 2 : 1;
    }
    return jinja_cut(r, begin);
}
