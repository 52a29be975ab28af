/* jinja_json.c - tojson as transformers defines it: Python's json.dumps with ensure_ascii false
 * unless asked for, and its arguments indent, separators and sort_keys. */
#include "broker/text/jinja_private.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "broker/text/unicode.h"

struct json {
    struct jinja_run *r;
    int ascii, sort;
    const struct jinja_string *indent;     /* NULL: one line */
    const struct jinja_string *item, *key; /* separators */
};

static void put_u(struct jinja_run *r, uint32_t c)
{
    char text[16];
    snprintf(text, sizeof text, "\\u%04x", c);
    jinja_put_c(r, text);
}

static void put_escape(struct jinja_run *r, uint32_t c)
{
    static const char from[] = "\"\\\n\r\t\b\f", to[] = "\"\\nrtbf";
    const char *found = c && c < 0x80 ? strchr(from, (int)c) : NULL;
    if (found) {
        char text[3] = {'\\', to[found - from], '\0'};
        jinja_put_c(r, text);
    } else if (c >= 0x10000) {
        put_u(r, 0xd800 + ((c - 0x10000) >> 10));
        put_u(r, 0xdc00 + ((c - 0x10000) & 0x3ff));
    } else
        put_u(r, c);
}

static void put_json_string(const struct json *j, const struct jinja_string *s)
{
    size_t begin, from = 0;
    unsigned bytes;
    jinja_put_c(j->r, "\"");
    begin = jinja_mark_here(j->r);
    for (size_t i = 0; i < s->len; i += bytes) {
        uint32_t c = unicode_decode(s->at + i, &bytes);
        if (c >= 0x20 && c != '"' && c != '\\' && (c < 0x7f || !j->ascii || c == 0x7f))
            continue;
        jinja_put(j->r, s->at + from, i - from);
        put_escape(j->r, c);
        from = i + bytes;
    }
    jinja_put(j->r, s->at + from, s->len - from);
    jinja_spend(j->r, s->len / 8);
    jinja_mark_changed(j->r, begin, s);
    jinja_put_c(j->r, "\"");
}

static void put_number(struct jinja_run *r, double f)
{
    if (isnan(f) || isinf(f))
        jinja_put_c(r, isnan(f) ? "NaN" : f > 0 ? "Infinity" : "-Infinity");
    else
        jinja_put_float(r, f);
}

static void put_line(const struct json *j, int depth)
{
    if (!j->indent)
        return;
    jinja_put_c(j->r, "\n");
    for (int i = 0; i < depth; i++)
        jinja_put_string(j->r, j->indent);
}

static void put_json(const struct json *j, struct jinja_value v, int depth);

static void put_list(const struct json *j, const struct jinja_seq *q, int depth)
{
    jinja_put_c(j->r, "[");
    for (size_t i = 0; i < q->n; i++) {
        if (i > 0)
            jinja_put_string(j->r, j->item);
        put_line(j, depth + 1);
        put_json(j, q->at[i], depth + 1);
    }
    if (q->n > 0)
        put_line(j, depth);
    jinja_put_c(j->r, "]");
}

static void put_key(const struct json *j, struct jinja_value key)
{
    if (key.kind == J_STR) {
        put_json_string(j, key.u.s);
        return;
    }
    if (key.kind != J_NONE && !jinja_is_number(key))
        jinja_fail(j->r, "tojson: a %s cannot be a key", jinja_type_name(key));
    jinja_put_c(j->r, "\"");
    put_json(j, key, 0);
    jinja_put_c(j->r, "\"");
}

/* Puts places of d in order of their keys: insertion, as keys are few. */
static void sort_places(struct jinja_run *r, const struct jinja_dict *d, size_t *places)
{
    for (size_t i = 0; i < d->n; i++) {
        size_t k = i;
        for (; k > 0 && jinja_order(r, d->keys[i], d->keys[places[k - 1]], "<") < 0; k--)
            places[k] = places[k - 1];
        jinja_spend(r, i - k + 1);
        places[k] = i;
    }
}

static void put_map(const struct json *j, const struct jinja_dict *d, int depth)
{
    size_t *places = jinja_take(j->r, d->n * sizeof *places);
    for (size_t i = 0; i < d->n; i++)
        places[i] = i;
    if (j->sort)
        sort_places(j->r, d, places);
    jinja_put_c(j->r, "{");
    for (size_t i = 0; i < d->n; i++) {
        if (i > 0)
            jinja_put_string(j->r, j->item);
        put_line(j, depth + 1);
        put_key(j, d->keys[places[i]]);
        jinja_put_string(j->r, j->key);
        put_json(j, d->values[places[i]], depth + 1);
    }
    if (d->n > 0)
        put_line(j, depth);
    jinja_put_c(j->r, "}");
}

static void put_json(const struct json *j, struct jinja_value v, int depth)
{
    jinja_enter(j->r);
    jinja_spend(j->r, 1);
    if (v.kind == J_STR)
        put_json_string(j, v.u.s);
    else if (v.kind == J_NONE || v.kind == J_BOOL)
        jinja_put_c(j->r, v.kind == J_NONE ? "null" : v.u.n ? "true" : "false");
    else if (v.kind == J_INT)
        jinja_put_value(j->r, v);
    else if (v.kind == J_FLOAT)
        put_number(j->r, v.u.f);
    else if (v.kind == J_DICT)
        put_map(j, v.u.d, depth);
    else if (v.kind == J_SEQ && v.u.q->type <= SEQ_TUPLE)
        put_list(j, v.u.q, depth);
    else
        jinja_fail(j->r, "tojson: a %s cannot be written as JSON", jinja_type_name(v));
    jinja_leave(j->r);
}

static const struct jinja_string *constant(struct jinja_run *r, const char *text)
{
    return jinja_literal(r, text).u.s;
}

/* indent: a number of blanks (below zero: none, and new lines all the same), or a text. */
static void set_indent(struct json *j, struct jinja_value v)
{
    size_t begin = jinja_mark_here(j->r);
    if (v.kind == J_MISSING || v.kind == J_NONE)
        return;
    if (v.kind == J_STR) {
        j->indent = v.u.s;
        return;
    }
    for (int64_t n = jinja_want_int(j->r, v, "tojson: indent"); n > 0; n--) {
        jinja_spend(j->r, 1);
        jinja_put_c(j->r, " ");
    }
    j->indent = jinja_cut(j->r, begin).u.s;
}

/* p: ensure_ascii, indent, separators, sort_keys. */
struct jinja_value jinja_json(
    struct jinja_run *r, struct jinja_value v, const struct jinja_value *p)
{
    struct json j = {.r = r, .ascii = jinja_true(r, p[0]), .sort = jinja_true(r, p[3])};
    set_indent(&j, p[1]);
    j.item = constant(r, j.indent ? "," : ", ");
    j.key = constant(r, ": ");
    if (p[2].kind != J_MISSING && p[2].kind != J_NONE) {
        const struct jinja_seq *both = jinja_items(r, p[2]);
        if (both->n != 2)
            jinja_fail(r, "tojson: expected two separators, found %zu", both->n);
        j.item = jinja_want_string(r, both->at[0], "tojson: separators");
        j.key = jinja_want_string(r, both->at[1], "tojson: separators");
    }
    size_t begin = jinja_mark_here(r);
    put_json(&j, v, 0);
    return jinja_cut(r, begin);
}
