/* jinja_string.c - the methods of Python's str (jinja_pad.c and jinja_case.c have some). Lengths
 * and places are counted in characters, as Python counts them. */
#include "broker/text/jinja_private.h"

#include <stdio.h>
#include <string.h>

#include "broker/text/unicode.h"

/* ---- stripping ---- */

static size_t char_length(const struct jinja_string *s, size_t i)
{
    unsigned bytes;
    unicode_decode(s->at + i, &bytes);
    return bytes;
}

static size_t last_char(const struct jinja_string *s, size_t end)
{
    size_t at = end - 1;
    while (at > 0 && s->at[at] >> 6 == 2)
        at--;
    return at;
}

/* Is the character at i one of `chars` (white space, if that is NULL)? */
static int is_stripped(const struct jinja_string *s, size_t i, const struct jinja_string *chars)
{
    unsigned bytes;
    uint32_t c = unicode_decode(s->at + i, &bytes);
    if (!chars)
        return unicode_is_python_space(c);
    return chars->len > 0 && memmem(chars->at, chars->len, s->at + i, bytes) != NULL;
}

struct jinja_value jinja_strip(
    struct jinja_run *r, const struct jinja_string *s, struct jinja_value chars, int sides)
{
    const struct jinja_string *set = NULL;
    size_t begin = 0, end = s->len;
    if (chars.kind != J_MISSING && chars.kind != J_NONE)
        set = jinja_want_string(r, chars, "strip");
    while ((sides & STRIP_LEFT) && begin < end && is_stripped(s, begin, set))
        begin += char_length(s, begin);
    while ((sides & STRIP_RIGHT) && end > begin && is_stripped(s, last_char(s, end), set))
        end = last_char(s, end);
    jinja_spend(r, (s->len - (end - begin)) / 8);
    return jinja_part(r, s, begin, end - begin);
}

static struct jinja_value strip(
    struct jinja_run *r, struct jinja_value self, const struct jinja_value *p)
{
    return jinja_strip(r, self.u.s, p[0], STRIP_LEFT | STRIP_RIGHT);
}

static struct jinja_value lstrip(
    struct jinja_run *r, struct jinja_value self, const struct jinja_value *p)
{
    return jinja_strip(r, self.u.s, p[0], STRIP_LEFT);
}

static struct jinja_value rstrip(
    struct jinja_run *r, struct jinja_value self, const struct jinja_value *p)
{
    return jinja_strip(r, self.u.s, p[0], STRIP_RIGHT);
}

/* ---- finding ---- */

/* Where `what` begins at or after `from`; SIZE_MAX: nowhere. */
static size_t find_from(
    struct jinja_run *r, const struct jinja_string *s, const struct jinja_string *what, size_t from)
{
    if (what->len == 0)
        return from;
    if (from >= s->len)
        return SIZE_MAX;
    const uint8_t *at = memmem(s->at + from, s->len - from, what->at, what->len);
    jinja_spend(r, ((at ? (size_t)(at - s->at) : s->len) - from) / 16);
    return at ? (size_t)(at - s->at) : SIZE_MAX;
}

/* The last place that ends at or before `end`. */
static size_t find_last(
    struct jinja_run *r, const struct jinja_string *s, const struct jinja_string *what, size_t end)
{
    size_t at = end;
    if (what->len > end)
        return SIZE_MAX;
    for (at = end - what->len;; at--) {
        if (memcmp(s->at + at, what->at, what->len) == 0)
            break;
        if (at == 0) {
            jinja_spend(r, end / 8);
            return SIZE_MAX;
        }
    }
    jinja_spend(r, (end - at) / 8);
    return at;
}

static int64_t bound(struct jinja_run *r, struct jinja_value v, int64_t otherwise, int64_t n_chars)
{
    if (v.kind == J_MISSING || v.kind == J_NONE)
        return otherwise;
    int64_t i = jinja_want_int(r, v, "a bound");
    i = i < 0 ? i + n_chars : i;
    return i < 0 ? 0 : i;
}

/* The part of s between two bounds (which may be missing), in which Python's methods search; NULL:
 * they find nothing there, not even "". *first: the characters before it. */
static const struct jinja_string *within(
    struct jinja_run *r, const struct jinja_string *s, const struct jinja_value *p, int64_t *first)
{
    *first = 0;
    if (p[0].kind == J_MISSING)
        return s;
    int64_t n = (int64_t)jinja_n_chars(s), end = bound(r, p[1], n, n);
    *first = bound(r, p[0], 0, n);
    if (end > n)
        end = n;
    if (*first > end)
        return NULL;
    size_t from = jinja_char_offset(s, (size_t)*first), to = jinja_char_offset(s, (size_t)end);
    jinja_spend(r, s->len / 16);
    return jinja_part(r, s, from, to - from).u.s;
}

/* p: what, start, end. */
static int64_t place(struct jinja_run *r, struct jinja_value self, const struct jinja_value *p,
    const char *name, int from_end)
{
    int64_t first;
    const struct jinja_string *w = jinja_want_string(r, p[0], name);
    const struct jinja_string *s = within(r, self.u.s, p + 1, &first);
    if (!s)
        return -1;
    size_t at = from_end ? find_last(r, s, w, s->len) : find_from(r, s, w, 0);
    if (at == SIZE_MAX)
        return -1;
    struct jinja_string before = {.at = s->at, .len = at};
    return first + (int64_t)jinja_n_chars(&before);
}

static struct jinja_value find(
    struct jinja_run *r, struct jinja_value self, const struct jinja_value *p)
{
    return jinja_int(place(r, self, p, "find", 0));
}

static struct jinja_value rfind(
    struct jinja_run *r, struct jinja_value self, const struct jinja_value *p)
{
    return jinja_int(place(r, self, p, "rfind", 1));
}

static struct jinja_value must_find(struct jinja_run *r, int64_t at)
{
    if (at < 0)
        jinja_fail(r, "index: the text was not found");
    return jinja_int(at);
}

static struct jinja_value index_of(
    struct jinja_run *r, struct jinja_value self, const struct jinja_value *p)
{
    return must_find(r, place(r, self, p, "index", 0));
}

static struct jinja_value rindex_of(
    struct jinja_run *r, struct jinja_value self, const struct jinja_value *p)
{
    return must_find(r, place(r, self, p, "rindex", 1));
}

static struct jinja_value count(
    struct jinja_run *r, struct jinja_value self, const struct jinja_value *p)
{
    int64_t n = 0, first;
    const struct jinja_string *what = jinja_want_string(r, p[0], "count");
    const struct jinja_string *s = within(r, self.u.s, p + 1, &first);
    if (!s)
        return jinja_int(0);
    if (what->len == 0)
        return jinja_int((int64_t)jinja_n_chars(s) + 1);
    for (size_t at = 0; (at = find_from(r, s, what, at)) != SIZE_MAX; at += what->len)
        n++;
    return jinja_int(n);
}

static int has_end(const struct jinja_string *s, const struct jinja_string *part, int at_end)
{
    return part->len <= s->len &&
           (part->len == 0 ||
               memcmp(s->at + (at_end ? s->len - part->len : 0), part->at, part->len) == 0);
}

/* p: what, start, end. */
static struct jinja_value has_one_end(
    struct jinja_run *r, struct jinja_value self, const struct jinja_value *p, int at_end)
{
    const char *name = at_end ? "endswith" : "startswith";
    int64_t first;
    const struct jinja_string *s = within(r, self.u.s, p + 1, &first);
    if (p[0].kind != J_SEQ || p[0].u.q->type != SEQ_TUPLE) {
        const struct jinja_string *what = jinja_want_string(r, p[0], name);
        return jinja_bool(s && has_end(s, what, at_end));
    }
    for (size_t i = 0; i < p[0].u.q->n; i++) {
        const struct jinja_string *what = jinja_want_string(r, p[0].u.q->at[i], name);
        if (s && has_end(s, what, at_end))
            return jinja_bool(1);
    }
    return jinja_bool(0);
}

static struct jinja_value startswith(
    struct jinja_run *r, struct jinja_value self, const struct jinja_value *p)
{
    return has_one_end(r, self, p, 0);
}

static struct jinja_value endswith(
    struct jinja_run *r, struct jinja_value self, const struct jinja_value *p)
{
    return has_one_end(r, self, p, 1);
}

static struct jinja_value removeprefix(
    struct jinja_run *r, struct jinja_value self, const struct jinja_value *p)
{
    const struct jinja_string *s = self.u.s, *part = jinja_want_string(r, p[0], "removeprefix");
    return has_end(s, part, 0) ? jinja_part(r, s, part->len, s->len - part->len) : self;
}

static struct jinja_value removesuffix(
    struct jinja_run *r, struct jinja_value self, const struct jinja_value *p)
{
    const struct jinja_string *s = self.u.s, *part = jinja_want_string(r, p[0], "removesuffix");
    return has_end(s, part, 1) ? jinja_part(r, s, 0, s->len - part->len) : self;
}

/* ---- splitting ---- */

static void reverse(struct jinja_seq *q)
{
    for (size_t i = 0; i < q->n / 2; i++) {
        struct jinja_value v = q->at[i];
        q->at[i] = q->at[q->n - 1 - i];
        q->at[q->n - 1 - i] = v;
    }
}

/* At white space, from the left; most < 0: no limit. */
static void split_space(
    struct jinja_run *r, struct jinja_seq *q, const struct jinja_string *s, int64_t most)
{
    size_t i = 0, end;
    for (;;) {
        while (i < s->len && is_stripped(s, i, NULL))
            i += char_length(s, i);
        if (i == s->len)
            return;
        if (most == 0)
            break;
        for (end = i; end < s->len && !is_stripped(s, end, NULL);)
            end += char_length(s, end);
        jinja_seq_add(r, q, jinja_part(r, s, i, end - i));
        jinja_spend(r, 1 + (end - i) / 8);
        i = end;
        most--;
    }
    jinja_seq_add(r, q, jinja_part(r, s, i, s->len - i));
}

static void rsplit_space(
    struct jinja_run *r, struct jinja_seq *q, const struct jinja_string *s, int64_t most)
{
    size_t end = s->len, i;
    for (;;) {
        while (end > 0 && is_stripped(s, last_char(s, end), NULL))
            end = last_char(s, end);
        if (end == 0)
            return;
        if (most == 0)
            break;
        for (i = end; i > 0 && !is_stripped(s, last_char(s, i), NULL);)
            i = last_char(s, i);
        jinja_seq_add(r, q, jinja_part(r, s, i, end - i));
        jinja_spend(r, 1 + (end - i) / 8);
        end = i;
        most--;
    }
    jinja_seq_add(r, q, jinja_part(r, s, 0, end));
}

static void split_at(struct jinja_run *r, struct jinja_seq *q, const struct jinja_string *s,
    const struct jinja_string *by, int64_t most)
{
    size_t from = 0, at;
    while (most != 0 && (at = find_from(r, s, by, from)) != SIZE_MAX) {
        jinja_seq_add(r, q, jinja_part(r, s, from, at - from));
        jinja_spend(r, 1);
        from = at + by->len;
        most--;
    }
    jinja_seq_add(r, q, jinja_part(r, s, from, s->len - from));
}

static void rsplit_at(struct jinja_run *r, struct jinja_seq *q, const struct jinja_string *s,
    const struct jinja_string *by, int64_t most)
{
    size_t end = s->len, at;
    while (most != 0 && (at = find_last(r, s, by, end)) != SIZE_MAX) {
        jinja_seq_add(r, q, jinja_part(r, s, at + by->len, end - at - by->len));
        jinja_spend(r, 1);
        end = at;
        most--;
    }
    jinja_seq_add(r, q, jinja_part(r, s, 0, end));
}

static struct jinja_value split_any(
    struct jinja_run *r, const struct jinja_string *s, const struct jinja_value *p, int from_right)
{
    struct jinja_value list = jinja_seq_new(r, SEQ_LIST);
    int64_t most = p[1].kind == J_MISSING ? -1 : jinja_want_int(r, p[1], "split");
    int at_space = p[0].kind == J_MISSING || p[0].kind == J_NONE;
    const struct jinja_string *by = at_space ? NULL : jinja_want_string(r, p[0], "split");
    if (by && by->len == 0)
        jinja_fail(r, "split: the separator is empty");
    if (at_space)
        (from_right ? rsplit_space : split_space)(r, list.u.q, s, most);
    else
        (from_right ? rsplit_at : split_at)(r, list.u.q, s, by, most);
    if (from_right)
        reverse(list.u.q);
    return list;
}

static struct jinja_value split(
    struct jinja_run *r, struct jinja_value self, const struct jinja_value *p)
{
    return split_any(r, self.u.s, p, 0);
}

static struct jinja_value rsplit(
    struct jinja_run *r, struct jinja_value self, const struct jinja_value *p)
{
    return split_any(r, self.u.s, p, 1);
}

static int is_line_end(uint32_t c)
{
    return (c >= 0x0a && c <= 0x0d) || (c >= 0x1c && c <= 0x1e) || c == 0x85 || c == 0x2028 ||
           c == 0x2029;
}

struct jinja_seq *jinja_lines(struct jinja_run *r, const struct jinja_string *s, int keep_ends)
{
    struct jinja_seq *q = jinja_seq_new(r, SEQ_LIST).u.q;
    size_t from = 0, i = 0, end;
    unsigned bytes;
    while (i < s->len) {
        uint32_t c = unicode_decode(s->at + i, &bytes);
        end = i;
        i += bytes;
        if (!is_line_end(c))
            continue;
        i += c == '\r' && i < s->len && s->at[i] == '\n';
        jinja_seq_add(r, q, jinja_part(r, s, from, (keep_ends ? i : end) - from));
        jinja_spend(r, 1 + (i - from) / 8);
        from = i;
    }
    if (from < s->len)
        jinja_seq_add(r, q, jinja_part(r, s, from, s->len - from));
    return q;
}

static struct jinja_value splitlines(
    struct jinja_run *r, struct jinja_value self, const struct jinja_value *p)
{
    struct jinja_seq *q = jinja_lines(r, self.u.s, p[0].kind != J_MISSING && jinja_true(r, p[0]));
    return (struct jinja_value){.kind = J_SEQ, .u.q = q};
}

static struct jinja_value partition_at(
    struct jinja_run *r, const struct jinja_string *s, struct jinja_value by, int from_right)
{
    const struct jinja_string *w = jinja_want_string(r, by, "partition");
    struct jinja_value v = jinja_seq_new(r, SEQ_TUPLE), empty = jinja_literal(r, "");
    if (w->len == 0)
        jinja_fail(r, "partition: the separator is empty");
    if (s->markup)
        jinja_fail(r, "partition of what |safe made is not supported");
    size_t at = from_right ? find_last(r, s, w, s->len) : find_from(r, s, w, 0);
    int is_there = at != SIZE_MAX;
    struct jinja_value whole = jinja_string_value(s);
    jinja_seq_add(r, v.u.q, is_there ? jinja_part(r, s, 0, at) : from_right ? empty : whole);
    jinja_seq_add(r, v.u.q, is_there ? by : empty);
    jinja_seq_add(r, v.u.q,
        is_there     ? jinja_part(r, s, at + w->len, s->len - at - w->len)
        : from_right ? whole
                     : empty);
    return v;
}

static struct jinja_value partition(
    struct jinja_run *r, struct jinja_value self, const struct jinja_value *p)
{
    return partition_at(r, self.u.s, p[0], 0);
}

static struct jinja_value rpartition(
    struct jinja_run *r, struct jinja_value self, const struct jinja_value *p)
{
    return partition_at(r, self.u.s, p[0], 1);
}

/* ---- joining ---- */

static struct jinja_value join(
    struct jinja_run *r, struct jinja_value self, const struct jinja_value *p)
{
    const struct jinja_seq *q = jinja_items(r, p[0]);
    size_t begin = jinja_mark_here(r);
    if (self.u.s->markup)
        jinja_fail(r, "join by what |safe made is not supported");
    for (size_t i = 0; i < q->n; i++) {
        if (i > 0)
            jinja_put_string(r, self.u.s);
        jinja_put_string(r, jinja_want_string(r, q->at[i], "join"));
        jinja_spend(r, 1);
    }
    return jinja_cut(r, begin);
}

/* Python's replace of nothing: `new` before each character and at the end. */
static struct jinja_value replace_nothing(struct jinja_run *r, const struct jinja_string *s,
    const struct jinja_string *new, int64_t times)
{
    size_t begin = jinja_mark_here(r), i = 0, len;
    for (; times != 0; times--) {
        jinja_put_string(r, new);
        jinja_spend(r, 1);
        if (i >= s->len)
            break;
        len = char_length(s, i);
        jinja_put_part(r, s, i, len);
        i += len;
    }
    jinja_put_part(r, s, i, s->len - i);
    return jinja_cut(r, begin);
}

struct jinja_value jinja_replace(struct jinja_run *r, const struct jinja_string *s,
    const struct jinja_string *old, const struct jinja_string *new, int64_t times)
{
    size_t begin = jinja_mark_here(r), from = 0, at;
    if (s->markup || new->markup)
        jinja_fail(r, "replace in what |safe made is not supported");
    if (old->len == 0)
        return replace_nothing(r, s, new, times);
    if (times == 0 || (at = find_from(r, s, old, 0)) == SIZE_MAX)
        return jinja_string_value(s);
    for (; times != 0 && at != SIZE_MAX; times--) {
        jinja_put_part(r, s, from, at - from);
        jinja_put_string(r, new);
        jinja_spend(r, 1);
        from = at + old->len;
        at = find_from(r, s, old, from);
    }
    jinja_put_part(r, s, from, s->len - from);
    return jinja_cut(r, begin);
}

static struct jinja_value replace(
    struct jinja_run *r, struct jinja_value self, const struct jinja_value *p)
{
    int64_t times = p[2].kind == J_MISSING ? -1 : jinja_want_int(r, p[2], "replace");
    return jinja_replace(r, self.u.s, jinja_want_string(r, p[0], "replace"),
        jinja_want_string(r, p[1], "replace"), times);
}

static struct jinja_value format(
    struct jinja_run *r, struct jinja_value self, const struct jinja_value *p)
{
    return jinja_format_braces(r, self.u.s, p[0].u.q, p[1].u.d);
}

static const struct jinja_builtin methods[] = {
    {"strip", "/chars", 0, strip},
    {"lstrip", "/chars", 0, lstrip},
    {"rstrip", "/chars", 0, rstrip},
    {"split", "sep maxsplit", 0, split},
    {"rsplit", "sep maxsplit", 0, rsplit},
    {"splitlines", "keepends", 0, splitlines},
    {"partition", "/sep", 1, partition},
    {"rpartition", "/sep", 1, rpartition},
    {"startswith", "/prefix start end", 1, startswith},
    {"endswith", "/suffix start end", 1, endswith},
    {"removeprefix", "/prefix", 1, removeprefix},
    {"removesuffix", "/suffix", 1, removesuffix},
    {"replace", "/old new count", 2, replace},
    {"join", "/iterable", 1, join},
    {"find", "/sub start end", 1, find},
    {"rfind", "/sub start end", 1, rfind},
    {"index", "/sub start end", 1, index_of},
    {"rindex", "/sub start end", 1, rindex_of},
    {"count", "/sub start end", 1, count},
    {"format", "*", 0, format},
};

const struct jinja_builtin *jinja_string_method(struct slice name)
{
    const struct jinja_builtin *found =
        jinja_find(methods, sizeof methods / sizeof methods[0], name);
    found = found ? found : jinja_pad_method(name);
    return found ? found : jinja_case_method(name);
}
