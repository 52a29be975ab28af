/* jinja_functions.c - global functions, and the methods of lists, maps and loops. */
#include "broker/text/jinja_private.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

#define FIND(table, name) jinja_find(table, sizeof(table) / sizeof(table)[0], name)

/* ---- methods of containers ---- */

static struct jinja_value dict_get(
    struct jinja_run *r, struct jinja_value self, const struct jinja_value *p)
{
    const struct jinja_value *found = jinja_dict_find(r, self.u.d, p[0]);
    return found ? *found : p[1].kind == J_MISSING ? jinja_none() : p[1];
}

static struct jinja_value view(
    struct jinja_run *r, enum jinja_seq_type type, struct jinja_value *at, size_t n)
{
    struct jinja_value v = jinja_seq_new(r, type);
    v.u.q->at = at;
    v.u.q->n = v.u.q->room = n;
    return v;
}

static struct jinja_value dict_keys(
    struct jinja_run *r, struct jinja_value self, const struct jinja_value *p)
{
    (void)p;
    return view(r, SEQ_KEYS, self.u.d->keys, self.u.d->n);
}

static struct jinja_value dict_values(
    struct jinja_run *r, struct jinja_value self, const struct jinja_value *p)
{
    (void)p;
    return view(r, SEQ_VALUES, self.u.d->values, self.u.d->n);
}

static struct jinja_value dict_items(
    struct jinja_run *r, struct jinja_value self, const struct jinja_value *p)
{
    struct jinja_value all = jinja_seq_new(r, SEQ_ITEMS);
    (void)p;
    for (size_t i = 0; i < self.u.d->n; i++) {
        struct jinja_value pair = jinja_seq_new(r, SEQ_TUPLE);
        jinja_seq_add(r, pair.u.q, self.u.d->keys[i]);
        jinja_seq_add(r, pair.u.q, self.u.d->values[i]);
        jinja_seq_add(r, all.u.q, pair);
    }
    return all;
}

/* Maps and lists never change, so a copy is the thing itself. */
static struct jinja_value copy(
    struct jinja_run *r, struct jinja_value self, const struct jinja_value *p)
{
    (void)r;
    (void)p;
    return self;
}

static struct jinja_value seq_index(
    struct jinja_run *r, struct jinja_value self, const struct jinja_value *p)
{
    for (size_t i = 0; i < self.u.q->n; i++)
        if (jinja_equal(r, self.u.q->at[i], p[0]))
            return jinja_int((int64_t)i);
    jinja_fail(r, "index: the value is not in the list");
}

static struct jinja_value seq_count(
    struct jinja_run *r, struct jinja_value self, const struct jinja_value *p)
{
    int64_t n = 0;
    for (size_t i = 0; i < self.u.q->n; i++)
        n += jinja_equal(r, self.u.q->at[i], p[0]);
    return jinja_int(n);
}

static struct jinja_value loop_cycle(
    struct jinja_run *r, struct jinja_value self, const struct jinja_value *p)
{
    const struct jinja_seq *q = p[0].u.q;
    if (q->n == 0 || p[1].u.d->n > 0)
        jinja_fail(r, "cycle: expected values");
    return q->at[(size_t)self.u.loop->index0 % q->n];
}

static struct jinja_value loop_changed(
    struct jinja_run *r, struct jinja_value self, const struct jinja_value *p)
{
    struct jinja_value *last = &self.u.loop->last_changed;
    if (last->kind == J_SEQ && jinja_equal(r, *last, p[0]))
        return jinja_bool(0);
    *last = p[0];
    return jinja_bool(1);
}

static const struct jinja_builtin dict_methods[] = {
    {"get", "/key default", 1, dict_get},
    {"items", "", 0, dict_items},
    {"keys", "", 0, dict_keys},
    {"values", "", 0, dict_values},
    {"copy", "", 0, copy},
};
static const struct jinja_builtin seq_methods[] = {
    {"index", "/value", 1, seq_index},
    {"count", "/value", 1, seq_count},
    {"copy", "", 0, copy},
};
static const struct jinja_builtin loop_methods[] = {
    {"cycle", "*", 0, loop_cycle},
    {"changed", "*", 0, loop_changed},
};

const struct jinja_builtin *jinja_container_method(struct jinja_value v, struct slice name)
{
    if (v.kind == J_DICT)
        return FIND(dict_methods, name);
    if (v.kind == J_LOOP)
        return FIND(loop_methods, name);
    if (v.kind != J_SEQ || v.u.q->type > SEQ_RANGE)
        return NULL;
    const struct jinja_builtin *found = FIND(seq_methods, name);
    return found && found->call == copy && v.u.q->type != SEQ_LIST ? NULL : found;
}

/* ---- globals ---- */

static struct jinja_value range(
    struct jinja_run *r, struct jinja_value self, const struct jinja_value *p)
{
    int64_t start = 0, end = jinja_want_int(r, p[0], "range"), step = 1;
    (void)self;
    if (p[1].kind != J_MISSING) {
        start = end;
        end = jinja_want_int(r, p[1], "range");
    }
    if (p[2].kind != J_MISSING)
        step = jinja_want_int(r, p[2], "range");
    if (step == 0)
        jinja_fail(r, "range: the step is zero");
    struct jinja_value v = jinja_seq_new(r, SEQ_RANGE);
    for (int64_t i = start; step > 0 ? i < end : i > end;) {
        if (v.u.q->n == JINJA_MAX_RANGE)
            jinja_fail(r, "range: more than %d numbers", JINJA_MAX_RANGE);
        jinja_seq_add(r, v.u.q, jinja_int(i));
        if (__builtin_add_overflow(i, step, &i))
            break;
    }
    return v;
}

/* dict(map or pairs, name=value ..) */
static void fill_dict(struct jinja_run *r, struct jinja_dict *d, const struct jinja_value *p)
{
    if (p[0].u.q->n > 1)
        jinja_fail(r, "dict: expected one map or list of pairs");
    struct jinja_value from =
        p[0].u.q->n == 1 ? p[0].u.q->at[0] : (struct jinja_value){.kind = J_MISSING};
    if (from.kind == J_DICT)
        for (size_t i = 0; i < from.u.d->n; i++)
            jinja_dict_put(r, d, from.u.d->keys[i], from.u.d->values[i]);
    else if (from.kind != J_MISSING) {
        const struct jinja_seq *pairs = jinja_items(r, from);
        for (size_t i = 0; i < pairs->n; i++) {
            const struct jinja_seq *pair = jinja_items(r, pairs->at[i]);
            if (pair->n != 2)
                jinja_fail(r, "dict: expected pairs, found %zu values", pair->n);
            jinja_dict_put(r, d, pair->at[0], pair->at[1]);
        }
    }
    for (size_t i = 0; i < p[1].u.d->n; i++)
        jinja_dict_put(r, d, p[1].u.d->keys[i], p[1].u.d->values[i]);
}

static struct jinja_value make_dict(
    struct jinja_run *r, struct jinja_value self, const struct jinja_value *p)
{
    struct jinja_value v = jinja_dict_new(r, J_DICT);
    (void)self;
    fill_dict(r, v.u.d, p);
    return v;
}

static struct jinja_value make_namespace(
    struct jinja_run *r, struct jinja_value self, const struct jinja_value *p)
{
    struct jinja_value v = jinja_dict_new(r, J_NAMESPACE);
    (void)self;
    fill_dict(r, v.u.d, p);
    for (size_t i = 0; i < v.u.d->n; i++) {
        struct jinja_value key = v.u.d->keys[i];
        if (key.kind == J_STR && key.u.s->len > 0 && key.u.s->at[0] == '_')
            jinja_fail(r, "an attribute of a namespace begins with an underscore");
    }
    return v;
}

static struct jinja_value raise(
    struct jinja_run *r, struct jinja_value self, const struct jinja_value *p)
{
    struct jinja_value text = jinja_str(r, p[0]);
    (void)self;
    jinja_fail(r, "the template refuses the conversation: %.*s",
        (int)(text.u.s->len < 300 ? text.u.s->len : 300), (const char *)text.u.s->at);
}

/* One directive of strftime behind its %, at *i. Only those of a day: the time would change the
 * text from one moment to the next. */
static void put_date(struct jinja_run *r, const struct jinja_string *s, size_t *i)
{
    struct tm t = {.tm_year = r->year - 1900, .tm_mon = r->month - 1, .tm_mday = r->day};
    char format[4] = "%", text[80];
    size_t n = 1;
    timegm(&t); /* fills in the days of week and year */
    if (*i < s->len && s->at[*i] == '-')
        format[n++] = (char)s->at[(*i)++];
    format[n] = *i < s->len ? (char)s->at[(*i)++] : '\0';
    if (!format[n] || !strchr("aAbBhdmyYjeFDxUWuwVGC%", format[n]) || (n == 2 && format[n] == '%'))
        jinja_fail(r, "strftime_now: expected directives of a day, found %s", format);
    jinja_put(r, text, strftime(text, sizeof text, format, &t));
}

static struct jinja_value strftime_now(
    struct jinja_run *r, struct jinja_value self, const struct jinja_value *p)
{
    const struct jinja_string *s = jinja_want_string(r, p[0], "strftime_now");
    size_t begin = jinja_mark_here(r);
    (void)self;
    if (!r->has_date)
        jinja_fail(r, "the template writes the day's date (strftime_now), and scores would change "
                      "with it; expected --template-date YYYY-MM-DD");
    for (size_t i = 0; i < s->len;)
        if (s->at[i] == '%') {
            i++;
            put_date(r, s, &i);
        } else
            jinja_put_part(r, s, i++, 1);
    return jinja_cut(r, begin);
}

static const struct jinja_builtin globals[] = {
    {"range", "/start stop step", 1, range},
    {"dict", "*", 0, make_dict},
    {"namespace", "*", 0, make_namespace},
    {"raise_exception", "message", 1, raise},
    {"strftime_now", "format", 1, strftime_now},
};

const struct jinja_builtin *jinja_global(struct slice name)
{
    return FIND(globals, name);
}
