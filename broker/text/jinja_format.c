/* jinja_format.c - Python's two ways to put values into a text: "..%s.." % values, and
 * "..{}..".format(values), with fill, sign, width and precision of texts, whole numbers and %f.
 * Other conversions are refused by name. */
#include "broker/text/jinja_private.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "broker/text/unicode.h"

/* ---- one value ---- */

struct spec {
    struct slice fill;        /* one character */
    char align, sign;         /* one of <>^=; one of "+ ", or 0 */
    int zero, with_commas;    /* zeros between sign and digits; 1,234 */
    int64_t width, precision; /* precision -1: none */
};

static const struct slice blank = {(const uint8_t *)" ", 1}, zero = {(const uint8_t *)"0", 1};

/* The digits at *i as a number. */
static int64_t read_number(
    struct jinja_run *r, const uint8_t *at, size_t len, size_t *i, int64_t otherwise)
{
    int64_t n = 0;
    if (*i == len || at[*i] < '0' || at[*i] > '9')
        return otherwise;
    for (; *i < len && at[*i] >= '0' && at[*i] <= '9'; ++*i) {
        n = n * 10 + (at[*i] - '0');
        if (n > INT32_MAX)
            jinja_fail(r, "a width or precision beyond %d", INT32_MAX);
    }
    return n;
}

static void put_fill(struct jinja_run *r, const struct spec *o, int64_t n)
{
    for (; n > 0; n--) {
        jinja_put(r, o->fill.at, o->fill.len);
        jinja_spend(r, 1);
    }
}

/* Fills up on the left to what n_chars characters leave of the width; returns how much is left for
 * the right. */
static int64_t put_before(struct jinja_run *r, const struct spec *o, int64_t n_chars)
{
    int64_t n = o->width > n_chars ? o->width - n_chars : 0;
    int64_t left = o->align == '<' ? 0 : o->align == '^' ? n / 2 : n;
    put_fill(r, o, left);
    return n - left;
}

static void put_text(struct jinja_run *r, const struct spec *o, const struct jinja_string *s)
{
    size_t n = jinja_n_chars(s), len = s->len;
    if (s->markup && (o->width > 0 || o->precision >= 0))
        jinja_fail(r, "a width of what |safe made is not supported");
    if (o->precision >= 0 && (size_t)o->precision < n) {
        n = (size_t)o->precision;
        len = jinja_char_offset(s, n);
    }
    int64_t behind = put_before(r, o, (int64_t)n);
    jinja_put_part(r, s, 0, len);
    put_fill(r, o, behind);
}

/* Digits with their sign, commas and zeros. */
static void put_digits(struct jinja_run *r, const struct spec *o, int is_negative, char *digits)
{
    char sign = is_negative ? '-' : o->sign;
    size_t n = strlen(digits), whole = strcspn(digits, ".");
    int64_t n_chars = (int64_t)(n + (sign != 0) + (o->with_commas ? (whole - 1) / 3 : 0));
    struct spec zeros = {.fill = zero, .align = '>', .width = o->width};
    int64_t behind = 0;
    if (o->zero && o->with_commas && o->width > n_chars)
        jinja_fail(r, "zeros between commas are not supported");
    if (!o->zero)
        behind = put_before(r, o, n_chars);
    jinja_put(r, &sign, sign != 0);
    if (o->zero)
        put_before(r, &zeros, n_chars);
    for (size_t i = 0; i < n; i++) {
        if (o->with_commas && i > 0 && i < whole && (whole - i) % 3 == 0)
            jinja_put_c(r, ",");
        jinja_put(r, digits + i, 1);
    }
    put_fill(r, o, behind);
}

static void put_fixed(struct jinja_run *r, const struct spec *o, struct jinja_value v)
{
    char text[512];
    int precision = o->precision < 0 ? 6 : (int)o->precision;
    if (!jinja_is_number(v) || precision > 100 ||
        (v.kind != J_FLOAT && (v.u.n > (1ll << 53) || v.u.n < -(1ll << 53))))
        jinja_fail(r, "%%f: expected a number, found %s", jinja_type_name(v));
    double f = v.kind == J_FLOAT ? v.u.f : (double)v.u.n;
    if (!isfinite(f))
        jinja_fail(r, "%%f: expected a finite number");
    snprintf(text, sizeof text, "%.*f", precision, fabs(f));
    put_digits(r, o, signbit(f) != 0, text);
}

static void put_whole(struct jinja_run *r, const struct spec *o, struct jinja_value v)
{
    char text[32];
    if (v.kind == J_FLOAT && v.u.f > -1e15 && v.u.f < 1e15)
        v = jinja_int((int64_t)v.u.f);
    if (v.kind != J_INT && v.kind != J_BOOL)
        jinja_fail(r, "%%d: expected a number, found %s", jinja_type_name(v));
    if (o->precision >= 0)
        jinja_fail(r, "%%d: a precision is not supported");
    snprintf(text, sizeof text, "%" PRIu64, v.u.n < 0 ? 0 - (uint64_t)v.u.n : (uint64_t)v.u.n);
    put_digits(r, o, v.u.n < 0, text);
}

static struct jinja_value repr(struct jinja_run *r, struct jinja_value v)
{
    size_t begin = jinja_mark_here(r);
    jinja_put_repr(r, v);
    return jinja_cut(r, begin);
}

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

/* Flags, width and precision behind %, at *i. */
static struct spec read_flags(struct jinja_run *r, const struct jinja_string *f, size_t *i)
{
    struct spec o = {.fill = blank, .align = '>', .precision = -1};
    for (; *i < f->len && f->at[*i] && strchr("-+ 0", f->at[*i]); ++*i) {
        char c = (char)f->at[*i];
        if (c == '-')
            o.align = '<';
        else if (c == '0')
            o.zero = 1;
        else if (o.sign != '+')
            o.sign = c;
    }
    o.zero &= o.align != '<';
    o.width = read_number(r, f->at, f->len, i, 0);
    if (*i < f->len && f->at[*i] == '.') {
        ++*i;
        o.precision = read_number(r, f->at, f->len, i, 0);
    }
    return o;
}

/* One conversion behind its %, at *i. */
static void convert(struct jinja_run *r, struct percent *p, const struct jinja_string *f, size_t *i)
{
    int is_named = *i < f->len && f->at[*i] == '(';
    struct jinja_value v = {.kind = J_MISSING};
    if (*i < f->len && f->at[*i] == '%') {
        ++*i;
        jinja_put_c(r, "%");
        return;
    }
    if (is_named)
        v = named_argument(r, p, f, i);
    struct spec o = read_flags(r, f, i);
    char c = *i < f->len ? (char)f->at[(*i)++] : '\0';
    if (!c || !strchr("sdirf", c))
        jinja_fail(r, "%%: the conversion '%c' is not supported", c >= 0x20 ? c : '?');
    if (!is_named)
        v = next_argument(r, p);
    if (c == 's')
        put_text(r, &o, jinja_str(r, v).u.s);
    else if (c == 'r')
        put_text(r, &o, repr(r, v).u.s);
    else if (c == 'f')
        put_fixed(r, &o, v);
    else
        put_whole(r, &o, v);
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

static char take_one(struct slice how, size_t *i, const char *of)
{
    return *i < how.len && how.at[*i] && strchr(of, how.at[*i]) ? (char)how.at[(*i)++] : '\0';
}

/* [[fill]align][sign][0][width][,][.precision][type] */
static char read_spec(struct jinja_run *r, struct slice how, struct spec *o)
{
    size_t i = 0;
    unsigned bytes;
    *o = (struct spec){.fill = blank, .precision = -1};
    unicode_decode(how.at, &bytes);
    if (bytes < how.len && strchr("<>^=", how.at[bytes]) && how.at[bytes]) {
        o->fill = (struct slice){how.at, bytes};
        i = bytes;
    }
    int has_fill = i > 0;
    o->align = take_one(how, &i, "<>^=");
    o->sign = take_one(how, &i, "+- ");
    if (!has_fill && take_one(how, &i, "0")) {
        o->fill = zero;
        o->zero = !o->align;
    }
    o->width = read_number(r, how.at, how.len, &i, 0);
    o->with_commas = take_one(how, &i, ",") != 0;
    if (take_one(how, &i, ".") && (o->precision = read_number(r, how.at, how.len, &i, -1)) < 0)
        jinja_fail(r, "format: expected digits behind the point");
    char type = take_one(how, &i, "sdf");
    if (i < how.len || o->align == '=')
        jinja_fail(r, "format: the specification %.*s is not supported",
            (int)(how.len < 60 ? how.len : 60), (const char *)how.at);
    return type;
}

static void put_formatted(struct jinja_run *r, struct slice how, struct jinja_value v)
{
    struct spec o;
    char type = read_spec(r, how, &o);
    int is_text = v.kind == J_STR && (!type || type == 's');
    if (is_text && (o.sign || o.with_commas || o.zero))
        jinja_fail(r, "format: signs, commas and zeros are of numbers");
    if (!o.align)
        o.align = is_text ? '<' : '>';
    if (o.sign == '-')
        o.sign = '\0';
    if (is_text)
        put_text(r, &o, v.u.s);
    else if (type == 'f')
        put_fixed(r, &o, v);
    else if ((v.kind == J_INT || v.kind == J_BOOL) && type != 's')
        put_whole(r, &o, v);
    else
        jinja_fail(r, "format: this specification of a %s is not supported", jinja_type_name(v));
}

static size_t put_field(
    struct jinja_run *r, struct braces *b, const struct jinja_string *f, size_t i)
{
    const uint8_t *end = memchr(f->at + i, '}', f->len - i);
    if (!end)
        jinja_fail(r, "format: a { has no }");
    struct slice field = {f->at + i, (size_t)(end - f->at) - i}, how = {0};
    size_t len = field.len;
    const uint8_t *colon = memchr(field.at, ':', field.len);
    if (colon) {
        field.len = (size_t)(colon - field.at);
        how = (struct slice){colon + 1, len - field.len - 1};
    }
    struct jinja_value v = value_of(r, b, field);
    if (how.len == 0)
        jinja_put_value(r, v);
    else
        put_formatted(r, how, v);
    return i + len + 1;
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
