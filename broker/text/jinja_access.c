/* jinja_access.c - attributes, items and slices as the sandbox gives them, and calls.
 *
 * a.b is Python's attribute (a method of str, list or dict), then the item; a['b'] the item, then
 * the attribute. What is neither is undefined; so are the methods that would change a list or a
 * map. */
#include "broker/text/jinja_private.h"

#include <string.h>

#define SHOWN(s) (int)((s).len < 60 ? (s).len : 60), (const char *)(s).at

const struct jinja_builtin *jinja_find(
    const struct jinja_builtin *table, size_t n, struct slice name)
{
    for (size_t i = 0; i < n; i++)
        if (slice_is(name, table[i].name))
            return &table[i];
    return NULL;
}

/* ---- attributes ---- */

static struct jinja_value method(
    struct jinja_run *r, struct jinja_value self, const struct jinja_builtin *function)
{
    struct jinja_method *m = jinja_take(r, sizeof *m);
    *m = (struct jinja_method){self, function};
    return (struct jinja_value){.kind = J_METHOD, .u.method = m};
}

/* Attributes that Python has and the tables have not. */
static int is_refused(enum jinja_kind kind, struct slice name)
{
    static const char *const of_numbers[] = {"real", "imag", "numerator", "denominator",
        "conjugate", "bit_length", "bit_count", "to_bytes", "from_bytes", "as_integer_ratio",
        "is_integer", "hex", "fromhex", NULL};
    static const char *const of_strings[] = {"encode", "format_map", "casefold", "isidentifier",
        "isprintable", "isdecimal", "isnumeric", "maketrans", "translate", "swapcase", "expandtabs",
        "striptags", "unescape", NULL};
    static const char *const of_containers[] = {"fromkeys", "mapping", "isdisjoint", "start",
        "stop", "step", "send", "throw", "close", NULL};
    const char *const *list = kind == J_STR                       ? of_strings
                              : kind == J_SEQ || kind == J_DICT   ? of_containers
                              : kind == J_MACRO || kind == J_LOOP ? NULL
                                                                  : of_numbers;
    if (name.len >= 2 && memcmp(name.at, "__", 2) == 0)
        return 1;
    if (kind == J_MACRO || kind == J_METHOD || kind == J_FUNCTION)
        return 1;
    for (; list && *list; list++)
        if (slice_is(name, *list))
            return 1;
    return 0;
}

/* The method of this name, or the item of a group; MISSING: none. */
static struct jinja_value attribute_only(
    struct jinja_run *r, struct jinja_value v, struct slice name)
{
    if (v.kind == J_SEQ && v.u.q->is_group && slice_is(name, "grouper"))
        return v.u.q->at[0];
    if (v.kind == J_SEQ && v.u.q->is_group && slice_is(name, "list"))
        return v.u.q->at[1];
    const struct jinja_builtin *found =
        v.kind == J_STR ? jinja_string_method(name) : jinja_container_method(v, name);
    if (found)
        return method(r, v, found);
    if (is_refused((enum jinja_kind)v.kind, name))
        jinja_fail(
            r, "the attribute %.*s of a %s is not supported", SHOWN(name), jinja_type_name(v));
    return (struct jinja_value){.kind = J_MISSING};
}

/* Is this a method that changes a map? The sandbox makes it undefined, even where a key of that
 * name exists. */
static int changes_map(struct slice name)
{
    static const char *const names[] = {"clear", "pop", "popitem", "setdefault", "update"};
    for (int i = 0; i < 5; i++)
        if (slice_is(name, names[i]))
            return 1;
    return 0;
}

static void fail_undefined(struct jinja_run *r, struct jinja_value v)
{
    jinja_fail(r, "'%.*s' is undefined", SHOWN(jinja_slice(v.u.s)));
}

static struct jinja_value attribute_of_map(
    struct jinja_run *r, struct jinja_value v, struct slice name)
{
    const struct jinja_builtin *found = jinja_container_method(v, name);
    const struct jinja_value *value;
    if (found)
        return method(r, v, found);
    value = changes_map(name) ? NULL : jinja_dict_get(r, v.u.d, name);
    if (!value && is_refused(J_DICT, name))
        jinja_fail(r, "the attribute %.*s of a dict is not supported", SHOWN(name));
    return value ? *value : jinja_undefined(r, name);
}

struct jinja_value jinja_attribute(
    struct jinja_run *r, struct jinja_value v, const struct jinja_string *name)
{
    struct slice s = jinja_slice(name);
    struct jinja_value found = {.kind = J_MISSING};
    const struct jinja_value *value;
    if (v.kind == J_UNDEFINED)
        fail_undefined(r, v);
    if (v.kind == J_DICT)
        return attribute_of_map(r, v, s);
    if (v.kind == J_NAMESPACE) {
        value = jinja_dict_get(r, v.u.d, s);
        return value ? *value : jinja_undefined(r, s);
    }
    if (v.kind == J_LOOP)
        found = jinja_loop_attribute(r, v.u.loop, name);
    if (found.kind == J_MISSING)
        found = attribute_only(r, v, s);
    return found.kind == J_MISSING ? jinja_undefined(r, s) : found;
}

/* ---- items ---- */

static struct jinja_value nth(struct jinja_run *r, struct jinja_value v, int64_t i)
{
    int64_t n = jinja_length(r, v);
    if (i < 0)
        i += n;
    if (i < 0 || i >= n)
        return jinja_undefined_text(r, "an item beyond the end");
    if (v.kind == J_SEQ)
        return v.u.q->at[i];
    jinja_spend(r, v.u.s->len / 64);
    size_t from = jinja_char_offset(v.u.s, (size_t)i), len = 1;
    while (from + len < v.u.s->len && v.u.s->at[from + len] >> 6 == 2)
        len++;
    return jinja_part(r, v.u.s, from, len);
}

static int has_places(struct jinja_value v)
{
    return v.kind == J_STR || (v.kind == J_SEQ && v.u.q->type <= SEQ_RANGE);
}

struct jinja_value jinja_item(struct jinja_run *r, struct jinja_value v, struct jinja_value key)
{
    struct jinja_value *found, only;
    if (v.kind == J_UNDEFINED)
        fail_undefined(r, v);
    if (has_places(v) && (key.kind == J_INT || key.kind == J_BOOL))
        return nth(r, v, key.u.n);
    if (v.kind == J_DICT && (found = jinja_dict_find(r, v.u.d, key)) != NULL)
        return *found;
    if (key.kind != J_STR)
        return jinja_undefined_text(r, "an item");
    if (v.kind == J_DICT && changes_map(jinja_slice(key.u.s)))
        return jinja_undefined(r, jinja_slice(key.u.s));
    if (v.kind == J_NAMESPACE || v.kind == J_LOOP)
        return jinja_attribute(r, v, key.u.s);
    only = attribute_only(r, v, jinja_slice(key.u.s));
    return only.kind == J_MISSING ? jinja_undefined(r, jinja_slice(key.u.s)) : only;
}

/* jinja_item, with `absent` for what is undefined. */
static struct jinja_value item_or(struct jinja_run *r, struct jinja_value v, struct jinja_value key,
    const struct jinja_value *absent)
{
    v = jinja_item(r, v, key);
    return v.kind == J_UNDEFINED && absent ? *absent : v;
}

struct jinja_value jinja_path(struct jinja_run *r, struct jinja_value v, struct jinja_value path,
    const struct jinja_value *absent)
{
    if (path.kind == J_NONE)
        return v;
    if (path.kind != J_STR)
        return item_or(r, v, path, absent);
    const struct jinja_string *s = path.u.s;
    for (size_t from = 0, to; from <= s->len; from = to + 1) {
        int64_t number = 0;
        int is_number = 1;
        for (to = from; to < s->len && s->at[to] != '.'; to++) {
            is_number &= s->at[to] >= '0' && s->at[to] <= '9' && to - from < 9;
            number = is_number ? number * 10 + (s->at[to] - '0') : 0;
        }
        v = item_or(r, v,
            is_number && to > from ? jinja_int(number) : jinja_part(r, s, from, to - from), absent);
    }
    return v;
}

/* ---- slices ---- */

static int64_t clamp(int64_t v, int64_t low, int64_t high)
{
    return v < low ? low : v > high ? high : v;
}

/* Python's slice.indices. Returns how many items there are. */
static int64_t slice_indices(struct jinja_run *r, const struct jinja_value bounds[3], int64_t n,
    int64_t *start, int64_t *step)
{
    int64_t end;
    *step = bounds[2].kind == J_NONE ? 1 : clamp(bounds[2].u.n, -INT32_MAX, INT32_MAX);
    if (*step == 0)
        jinja_fail(r, "a slice's step is zero");
    int64_t low = *step < 0 ? -1 : 0, high = *step < 0 ? n - 1 : n;
    *start = *step < 0 ? high : low;
    end = *step < 0 ? low : high;
    if (bounds[0].kind != J_NONE)
        *start = clamp(bounds[0].u.n < 0 ? bounds[0].u.n + n : bounds[0].u.n, low, high);
    if (bounds[1].kind != J_NONE)
        end = clamp(bounds[1].u.n < 0 ? bounds[1].u.n + n : bounds[1].u.n, low, high);
    int64_t span = *step > 0 ? end - *start : *start - end, size = *step > 0 ? *step : -*step;
    return span <= 0 ? 0 : (span + size - 1) / size;
}

static struct jinja_value slice_string(
    struct jinja_run *r, const struct jinja_string *s, int64_t start, int64_t step, int64_t count)
{
    if (count == 0)
        return jinja_part(r, s, 0, 0);
    if (step == 1) {
        size_t from = jinja_char_offset(s, (size_t)start);
        struct jinja_string rest = {.at = s->at + from, .len = s->len - from};
        return jinja_part(r, s, from, jinja_char_offset(&rest, (size_t)count));
    }
    const struct jinja_seq *all = jinja_items(r, jinja_string_value(s));
    size_t begin = jinja_mark_here(r);
    for (int64_t i = 0; i < count; i++)
        jinja_put_string(r, all->at[start + i * step].u.s);
    return s->markup ? jinja_markup(r, jinja_cut(r, begin)) : jinja_cut(r, begin);
}

struct jinja_value jinja_slice_of(
    struct jinja_run *r, struct jinja_value v, const struct jinja_value bounds[3])
{
    int64_t start, step, count;
    if (v.kind == J_UNDEFINED)
        fail_undefined(r, v);
    for (int i = 0; i < 3; i++)
        if (bounds[i].kind != J_NONE && bounds[i].kind != J_INT && bounds[i].kind != J_BOOL)
            jinja_fail(r, "a slice: expected an int, found %s", jinja_type_name(bounds[i]));
    if (!has_places(v))
        jinja_fail(r, "a slice of a %s", jinja_type_name(v));
    count = slice_indices(r, bounds, jinja_length(r, v), &start, &step);
    if (v.kind == J_STR)
        return slice_string(r, v.u.s, start, step, count);
    struct jinja_value part = jinja_seq_new(r, v.u.q->type);
    if (step == 1) { /* never written to again: it may share the items */
        part.u.q->at = v.u.q->at + start;
        part.u.q->n = part.u.q->room = (size_t)count;
        return part;
    }
    jinja_spend(r, (size_t)count);
    for (int64_t i = 0; i < count; i++)
        jinja_seq_add(r, part.u.q, v.u.q->at[start + i * step]);
    return part;
}

/* ---- calls ---- */

int64_t jinja_want_int(struct jinja_run *r, struct jinja_value v, const char *what)
{
    if (v.kind != J_INT && v.kind != J_BOOL)
        jinja_fail(r, "%s: expected an int, found %s", what, jinja_type_name(v));
    return v.u.n;
}

const struct jinja_string *jinja_want_string(
    struct jinja_run *r, struct jinja_value v, const char *what)
{
    if (v.kind != J_STR)
        jinja_fail(r, "%s: expected a str, found %s", what, jinja_type_name(v));
    return v.u.s;
}

struct jinja_call jinja_arguments(struct jinja_run *r, const struct jinja_node *node)
{
    uint32_t n_keywords = node->n_keywords, n = node->n - n_keywords;
    struct jinja_call call = {.n = n, .names = node->keywords, .n_keywords = n_keywords};
    if (node->n == 0)
        return call;
    call.at = jinja_take(r, node->n * sizeof *call.at);
    call.keyword = call.at + n;
    for (uint32_t i = 0; i < node->n; i++)
        call.at[i] = jinja_eval(r, node->list[i]);
    return call;
}

/* For "*": a list of what has no name, and a map of what has. */
static struct jinja_value call_any(struct jinja_run *r, const struct jinja_builtin *function,
    struct jinja_value self, const struct jinja_call *call)
{
    struct jinja_value p[2] = {jinja_seq_new(r, SEQ_TUPLE), jinja_dict_new(r, J_DICT)};
    p[0].u.q->at = call->at;
    p[0].u.q->n = p[0].u.q->room = call->n;
    for (uint32_t i = 0; i < call->n_keywords; i++)
        jinja_dict_put(r, p[1].u.d, jinja_string_value(call->names[i]), call->keyword[i]);
    return function->call(r, self, p);
}

/* The place of a parameter in a list of names; -1: it is not there. */
static int place_of(const char *parameters, const struct jinja_string *name)
{
    for (int i = 0; *parameters; i++) {
        size_t len = strcspn(parameters, " ");
        if (len == name->len && memcmp(parameters, name->at, len) == 0)
            return i;
        parameters += len + (parameters[len] == ' ');
    }
    return -1;
}

static uint32_t count_parameters(const char *parameters)
{
    uint32_t n = *parameters != '\0';
    for (; *parameters; parameters++)
        n += *parameters == ' ';
    return n;
}

struct jinja_value jinja_call_builtin(struct jinja_run *r, const struct jinja_builtin *function,
    struct jinja_value self, const struct jinja_call *call)
{
    struct jinja_value p[JINJA_MAX_PARAMETERS] = {{0}};
    const char *names = function->parameters;
    int by_place = names[0] == '/';
    if (names[0] == '*')
        return call_any(r, function, self, call);
    names += by_place;
    if (call->n > count_parameters(names))
        jinja_fail(
            r, "%s takes %u arguments, found %u", function->name, count_parameters(names), call->n);
    for (uint32_t i = 0; i < call->n; i++)
        p[i] = call->at[i];
    for (uint32_t i = 0; i < call->n_keywords; i++) {
        int place = by_place ? -1 : place_of(names, call->names[i]);
        if (place < 0 || p[place].kind != J_MISSING)
            jinja_fail(r, "%s has no argument %.*s, or was given it twice", function->name,
                SHOWN(jinja_slice(call->names[i])));
        p[place] = call->keyword[i];
    }
    for (int i = 0; i < function->n_required; i++)
        if (p[i].kind == J_MISSING)
            jinja_fail(
                r, "%s: expected %d arguments or more", function->name, function->n_required);
    return function->call(r, self, p);
}

struct jinja_value jinja_call_value(
    struct jinja_run *r, struct jinja_value callee, const struct jinja_call *call)
{
    struct jinja_value none = {.kind = J_MISSING};
    if (callee.kind == J_MACRO)
        return jinja_call_macro(r, callee.u.macro, call);
    if (callee.kind == J_METHOD)
        return jinja_call_builtin(r, callee.u.method->function, callee.u.method->self, call);
    if (callee.kind == J_FUNCTION)
        return jinja_call_builtin(r, callee.u.function, none, call);
    if (callee.kind == J_UNDEFINED)
        fail_undefined(r, callee);
    jinja_fail(r, "a %s cannot be called", jinja_type_name(callee));
}
