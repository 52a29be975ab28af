/* jinja_input.c - an evaluation's variables: values from msgpack and from texts of the row. */
#include "broker/text/jinja_private.h"

#include <stdio.h>
#include <string.h>

#include "schema/utf8.h"

#define MAX_VALUE_DEPTH 64

/* A string of the input. Borrowed bytes, one mark over all of it. */
static struct jinja_value input_string(struct jinja_run *r, struct slice text, uint32_t source)
{
    struct jinja_string *s = arena_take(&r->arena, sizeof *s);
    struct jinja_mark *mark = arena_take(&r->arena, sizeof *mark);
    *mark = (struct jinja_mark){0, text.len, source, 0};
    *s = (struct jinja_string){.at = text.at, .len = text.len, .marks = mark, .n_marks = 1};
    r->input_bytes += text.len;
    return jinja_string_value(s);
}

static struct jinja_value constant_string(struct jinja_run *r, struct slice text)
{
    struct jinja_string *s = arena_take(&r->arena, sizeof *s);
    *s = (struct jinja_string){.at = text.at, .len = text.len};
    return jinja_string_value(s);
}

static struct slice key_slice(const char *key)
{
    return (struct slice){(const uint8_t *)key, strlen(key)};
}

/* Makes room for n more items. Not bounded by the run's limits, which follow from the input. */
static void reserve(struct jinja_run *r, struct jinja_seq *q, size_t n)
{
    q->at = arena_take(&r->arena, n * sizeof *q->at);
    q->room = n;
}

static void reserve_pairs(struct jinja_run *r, struct jinja_dict *d, size_t n)
{
    d->keys = arena_take(&r->arena, 2 * n * sizeof *d->keys);
    d->values = d->keys + n;
    d->room = n;
}

/* ---- msgpack ---- */

static int read_value(
    struct jinja_run *r, struct msg_reader *m, int depth, struct jinja_value *v, struct err *e);

static int read_string(
    struct jinja_run *r, struct msg_reader *m, struct jinja_value *v, struct err *e)
{
    struct slice text;
    int rc = msg_read_text(m, "", &text, e);
    size_t valid = rc == 0 ? utf8_valid(text.at, text.len) : 0;
    if (rc == 0 && valid < text.len)
        return err_set(
            e, ASSAY_EBADTEXT, "byte %zu: expected UTF-8, found 0x%02x", valid, text.at[valid]);
    if (rc == 0)
        *v = input_string(r, text, JINJA_NO_SOURCE);
    return rc;
}

static int read_array(
    struct jinja_run *r, struct msg_reader *m, int depth, struct jinja_value *v, struct err *e)
{
    uint32_t n = 0;
    int rc = msg_read_array(m, "", &n, e);
    struct jinja_seq *q = arena_take(&r->arena, sizeof *q);
    if (rc == 0)
        reserve(r, q, n);
    for (; rc == 0 && q->n < n; q->n++)
        rc = read_value(r, m, depth + 1, &q->at[q->n], e);
    *v = (struct jinja_value){.kind = J_SEQ, .u.q = q};
    return rc;
}

/* A key that comes again takes the later value, as JSON's do. */
static void put_pair(struct jinja_dict *d, struct jinja_value key, struct jinja_value v)
{
    size_t i = 0;
    while (i < d->n && !(d->keys[i].u.s->len == key.u.s->len &&
                           memcmp(d->keys[i].u.s->at, key.u.s->at, key.u.s->len) == 0))
        i++;
    d->keys[i] = key;
    d->values[i] = v;
    d->n += i == d->n;
}

static int read_map(
    struct jinja_run *r, struct msg_reader *m, int depth, struct jinja_value *v, struct err *e)
{
    uint32_t n = 0;
    int rc = msg_read_map(m, "", &n, e);
    struct jinja_dict *d = arena_take(&r->arena, sizeof *d);
    if (rc == 0 && n > 4096)
        return err_set(e, ASSAY_EBADTEXT, "expected a map of at most 4096 keys, found %u", n);
    if (rc == 0)
        reserve_pairs(r, d, n);
    for (uint32_t i = 0; rc == 0 && i < n; i++) {
        struct jinja_value key, value;
        rc = read_string(r, m, &key, e);
        if (rc == 0)
            rc = read_value(r, m, depth + 1, &value, e);
        if (rc == 0)
            put_pair(d, key, value);
    }
    *v = (struct jinja_value){.kind = J_DICT, .u.d = d};
    return rc;
}

static int read_integer(struct msg_reader *m, struct jinja_value *v, struct err *e)
{
    uint64_t large;
    int64_t n;
    struct msg_reader again = *m;
    int rc = msg_read_int_saturated(m, "", &n, e);
    if (rc == 0 && n == INT64_MAX && msg_read_uint64(&again, "", &large, NULL) == 0 &&
        large > INT64_MAX)
        return err_set(e, ASSAY_EBADTEXT, "expected an integer of 64 bits, found %llu",
            (unsigned long long)large);
    *v = jinja_int(n);
    return rc;
}

static int read_value(
    struct jinja_run *r, struct msg_reader *m, int depth, struct jinja_value *v, struct err *e)
{
    struct slice raw;
    int rc = 0, flag = 0;
    double f = 0;
    if (depth > MAX_VALUE_DEPTH)
        return err_set(e, ASSAY_EBADTEXT, "values nested deeper than %d", MAX_VALUE_DEPTH);
    switch (msg_peek(m)) {
    case MSG_NIL:
        *v = jinja_none();
        return msg_read_raw(m, "", 1, &raw, e);
    case MSG_BOOL:
        rc = msg_read_bool(m, "", &flag, e);
        *v = jinja_bool(flag);
        return rc;
    case MSG_INT:
        return read_integer(m, v, e);
    case MSG_FLOAT:
        rc = msg_read_float(m, "", &f, e);
        *v = jinja_float(f);
        return rc;
    case MSG_STR:
        return read_string(r, m, v, e);
    case MSG_ARRAY:
        return read_array(r, m, depth, v, e);
    case MSG_MAP:
        return read_map(r, m, depth, v, e);
    default:
        return msg_unexpected(m, "", "a value that JSON has", e);
    }
}

/* ---- variables ---- */

/* NULL: the template does not use the name. */
static struct jinja_value *variable(struct jinja_run *r, const char *name)
{
    for (uint32_t i = 0; i < r->t->n_names; i++)
        if (slice_is(jinja_slice(r->t->names[i]), name))
            return &r->variables[i];
    return NULL;
}

static void set(struct jinja_run *r, const char *name, struct jinja_value v)
{
    struct jinja_value *at = variable(r, name);
    if (at)
        *at = v;
}

static int read_whole(struct jinja_run *r, struct slice raw, struct jinja_value *v, struct err *e)
{
    struct msg_reader m;
    msg_reader_init(&m, raw.at, raw.len);
    int rc = read_value(r, &m, 0, v, e);
    return rc == 0 ? msg_read_end(&m, e) : rc;
}

int jinja_read_variable(struct jinja_run *r, const char *name, struct msg_reader *m, struct err *e)
{
    struct jinja_value v;
    int rc = read_value(r, m, 0, &v, e);
    if (rc == 0)
        set(r, name, v);
    return rc;
}

int jinja_set_msgpack(struct jinja_run *r, const char *name, struct slice raw, struct err *e)
{
    struct jinja_value v;
    int rc = read_whole(r, raw, &v, e);
    if (rc == 0)
        set(r, name, v);
    return rc;
}

int jinja_is_maps(struct jinja_run *r, const char *name)
{
    const struct jinja_value *v = variable(r, name);
    if (!v || v->kind == J_NONE)
        return 1;
    for (size_t i = 0; v->kind == J_SEQ && i < v->u.q->n; i++)
        if (v->u.q->at[i].kind != J_DICT)
            return 0;
    return v->kind == J_SEQ;
}

void jinja_set_text(struct jinja_run *r, const char *name, struct slice text)
{
    set(r, name, constant_string(r, text));
}

void jinja_set_bool(struct jinja_run *r, const char *name, int value)
{
    set(r, name, jinja_bool(value));
}

void jinja_set_none(struct jinja_run *r, const char *name)
{
    set(r, name, jinja_none());
}

struct jinja_value *jinja_set_list(struct jinja_run *r, const char *name, size_t n)
{
    struct jinja_value *v = arena_take(&r->arena, sizeof *v);
    struct jinja_seq *q = arena_take(&r->arena, sizeof *q);
    reserve(r, q, n);
    *v = (struct jinja_value){.kind = J_SEQ, .u.q = q};
    set(r, name, *v);
    return v;
}

struct jinja_value *jinja_add_map(struct jinja_run *r, struct jinja_value *list, size_t n)
{
    struct jinja_seq *q = list->u.q;
    struct jinja_dict *d = arena_take(&r->arena, sizeof *d);
    reserve_pairs(r, d, n);
    q->at[q->n] = (struct jinja_value){.kind = J_DICT, .u.d = d};
    return &q->at[q->n++];
}

void jinja_put_text(struct jinja_run *r, struct jinja_value *map, const char *key,
    struct slice text, uint32_t source)
{
    put_pair(map->u.d, constant_string(r, key_slice(key)), input_string(r, text, source));
}

struct jinja_value *jinja_add_msgpack(
    struct jinja_run *r, struct jinja_value *list, struct slice raw, size_t n_more, struct err *e)
{
    struct jinja_value v, *map;
    if (read_whole(r, raw, &v, e) != 0)
        return NULL;
    if (v.kind != J_DICT) {
        err_set(e, ASSAY_EBADTEXT, "expected a map, found a %s", jinja_type_name(v));
        return NULL;
    }
    map = jinja_add_map(r, list, v.u.d->n + n_more);
    for (size_t i = 0; i < v.u.d->n; i++)
        if (v.u.d->values[i].kind != J_NONE)
            put_pair(map->u.d, v.u.d->keys[i], v.u.d->values[i]);
    return map;
}

static struct jinja_value *find(const struct jinja_value *map, const char *key)
{
    const struct jinja_dict *d = map->u.d;
    for (size_t i = 0; i < d->n; i++)
        if (slice_is(jinja_slice(d->keys[i].u.s), key))
            return &d->values[i];
    return NULL;
}

const struct jinja_value *jinja_get(const struct jinja_value *map, const char *key)
{
    const struct jinja_value *found = find(map, key);
    return found && found->kind != J_NONE ? found : NULL;
}

void jinja_put_same(
    struct jinja_run *r, struct jinja_value *map, const char *key, const struct jinja_value *v)
{
    put_pair(map->u.d, constant_string(r, key_slice(key)), *v);
}

void jinja_put_first(
    struct jinja_run *r, struct jinja_value *map, const char *key, const struct jinja_value *v)
{
    struct jinja_dict *d = map->u.d;
    struct jinja_value copy = *v; /* it may be one of those that move */
    if (find(map, key))
        return;
    memmove(d->keys + 1, d->keys, d->n * sizeof *d->keys);
    memmove(d->values + 1, d->values, d->n * sizeof *d->values);
    d->keys[0] = constant_string(r, key_slice(key));
    d->values[0] = copy;
    d->n++;
}
