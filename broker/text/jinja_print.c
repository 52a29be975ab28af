/* jinja_print.c - text: the run's own, pieces cut off from its end, and values as Python's str()
 * and repr() write them. */
#include "broker/text/jinja_private.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "broker/text/unicode.h"

/* ---- the text ---- */

size_t jinja_mark_here(const struct jinja_run *r)
{
    return r->out.len;
}

void jinja_put(struct jinja_run *r, const void *bytes, size_t n)
{
    if (n > r->max_bytes || r->out.len > r->max_bytes - n)
        jinja_fail(r, "more text than the %zu bytes that an evaluation may write", r->max_bytes);
    jinja_spend(r, n / 64);
    buffer_append(&r->out, bytes, n);
}

void jinja_put_c(struct jinja_run *r, const char *text)
{
    jinja_put(r, text, strlen(text));
}

static void add_mark(struct jinja_run *r, struct jinja_mark mark)
{
    r->marks = list_grow(r->marks, r->n_marks, &r->marks_room, sizeof *r->marks);
    r->marks[r->n_marks++] = mark;
    jinja_spend(r, 1);
}

void jinja_put_part(struct jinja_run *r, const struct jinja_string *s, size_t from, size_t len)
{
    size_t to = r->out.len, end = from + len;
    jinja_put(r, s->at + from, len);
    for (uint32_t i = 0; i < s->n_marks; i++) {
        const struct jinja_mark *m = &s->marks[i];
        size_t begin = m->at > from ? m->at : from;
        size_t stop = m->at + m->len < end ? m->at + m->len : end;
        if (stop > begin)
            add_mark(r, (struct jinja_mark){to + (begin - from), stop - begin, m->source,
                            m->from + (begin - m->at)});
    }
}

void jinja_put_string(struct jinja_run *r, const struct jinja_string *s)
{
    jinja_put_part(r, s, 0, s->len);
}

void jinja_mark_changed(struct jinja_run *r, size_t begin, const struct jinja_string *of)
{
    if (of->n_marks > 0 && r->out.len > begin)
        add_mark(r, (struct jinja_mark){begin, r->out.len - begin, JINJA_NO_SOURCE, 0});
}

struct jinja_value jinja_cut(struct jinja_run *r, size_t begin)
{
    struct jinja_string *s = jinja_take(r, sizeof *s);
    size_t first = r->n_marks, len = r->out.len - begin;
    uint8_t *bytes = jinja_take(r, len);
    while (first > 0 && r->marks[first - 1].at >= begin)
        first--;
    struct jinja_mark *marks = jinja_take(r, (r->n_marks - first) * sizeof *marks);
    if (len > 0)
        memcpy(bytes, r->out.at + begin, len);
    *s = (struct jinja_string){
        .at = bytes, .len = len, .marks = marks, .n_marks = (uint32_t)(r->n_marks - first)};
    for (size_t i = first; i < r->n_marks; i++) {
        marks[i - first] = r->marks[i];
        marks[i - first].at -= begin;
    }
    r->n_marks = first;
    r->out.len = begin;
    return jinja_string_value(s);
}

/* ---- numbers ---- */

/* The shortest digits that read back as f, in Python's layout: an exponent below 1e-4 and from 1e16
 * on. */
void jinja_put_float(struct jinja_run *r, double f)
{
    char digits[40], text[64];
    int precision = 0, exponent;
    if (isnan(f) || isinf(f)) {
        jinja_put_c(r, isnan(f) ? "nan" : f > 0 ? "inf" : "-inf");
        return;
    }
    do
        snprintf(digits, sizeof digits, "%.*e", precision, f);
    while (strtod(digits, NULL) != f && ++precision < 17);
    exponent = atoi(strchr(digits, 'e') + 1);
    if (exponent < -4 || exponent >= 16) {
        snprintf(text, sizeof text, "%s", digits);
    } else {
        int decimals = precision - exponent > 0 ? precision - exponent : 0;
        snprintf(text, sizeof text, "%.*f%s", decimals, f, decimals == 0 ? ".0" : "");
    }
    jinja_put_c(r, text);
}

static void put_int(struct jinja_run *r, int64_t n)
{
    char text[24];
    snprintf(text, sizeof text, "%lld", (long long)n);
    jinja_put_c(r, text);
}

/* ---- repr ---- */

/* Python's str.isprintable of one character. */
int jinja_is_printable(uint32_t c)
{
    if (c < 0x7f)
        return c >= 0x20;
    switch (utf8proc_category((utf8proc_int32_t)c)) {
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO:
    case UTF8PROC_CATEGORY_CN:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
    case UTF8PROC_CATEGORY_ZS:
        return 0;
    default:
        return 1;
    }
}

static void put_escape(struct jinja_run *r, uint32_t c)
{
    char text[16];
    snprintf(text, sizeof text, c < 0x100 ? "\\x%02x" : c < 0x10000 ? "\\u%04x" : "\\U%08x", c);
    jinja_put_c(r, c == '\n' ? "\\n" : c == '\r' ? "\\r" : c == '\t' ? "\\t" : text);
}

static void put_string_repr(struct jinja_run *r, const struct jinja_string *s)
{
    int has_single = s->len > 0 && memchr(s->at, '\'', s->len) != NULL;
    int has_double = s->len > 0 && memchr(s->at, '"', s->len) != NULL;
    char quote[2] = {has_single && !has_double ? '"' : '\'', '\0'};
    size_t begin;
    unsigned bytes;
    if (s->markup)
        jinja_put_c(r, "Markup(");
    jinja_put_c(r, quote);
    begin = r->out.len;
    for (size_t i = 0; i < s->len; i += bytes) {
        uint32_t c = unicode_decode(s->at + i, &bytes);
        if (c == '\\' || c == (uint32_t)quote[0])
            jinja_put_c(r, "\\");
        if (jinja_is_printable(c))
            jinja_put(r, s->at + i, bytes);
        else
            put_escape(r, c);
    }
    jinja_spend(r, s->len / 8);
    jinja_mark_changed(r, begin, s);
    jinja_put_c(r, quote);
    if (s->markup)
        jinja_put_c(r, ")");
}

static void put_seq(struct jinja_run *r, const struct jinja_seq *q)
{
    jinja_put_c(r, q->type == SEQ_LIST ? "[" : "(");
    for (size_t i = 0; i < q->n; i++) {
        if (i > 0)
            jinja_put_c(r, ", ");
        jinja_put_repr(r, q->at[i]);
    }
    jinja_put_c(r, q->type == SEQ_LIST ? "]" : q->n == 1 ? ",)" : ")");
}

static void put_dict(struct jinja_run *r, const struct jinja_dict *d)
{
    jinja_put_c(r, "{");
    for (size_t i = 0; i < d->n; i++) {
        if (i > 0)
            jinja_put_c(r, ", ");
        jinja_put_repr(r, d->keys[i]);
        jinja_put_c(r, ": ");
        jinja_put_repr(r, d->values[i]);
    }
    jinja_put_c(r, "}");
}

void jinja_put_repr(struct jinja_run *r, struct jinja_value v)
{
    jinja_enter(r);
    jinja_spend(r, 1);
    if (v.kind == J_STR)
        put_string_repr(r, v.u.s);
    else if (v.kind == J_UNDEFINED)
        jinja_put_c(r, "Undefined");
    else
        jinja_put_value(r, v);
    jinja_leave(r);
}

void jinja_put_value(struct jinja_run *r, struct jinja_value v)
{
    switch (v.kind) {
    case J_UNDEFINED:
        return;
    case J_NONE:
        jinja_put_c(r, "None");
        return;
    case J_BOOL:
        jinja_put_c(r, v.u.n ? "True" : "False");
        return;
    case J_INT:
        put_int(r, v.u.n);
        return;
    case J_FLOAT:
        jinja_put_float(r, v.u.f);
        return;
    case J_STR:
        jinja_put_string(r, v.u.s);
        return;
    case J_DICT:
        put_dict(r, v.u.d);
        return;
    case J_SEQ:
        if (v.u.q->type <= SEQ_TUPLE) {
            put_seq(r, v.u.q);
            return;
        }
        __attribute__((fallthrough));
    default:
        jinja_fail(r, "writing a %s as text is not supported", jinja_type_name(v));
    }
}

struct jinja_value jinja_str(struct jinja_run *r, struct jinja_value v)
{
    if (v.kind == J_STR)
        return v;
    size_t begin = jinja_mark_here(r);
    jinja_put_value(r, v);
    return jinja_cut(r, begin);
}
