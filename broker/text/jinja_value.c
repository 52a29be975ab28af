/* jinja_value.c - the memory of a parse and of an evaluation, and values: making, comparing. */
#include "broker/text/jinja_private.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

#include "broker/text/unicode.h"
#include "schema/log.h"

#define BLOCK_BYTES (64u << 10)

/* ---- memory ---- */

static struct jinja_block *block_new(size_t n)
{
    size_t room = n > BLOCK_BYTES ? n : BLOCK_BYTES;
    struct jinja_block *b = malloc(sizeof *b + room);
    if (!b)
        die(EX_OSERR, "out of memory: %zu bytes for a chat template", room);
    b->next = NULL;
    b->room = room;
    b->used = 0;
    return b;
}

void *arena_take(struct jinja_arena *a, size_t n)
{
    n = (n + 15) & ~(size_t)15;
    while (a->now && a->now->room - a->now->used < n && a->now->next)
        a->now = a->now->next;
    if (!a->now || a->now->room - a->now->used < n) {
        struct jinja_block *b = block_new(n);
        *(a->now ? &a->now->next : &a->first) = b;
        a->now = b;
    }
    void *at = a->now->bytes + a->now->used;
    a->now->used += n;
    a->bytes += n;
    return memset(at, 0, n);
}

/* Keeps the first block, which most evaluations do with. */
void arena_clear(struct jinja_arena *a)
{
    struct jinja_block *first = a->first, *next = first ? first->next : NULL;
    for (struct jinja_block *b = next; b; b = next) {
        next = b->next;
        free(b);
    }
    if (first) {
        first->next = NULL;
        first->used = 0;
    }
    a->now = first;
    a->bytes = 0;
}

void arena_release(struct jinja_arena *a)
{
    arena_clear(a);
    free(a->first);
    *a = (struct jinja_arena){0};
}

void jinja_fail(struct jinja_run *r, const char *fmt, ...)
{
    char text[ERR_MESSAGE_BYTES];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    err_set(r->e, ASSAY_EBADTEXT, "the chat template, line %u: %s", r->line, text);
    longjmp(r->fail, 1);
}

void jinja_spend(struct jinja_run *r, size_t steps)
{
    if (steps >= r->steps)
        jinja_fail(r, "more steps than an evaluation may take");
    r->steps -= steps;
}

void *jinja_take(struct jinja_run *r, size_t n)
{
    if (n > r->max_bytes || r->arena.bytes > r->max_bytes - n)
        jinja_fail(r, "more memory than the %zu bytes that an evaluation may take", r->max_bytes);
    jinja_spend(r, n / 64);
    return arena_take(&r->arena, n);
}

void jinja_enter(struct jinja_run *r)
{
    if (++r->depth > JINJA_MAX_NESTED)
        jinja_fail(r, "nested deeper than %d", JINJA_MAX_NESTED);
}

/* ---- strings ---- */

struct jinja_value jinja_undefined(struct jinja_run *r, struct slice name)
{
    struct jinja_string *s = jinja_take(r, sizeof *s);
    *s = (struct jinja_string){.at = name.at, .len = name.len};
    return (struct jinja_value){.kind = J_UNDEFINED, .u.s = s};
}

struct jinja_value jinja_undefined_text(struct jinja_run *r, const char *name)
{
    return jinja_undefined(r, (struct slice){(const uint8_t *)name, strlen(name)});
}

struct jinja_value jinja_literal(struct jinja_run *r, const char *text)
{
    struct jinja_string *s = jinja_take(r, sizeof *s);
    *s = (struct jinja_string){.at = (const uint8_t *)text, .len = strlen(text)};
    return jinja_string_value(s);
}

static void cut_marks(
    struct jinja_run *r, struct jinja_string *part, const struct jinja_string *s, size_t from)
{
    size_t end = from + part->len;
    struct jinja_mark *marks = jinja_take(r, s->n_marks * sizeof *marks);
    for (uint32_t i = 0; i < s->n_marks; i++) {
        const struct jinja_mark *m = &s->marks[i];
        size_t begin = m->at > from ? m->at : from;
        size_t stop = m->at + m->len < end ? m->at + m->len : end;
        if (stop > begin)
            marks[part->n_marks++] = (struct jinja_mark){
                begin - from, stop - begin, m->source, m->from + (begin - m->at)};
    }
    part->marks = marks;
}

struct jinja_value jinja_part(
    struct jinja_run *r, const struct jinja_string *s, size_t from, size_t len)
{
    struct jinja_string *part;
    if (from == 0 && len == s->len)
        return jinja_string_value(s);
    part = jinja_take(r, sizeof *part);
    *part = (struct jinja_string){.at = s->at + from, .len = len, .markup = s->markup};
    if (s->n_marks > 0)
        cut_marks(r, part, s, from);
    return jinja_string_value(part);
}

size_t jinja_n_chars(const struct jinja_string *s)
{
    size_t n = 0;
    for (size_t i = 0; i < s->len; i++)
        n += s->at[i] >> 6 != 2;
    return n;
}

size_t jinja_char_offset(const struct jinja_string *s, size_t n_chars)
{
    size_t i = 0;
    for (; n_chars > 0 && i < s->len; n_chars--)
        for (i++; i < s->len && s->at[i] >> 6 == 2;)
            i++;
    return i;
}

/* ---- sequences and maps ---- */

struct jinja_value jinja_seq_new(struct jinja_run *r, enum jinja_seq_type type)
{
    struct jinja_seq *q = jinja_take(r, sizeof *q);
    q->type = type;
    return (struct jinja_value){.kind = J_SEQ, .u.q = q};
}

void jinja_seq_add(struct jinja_run *r, struct jinja_seq *q, struct jinja_value v)
{
    if (q->n == q->room) {
        size_t room = q->room ? 2 * q->room : 4;
        struct jinja_value *at = jinja_take(r, room * sizeof *at);
        if (q->n > 0)
            memcpy(at, q->at, q->n * sizeof *at);
        q->at = at;
        q->room = room;
    }
    q->at[q->n++] = v;
}

struct jinja_value jinja_dict_new(struct jinja_run *r, enum jinja_kind kind)
{
    return (struct jinja_value){
        .kind = (uint8_t)kind, .u.d = jinja_take(r, sizeof(struct jinja_dict))};
}

static int same_text(const struct jinja_string *a, struct slice b)
{
    return a->len == b.len && (b.len == 0 || memcmp(a->at, b.at, b.len) == 0);
}

struct jinja_value *jinja_dict_get(
    struct jinja_run *r, const struct jinja_dict *d, struct slice key)
{
    jinja_spend(r, d->n / 8);
    for (size_t i = 0; i < d->n; i++)
        if (d->keys[i].kind == J_STR && same_text(d->keys[i].u.s, key))
            return &d->values[i];
    return NULL;
}

static int is_hashable(struct jinja_value v)
{
    if (v.kind == J_DICT || v.kind == J_UNDEFINED)
        return v.kind == J_UNDEFINED;
    if (v.kind != J_SEQ || v.u.q->type != SEQ_TUPLE)
        return v.kind != J_SEQ;
    for (size_t i = 0; i < v.u.q->n; i++)
        if (!is_hashable(v.u.q->at[i]))
            return 0;
    return 1;
}

struct jinja_value *jinja_dict_find(
    struct jinja_run *r, const struct jinja_dict *d, struct jinja_value key)
{
    if (key.kind == J_STR)
        return jinja_dict_get(r, d, jinja_slice(key.u.s));
    if (!is_hashable(key))
        jinja_fail(r, "a %s cannot be a key", jinja_type_name(key));
    jinja_spend(r, d->n);
    for (size_t i = 0; i < d->n; i++)
        if (jinja_equal(r, d->keys[i], key))
            return &d->values[i];
    return NULL;
}

void jinja_dict_put(
    struct jinja_run *r, struct jinja_dict *d, struct jinja_value key, struct jinja_value v)
{
    struct jinja_value *found = jinja_dict_find(r, d, key);
    if (found) {
        *found = v;
        return;
    }
    if (d->n == d->room) {
        size_t room = d->room ? 2 * d->room : 4;
        struct jinja_value *both = jinja_take(r, 2 * room * sizeof *both);
        if (d->n > 0) {
            memcpy(both, d->keys, d->n * sizeof *both);
            memcpy(both + room, d->values, d->n * sizeof *both);
        }
        d->keys = both;
        d->values = both + room;
        d->room = room;
    }
    d->keys[d->n] = key;
    d->values[d->n++] = v;
}

/* ---- asking ---- */

const char *jinja_type_name(struct jinja_value v)
{
    static const char *const kinds[] = {"missing value", "undefined value", "None", "bool", "int",
        "float", "str", "", "dict", "namespace", "macro", "loop", "method", "function"};
    static const char *const types[] = {
        "list", "tuple", "range", "dict_keys", "dict_values", "dict_items", "iterator"};
    return v.kind == J_SEQ ? types[v.u.q->type] : kinds[v.kind];
}

int jinja_true(struct jinja_run *r, struct jinja_value v)
{
    (void)r;
    switch (v.kind) {
    case J_MISSING:
    case J_UNDEFINED:
    case J_NONE:
        return 0;
    case J_BOOL:
    case J_INT:
        return v.u.n != 0;
    case J_FLOAT:
        return v.u.f != 0;
    case J_STR:
        return v.u.s->len > 0;
    case J_SEQ:
        return v.u.q->type == SEQ_ITERATOR || v.u.q->n > 0;
    case J_DICT:
        return v.u.d->n > 0;
    default:
        return 1;
    }
}

static int compare_numbers(struct jinja_value a, struct jinja_value b)
{
    if (a.kind != J_FLOAT && b.kind != J_FLOAT)
        return (a.u.n > b.u.n) - (a.u.n < b.u.n);
    /* 64 bits of mantissa: exact for any int64 */
    long double x = a.kind == J_FLOAT ? (long double)a.u.f : (long double)a.u.n;
    long double y = b.kind == J_FLOAT ? (long double)b.u.f : (long double)b.u.n;
    return x != x || y != y ? 2 : (x > y) - (x < y);
}

static int equal_seqs(struct jinja_run *r, const struct jinja_seq *a, const struct jinja_seq *b)
{
    if (a == b)
        return 1;
    if (a->type != b->type || a->type == SEQ_ITERATOR || a->type == SEQ_VALUES)
        return 0;
    if (a->type == SEQ_KEYS || a->type == SEQ_ITEMS)
        jinja_fail(r, "comparing the keys or items of maps is not supported");
    if (a->n != b->n)
        return 0;
    for (size_t i = 0; i < a->n; i++)
        if (!jinja_equal(r, a->at[i], b->at[i]))
            return 0;
    return 1;
}

static int equal_dicts(struct jinja_run *r, const struct jinja_dict *a, const struct jinja_dict *b)
{
    if (a == b)
        return 1;
    if (a->n != b->n)
        return 0;
    for (size_t i = 0; i < a->n; i++) {
        const struct jinja_value *found = jinja_dict_find(r, b, a->keys[i]);
        if (!found || !jinja_equal(r, a->values[i], *found))
            return 0;
    }
    return 1;
}

static int equal(struct jinja_run *r, struct jinja_value a, struct jinja_value b)
{
    if (jinja_is_number(a) && jinja_is_number(b))
        return compare_numbers(a, b) == 0;
    if (a.kind != b.kind)
        return 0;
    switch (a.kind) {
    case J_UNDEFINED:
    case J_NONE:
        return 1;
    case J_STR:
        jinja_spend(r, a.u.s->len / 64);
        return same_text(a.u.s, jinja_slice(b.u.s));
    case J_SEQ:
        return equal_seqs(r, a.u.q, b.u.q);
    case J_DICT:
        return equal_dicts(r, a.u.d, b.u.d);
    case J_METHOD:
        jinja_fail(r, "comparing methods is not supported");
    default:
        return a.u.d == b.u.d;
    }
}

int jinja_equal(struct jinja_run *r, struct jinja_value a, struct jinja_value b)
{
    jinja_enter(r);
    jinja_spend(r, 1);
    int same = equal(r, a, b);
    jinja_leave(r);
    return same;
}

static int order_texts(const struct jinja_string *a, const struct jinja_string *b)
{
    size_t n = a->len < b->len ? a->len : b->len;
    int c = n > 0 ? memcmp(a->at, b->at, n) : 0; /* UTF-8 has the order of its characters */
    return c ? (c > 0) - (c < 0) : (a->len > b->len) - (a->len < b->len);
}

int jinja_order(struct jinja_run *r, struct jinja_value a, struct jinja_value b, const char *op)
{
    int c = 0;
    if (jinja_is_number(a) && jinja_is_number(b))
        return compare_numbers(a, b);
    if (a.kind == J_STR && b.kind == J_STR) {
        jinja_spend(r, a.u.s->len / 64);
        return order_texts(a.u.s, b.u.s);
    }
    if (a.kind != J_SEQ || b.kind != J_SEQ || a.u.q->type != b.u.q->type || a.u.q->type > SEQ_TUPLE)
        jinja_fail(r, "%s between %s and %s", op, jinja_type_name(a), jinja_type_name(b));
    jinja_enter(r);
    size_t n = a.u.q->n < b.u.q->n ? a.u.q->n : b.u.q->n, i = 0;
    while (i < n && jinja_equal(r, a.u.q->at[i], b.u.q->at[i]))
        i++;
    if (i < n)
        c = jinja_order(r, a.u.q->at[i], b.u.q->at[i], op);
    else
        c = (a.u.q->n > b.u.q->n) - (a.u.q->n < b.u.q->n);
    jinja_leave(r);
    return c;
}

static struct jinja_seq *characters(struct jinja_run *r, const struct jinja_string *s)
{
    struct jinja_seq *q = jinja_seq_new(r, SEQ_LIST).u.q;
    unsigned bytes;
    if (s->markup) { /* its characters are none */
        struct jinja_string *plain = jinja_take(r, sizeof *plain);
        *plain = *s;
        plain->markup = 0;
        s = plain;
    }
    for (size_t i = 0; i < s->len; i += bytes) {
        unicode_decode(s->at + i, &bytes);
        jinja_spend(r, 1);
        jinja_seq_add(r, q, jinja_part(r, s, i, bytes));
    }
    return q;
}

struct jinja_seq *jinja_items(struct jinja_run *r, struct jinja_value v)
{
    struct jinja_seq *q;
    if (v.kind == J_SEQ && v.u.q->type != SEQ_ITERATOR)
        return v.u.q;
    if (v.kind == J_STR)
        return characters(r, v.u.s);
    if (v.kind != J_DICT && v.kind != J_UNDEFINED && v.kind != J_SEQ)
        jinja_fail(r, "a %s cannot be iterated over", jinja_type_name(v));
    q = jinja_seq_new(r, SEQ_LIST).u.q;
    if (v.kind == J_DICT) {
        q->at = v.u.d->keys;
        q->n = v.u.d->n;
    } else if (v.kind == J_SEQ) {
        q->at = v.u.q->at + v.u.q->next;
        q->n = v.u.q->n - v.u.q->next;
        v.u.q->next = v.u.q->n;
    }
    return q;
}

int64_t jinja_length(struct jinja_run *r, struct jinja_value v)
{
    if (v.kind == J_STR) {
        jinja_spend(r, v.u.s->len / 64);
        return (int64_t)jinja_n_chars(v.u.s);
    }
    if (v.kind == J_SEQ && v.u.q->type != SEQ_ITERATOR)
        return (int64_t)v.u.q->n;
    if (v.kind == J_DICT)
        return (int64_t)v.u.d->n;
    if (v.kind != J_UNDEFINED)
        jinja_fail(r, "a %s has no length", jinja_type_name(v));
    return 0;
}
