/* jinja_sequence.c - jinja2's filters that walk sequences. Where jinja2 returns a generator, so
 * does this: an iterator that is read once and is always true; its values are computed at once. */
#include "broker/text/jinja_private.h"

#include <stdlib.h>
#include <string.h>

#define FILTER(name)                                                                               \
    static struct jinja_value name(                                                                \
        struct jinja_run *r, struct jinja_value v, const struct jinja_value *p)

static struct jinja_value seq_of(
    struct jinja_run *r, enum jinja_seq_type type, const struct jinja_seq *items)
{
    struct jinja_value v = jinja_seq_new(r, type);
    v.u.q->at = items->at;
    v.u.q->n = v.u.q->room = items->n;
    return v;
}

/* ---- parts ---- */

FILTER(first)
{
    (void)p;
    const struct jinja_seq *q = jinja_items(r, v);
    return q->n > 0 ? q->at[0] : jinja_undefined_text(r, "the first item of nothing");
}

FILTER(last)
{
    (void)p;
    if (v.kind == J_SEQ && v.u.q->type == SEQ_ITERATOR)
        jinja_fail(r, "last of an iterator");
    const struct jinja_seq *q = jinja_items(r, v);
    if (q->n == 0)
        return jinja_undefined_text(r, "the last item of nothing");
    struct jinja_value item = q->at[q->n - 1];
    return v.kind == J_STR && v.u.s->markup ? jinja_markup(r, item) : item; /* of reversed(v) */
}

FILTER(list)
{
    (void)p;
    return seq_of(r, SEQ_LIST, jinja_items(r, v));
}

FILTER(reverse)
{
    const struct jinja_value bounds[3] = {jinja_none(), jinja_none(), jinja_int(-1)};
    (void)p;
    if (v.kind == J_STR)
        return jinja_slice_of(r, v, bounds);
    struct jinja_value all = seq_of(r, SEQ_LIST, jinja_items(r, v));
    struct jinja_value back = jinja_slice_of(r, all, bounds);
    back.u.q->type = SEQ_ITERATOR;
    return back;
}

FILTER(items)
{
    struct jinja_value none = jinja_seq_new(r, SEQ_ITERATOR);
    (void)p;
    if (v.kind == J_UNDEFINED)
        return none;
    if (v.kind != J_DICT)
        jinja_fail(r, "items: expected a map, found %s", jinja_type_name(v));
    const struct jinja_builtin *of =
        jinja_container_method(v, (struct slice){(const uint8_t *)"items", 5});
    return seq_of(r, SEQ_ITERATOR, of->call(r, v, p).u.q);
}

FILTER(join)
{
    const struct jinja_string *by =
        p[0].kind == J_MISSING ? jinja_literal(r, "").u.s : jinja_str(r, p[0]).u.s;
    const struct jinja_seq *q = jinja_items(r, v);
    int has_path = p[1].kind != J_MISSING && p[1].kind != J_NONE;
    size_t begin = jinja_mark_here(r);
    for (size_t i = 0; i < q->n; i++) {
        if (i > 0)
            jinja_put_string(r, by);
        struct jinja_value item = has_path ? jinja_path(r, q->at[i], p[1], NULL) : q->at[i];
        jinja_put_value(r, item);
        jinja_spend(r, 1);
    }
    return jinja_cut(r, begin);
}

/* p: linecount, fill_with. */
FILTER(batch)
{
    int64_t size = jinja_want_int(r, p[0], "batch");
    const struct jinja_seq *q = jinja_items(r, v);
    struct jinja_value all = jinja_seq_new(r, SEQ_ITERATOR), now = {.kind = J_MISSING};
    if (size < 1)
        jinja_fail(r, "batch: expected 1 or more, found %lld", (long long)size);
    for (size_t i = 0; i < q->n; i++) {
        if (i % (size_t)size == 0) {
            now = jinja_seq_new(r, SEQ_LIST);
            jinja_seq_add(r, all.u.q, now);
        }
        jinja_seq_add(r, now.u.q, q->at[i]);
    }
    while (q->n > 0 && p[1].kind != J_MISSING && p[1].kind != J_NONE && now.u.q->n < (size_t)size) {
        jinja_spend(r, 1);
        jinja_seq_add(r, now.u.q, p[1]);
    }
    return all;
}

/* p: slices, fill_with. */
FILTER(slices)
{
    int64_t n = jinja_want_int(r, p[0], "slice");
    const struct jinja_seq *q = jinja_items(r, v);
    struct jinja_value all = jinja_seq_new(r, SEQ_ITERATOR);
    size_t at = 0;
    if (n == 0)
        jinja_fail(r, "slice: expected a number of slices, found 0");
    for (int64_t k = 0; k < n; k++) {
        int is_longer = (size_t)k < q->n % (size_t)n;
        size_t end = at + q->n / (size_t)n + (size_t)is_longer;
        struct jinja_value part = jinja_seq_new(r, SEQ_LIST);
        jinja_spend(r, 1);
        while (at < end)
            jinja_seq_add(r, part.u.q, q->at[at++]);
        if (p[1].kind != J_MISSING && p[1].kind != J_NONE && !is_longer)
            jinja_seq_add(r, part.u.q, p[1]);
        jinja_seq_add(r, all.u.q, part);
    }
    return all;
}

FILTER(sum)
{
    struct jinja_value total = p[1].kind == J_MISSING ? jinja_int(0) : p[1];
    const struct jinja_seq *q = jinja_items(r, v);
    for (size_t i = 0; i < q->n; i++) {
        struct jinja_value item = q->at[i];
        if (p[0].kind != J_MISSING && p[0].kind != J_NONE)
            item = jinja_path(r, item, p[0], NULL);
        total = jinja_binary(r, '+', total, item);
    }
    if (total.kind == J_FLOAT && q->n > 2)
        jinja_fail(r, "sum of more than two floats is not supported");
    return total;
}

/* ---- order ---- */

static struct jinja_value without_case(struct jinja_run *r, struct jinja_value v, int with_case)
{
    return v.kind == J_STR && !with_case ? jinja_lower(r, v.u.s) : v;
}

/* What a value is compared by: of that attribute, in lower case unless case counts. */
static struct jinja_value order_key(
    struct jinja_run *r, struct jinja_value v, struct jinja_value path, int with_case)
{
    if (path.kind != J_MISSING)
        v = jinja_path(r, v, path, NULL);
    return without_case(r, v, with_case);
}

/* The same of "a,b": a list with the key of each. */
static struct jinja_value order_keys(
    struct jinja_run *r, struct jinja_value v, struct jinja_value paths, int with_case)
{
    if (paths.kind != J_STR || paths.u.s->len == 0 || !memchr(paths.u.s->at, ',', paths.u.s->len))
        return order_key(r, v, paths, with_case);
    struct jinja_value keys = jinja_seq_new(r, SEQ_LIST);
    const struct jinja_string *s = paths.u.s;
    for (size_t from = 0, to; from <= s->len; from = to + 1) {
        for (to = from; to < s->len && s->at[to] != ',';)
            to++;
        jinja_seq_add(r, keys.u.q, order_key(r, v, jinja_part(r, s, from, to - from), with_case));
    }
    return keys;
}

struct sortable {
    struct jinja_value key, value;
};

/* How to sort. by_list: keys are compared as lists of one are, which asks first whether they are
 * equal. */
struct order {
    struct jinja_value path;
    int is_reverse, with_case, by_list;
};

static int is_before(
    struct jinja_run *r, const struct order *o, struct jinja_value a, struct jinja_value b)
{
    jinja_spend(r, 1);
    if (o->by_list && jinja_equal(r, a, b))
        return 0;
    return jinja_order(r, a, b, "<") == -1;
}

/* Merges two sorted runs; equal keys keep their order. */
static void merge(struct jinja_run *r, struct sortable *at, struct sortable *spare, size_t n,
    const struct order *o)
{
    size_t half = n / 2, i = 0, k = half, to = 0;
    while (i < half && k < n) {
        int second = o->is_reverse ? is_before(r, o, at[i].key, at[k].key)
                                   : is_before(r, o, at[k].key, at[i].key);
        spare[to++] = second ? at[k++] : at[i++];
    }
    while (i < half)
        spare[to++] = at[i++];
    while (k < n)
        spare[to++] = at[k++];
    memcpy(at, spare, n * sizeof *at);
}

static void sort_items(struct jinja_run *r, struct sortable *at, struct sortable *spare, size_t n,
    const struct order *o)
{
    if (n < 2)
        return;
    sort_items(r, at, spare, n / 2, o);
    sort_items(r, at + n / 2, spare, n - n / 2, o);
    merge(r, at, spare, n, o);
}

static struct jinja_value sorted(
    struct jinja_run *r, const struct jinja_seq *q, const struct order *o)
{
    struct sortable *at = jinja_take(r, 2 * q->n * sizeof *at);
    struct jinja_value all = jinja_seq_new(r, SEQ_LIST);
    for (size_t i = 0; i < q->n; i++)
        at[i] = (struct sortable){order_keys(r, q->at[i], o->path, o->with_case), q->at[i]};
    sort_items(r, at, at + q->n, q->n, o);
    for (size_t i = 0; i < q->n; i++)
        jinja_seq_add(r, all.u.q, at[i].value);
    return all;
}

/* p: reverse, case_sensitive, attribute. */
FILTER(sort)
{
    const struct order o = {p[2], jinja_true(r, p[0]), jinja_true(r, p[1]), 1};
    return sorted(r, jinja_items(r, v), &o);
}

/* p: case_sensitive, by, reverse. */
FILTER(dictsort)
{
    int64_t place = 0;
    const struct jinja_value none[1] = {{.kind = J_MISSING}};
    if (v.kind != J_DICT)
        jinja_fail(r, "dictsort: expected a map, found %s", jinja_type_name(v));
    if (p[1].kind != J_MISSING) {
        struct slice by = jinja_slice(jinja_want_string(r, p[1], "dictsort"));
        place = slice_is(by, "value");
        if (!place && !slice_is(by, "key"))
            jinja_fail(r, "dictsort: expected key or value");
    }
    const struct jinja_builtin *of =
        jinja_container_method(v, (struct slice){(const uint8_t *)"items", 5});
    const struct order o = {jinja_int(place), jinja_true(r, p[2]), jinja_true(r, p[0]), 0};
    return sorted(r, of->call(r, v, none).u.q, &o);
}

static void add_group(struct jinja_run *r, struct jinja_seq *all, struct jinja_value name)
{
    struct jinja_value group = jinja_seq_new(r, SEQ_TUPLE);
    group.u.q->is_group = 1;
    jinja_seq_add(r, group.u.q, name);
    jinja_seq_add(r, group.u.q, jinja_seq_new(r, SEQ_LIST));
    jinja_seq_add(r, all, group);
}

/* p: attribute, default, case_sensitive. A group has the name that its first value gives it. */
FILTER(groupby)
{
    const struct order o = {.with_case = jinja_true(r, p[2])};
    const struct jinja_value *absent = p[1].kind == J_MISSING || p[1].kind == J_NONE ? NULL : &p[1];
    const struct jinja_seq *q = jinja_items(r, v);
    struct sortable *at = jinja_take(r, 2 * q->n * sizeof *at);
    struct jinja_value all = jinja_seq_new(r, SEQ_LIST);
    for (size_t i = 0; i < q->n; i++)
        at[i] = (struct sortable){
            without_case(r, jinja_path(r, q->at[i], p[0], absent), o.with_case), q->at[i]};
    sort_items(r, at, at + q->n, q->n, &o);
    for (size_t i = 0; i < q->n; i++) {
        if (i == 0 || !jinja_equal(r, at[i].key, at[i - 1].key))
            add_group(r, all.u.q, jinja_path(r, at[i].value, p[0], absent));
        jinja_seq_add(r, all.u.q->at[all.u.q->n - 1].u.q->at[1].u.q, at[i].value);
    }
    return all;
}

/* p: case_sensitive, attribute. */
FILTER(unique)
{
    const struct jinja_seq *q = jinja_items(r, v);
    struct jinja_value seen = jinja_dict_new(r, J_DICT), all = jinja_seq_new(r, SEQ_ITERATOR);
    for (size_t i = 0; i < q->n; i++) {
        struct jinja_value key = order_key(r, q->at[i], p[1], jinja_true(r, p[0]));
        if (jinja_dict_find(r, seen.u.d, key))
            continue;
        jinja_dict_put(r, seen.u.d, key, key);
        jinja_seq_add(r, all.u.q, q->at[i]);
    }
    return all;
}

static struct jinja_value extreme(
    struct jinja_run *r, struct jinja_value v, const struct jinja_value *p, int largest)
{
    const struct jinja_seq *q = jinja_items(r, v);
    size_t best = 0;
    if (q->n == 0)
        return jinja_undefined_text(r, "the extreme of nothing");
    struct jinja_value key = order_key(r, q->at[0], p[1], jinja_true(r, p[0]));
    for (size_t i = 1; i < q->n; i++) {
        struct jinja_value other = order_key(r, q->at[i], p[1], jinja_true(r, p[0]));
        if (jinja_order(r, other, key, largest ? ">" : "<") != (largest ? 1 : -1))
            continue;
        key = other;
        best = i;
    }
    return q->at[best];
}

FILTER(min)
{
    return extreme(r, v, p, 0);
}

FILTER(max)
{
    return extreme(r, v, p, 1);
}

/* ---- choosing, mapping ---- */

/* The rest of a call: its arguments behind the first `skip`, its keywords. */
static struct jinja_call rest_of(
    struct jinja_run *r, const struct jinja_value *p, size_t skip, const struct jinja_dict *named)
{
    const struct jinja_seq *q = p[0].u.q;
    struct jinja_call call = {.at = q->at + skip, .n = (uint32_t)(q->n - skip)};
    const struct jinja_string **names = jinja_take(r, named->n * sizeof *names);
    for (size_t i = 0; i < named->n; i++)
        names[i] = named->keys[i].u.s;
    call.names = names;
    call.keyword = named->values;
    call.n_keywords = (uint32_t)named->n;
    return call;
}

static const struct jinja_builtin *named_function(
    struct jinja_run *r, struct jinja_value name, int is_test)
{
    struct slice s = jinja_slice(jinja_want_string(r, name, is_test ? "a test" : "a filter"));
    const struct jinja_builtin *found = is_test ? jinja_test(s) : jinja_filter(s);
    if (!found)
        jinja_fail(r, "the %s %.*s is not supported", is_test ? "test" : "filter",
            (int)(s.len < 60 ? s.len : 60), (const char *)s.at);
    return found;
}

/* p: the arguments [attribute,] [test, ..]. */
static struct jinja_value choose(
    struct jinja_run *r, struct jinja_value v, const struct jinja_value *p, int has_path, int keep)
{
    const struct jinja_seq *q, *arguments = p[0].u.q;
    struct jinja_value all = jinja_seq_new(r, SEQ_ITERATOR);
    size_t at = (size_t)has_path;
    if (!jinja_true(r, v)) /* even None */
        return all;
    const struct jinja_builtin *test = NULL;
    struct jinja_call call = {0};
    if (arguments->n < at)
        jinja_fail(r, "expected the name of an attribute");
    if (arguments->n > at) {
        test = named_function(r, arguments->at[at], 1);
        call = rest_of(r, p, at + 1, p[1].u.d);
    }
    q = jinja_items(r, v);
    for (size_t i = 0; i < q->n; i++) {
        struct jinja_value of =
            has_path ? jinja_path(r, q->at[i], arguments->at[0], NULL) : q->at[i];
        jinja_spend(r, 1);
        if (jinja_true(r, test ? jinja_call_builtin(r, test, of, &call) : of) == keep)
            jinja_seq_add(r, all.u.q, q->at[i]);
    }
    return all;
}

FILTER(select_)
{
    return choose(r, v, p, 0, 1);
}

FILTER(reject)
{
    return choose(r, v, p, 0, 0);
}

FILTER(selectattr)
{
    return choose(r, v, p, 1, 1);
}

FILTER(rejectattr)
{
    return choose(r, v, p, 1, 0);
}

/* map(attribute=path, default=value), or map(filter, its arguments) */
FILTER(map)
{
    struct jinja_value all = jinja_seq_new(r, SEQ_ITERATOR);
    const struct jinja_dict *named = p[1].u.d;
    const struct jinja_value *path =
        jinja_dict_get(r, named, (struct slice){(const uint8_t *)"attribute", 9});
    const struct jinja_value *absent =
        jinja_dict_get(r, named, (struct slice){(const uint8_t *)"default", 7});
    const struct jinja_builtin *filter = NULL;
    struct jinja_call call = {0};
    if (!jinja_true(r, v))
        return all;
    if (p[0].u.q->n == 0 && (!path || named->n != (absent ? 2 : 1)))
        jinja_fail(r, "map: expected a filter or an attribute");
    if (absent && absent->kind == J_NONE)
        absent = NULL;
    if (p[0].u.q->n > 0) {
        filter = named_function(r, p[0].u.q->at[0], 0);
        call = rest_of(r, p, 1, named);
    }
    const struct jinja_seq *q = jinja_items(r, v);
    for (size_t i = 0; i < q->n; i++) {
        jinja_spend(r, 1);
        jinja_seq_add(r, all.u.q,
            filter ? jinja_call_builtin(r, filter, q->at[i], &call)
                   : jinja_path(r, q->at[i], *path, absent));
    }
    return all;
}

static const struct jinja_builtin filters[] = {
    {"first", "", 0, first},
    {"last", "", 0, last},
    {"list", "", 0, list},
    {"reverse", "", 0, reverse},
    {"items", "", 0, items},
    {"join", "d attribute", 0, join},
    {"batch", "linecount fill_with", 1, batch},
    {"slice", "slices fill_with", 1, slices},
    {"sum", "attribute start", 0, sum},
    {"sort", "reverse case_sensitive attribute", 0, sort},
    {"groupby", "attribute default case_sensitive", 1, groupby},
    {"dictsort", "case_sensitive by reverse", 0, dictsort},
    {"unique", "case_sensitive attribute", 0, unique},
    {"min", "case_sensitive attribute", 0, min},
    {"max", "case_sensitive attribute", 0, max},
    {"select", "*", 0, select_},
    {"reject", "*", 0, reject},
    {"selectattr", "*", 0, selectattr},
    {"rejectattr", "*", 0, rejectattr},
    {"map", "*", 0, map},
};

const struct jinja_builtin *jinja_sequence_filter(struct slice name)
{
    return jinja_find(filters, sizeof filters / sizeof filters[0], name);
}
