/* jinja_pad.c - the methods of Python's str that fill a string up to a width, which is counted in
 * characters. */
#include "broker/text/jinja_private.h"

struct jinja_value jinja_pad(struct jinja_run *r, const struct jinja_string *s, int64_t width,
    const struct jinja_string *fill, int side)
{
    int64_t n = width - (int64_t)jinja_n_chars(s), left;
    size_t begin = jinja_mark_here(r);
    if (fill && jinja_n_chars(fill) != 1)
        jinja_fail(r, "expected one character to fill with");
    if (n <= 0)
        return jinja_string_value(s);
    if (s->markup)
        jinja_fail(r, "filling up what |safe made is not supported");
    left = side < 0 ? n : side > 0 ? 0 : n / 2 + (n & width & 1);
    for (int64_t i = 0; i < n; i++) {
        if (i == left)
            jinja_put_string(r, s);
        jinja_put(r, fill ? fill->at : (const uint8_t *)" ", fill ? fill->len : 1);
        jinja_spend(r, 1);
    }
    if (left == n)
        jinja_put_string(r, s);
    return jinja_cut(r, begin);
}

static struct jinja_value pad(
    struct jinja_run *r, struct jinja_value self, const struct jinja_value *p, int side)
{
    const struct jinja_string *fill =
        p[1].kind == J_MISSING ? NULL : jinja_want_string(r, p[1], "fill");
    return jinja_pad(r, self.u.s, jinja_want_int(r, p[0], "width"), fill, side);
}

static struct jinja_value center(
    struct jinja_run *r, struct jinja_value self, const struct jinja_value *p)
{
    return pad(r, self, p, 0);
}

static struct jinja_value ljust(
    struct jinja_run *r, struct jinja_value self, const struct jinja_value *p)
{
    return pad(r, self, p, 1);
}

static struct jinja_value rjust(
    struct jinja_run *r, struct jinja_value self, const struct jinja_value *p)
{
    return pad(r, self, p, -1);
}

static struct jinja_value zfill(
    struct jinja_run *r, struct jinja_value self, const struct jinja_value *p)
{
    static const struct jinja_string zero = {.at = (const uint8_t *)"0", .len = 1};
    const struct jinja_string *s = self.u.s;
    int64_t width = jinja_want_int(r, p[0], "zfill");
    if (s->len == 0 || (s->at[0] != '-' && s->at[0] != '+'))
        return jinja_pad(r, s, width, &zero, -1);
    size_t begin = jinja_mark_here(r);
    struct jinja_value rest = jinja_part(r, s, 1, s->len - 1);
    struct jinja_value padded = jinja_pad(r, rest.u.s, width - 1, &zero, -1);
    jinja_put_part(r, s, 0, 1);
    jinja_put_string(r, padded.u.s);
    return jinja_cut(r, begin);
}

static const struct jinja_builtin methods[] = {
    {"center", "/width fillchar", 1, center},
    {"ljust", "/width fillchar", 1, ljust},
    {"rjust", "/width fillchar", 1, rjust},
    {"zfill", "/width", 1, zfill},
};

const struct jinja_builtin *jinja_pad_method(struct slice name)
{
    return jinja_find(methods, sizeof methods / sizeof methods[0], name);
}
