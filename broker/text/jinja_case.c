/* jinja_case.c - upper and lower case, and asking what a text is made of.
 *
 * The mappings are one character to one character. Those that Python maps otherwise (to several,
 * or by their place in the word), and what it asks of characters that are neither plain letters nor
 * digits, are refused by name. */
#include "broker/text/jinja_private.h"

#include <string.h>
#include <utf8proc.h>

#include "broker/text/unicode.h"

static const struct unicode_range many_upper[] = {{0xdf, 0xdf}, {0x149, 0x149}, {0x1f0, 0x1f0},
    {0x390, 0x390}, {0x3b0, 0x3b0}, {0x587, 0x587}, {0x1e96, 0x1e9a}, {0x1f50, 0x1f56},
    {0x1f80, 0x1faf}, {0x1fb2, 0x1fb4}, {0x1fb6, 0x1fb7}, {0x1fbc, 0x1fbc}, {0x1fc2, 0x1fc4},
    {0x1fc6, 0x1fc7}, {0x1fcc, 0x1fcc}, {0x1fd2, 0x1fd3}, {0x1fd6, 0x1fd7}, {0x1fe2, 0x1fe4},
    {0x1fe6, 0x1fe7}, {0x1ff2, 0x1ff4}, {0x1ff6, 0x1ff7}, {0x1ffc, 0x1ffc}, {0xfb00, 0xfb06},
    {0xfb13, 0xfb17}, {0x10d0, 0x10ff} /* Georgian: no title case */};
static const struct unicode_range many_lower[] = {{0x130, 0x130}, {0x3a3, 0x3a3}};

static void check_simple(
    struct jinja_run *r, uint32_t c, const struct unicode_range *list, size_t n, const char *what)
{
    for (size_t i = 0; i < n; i++)
        if (c >= list[i].first && c <= list[i].last)
            jinja_fail(r, "%s of U+%04X is not supported", what, c);
}

enum letter_case { TO_UPPER, TO_LOWER, TO_TITLE };

static uint32_t map_char(struct jinja_run *r, uint32_t c, enum letter_case to)
{
    if (c < 0x80)
        return to == TO_LOWER ? c + (c >= 'A' && c <= 'Z') * 32u : c - (c >= 'a' && c <= 'z') * 32u;
    if (to == TO_LOWER) {
        check_simple(r, c, many_lower, sizeof many_lower / sizeof many_lower[0], "lower");
        return (uint32_t)utf8proc_tolower((utf8proc_int32_t)c);
    }
    size_t n = sizeof many_upper / sizeof many_upper[0];
    check_simple(r, c, many_upper, n - (to == TO_UPPER), "upper");
    return (uint32_t)(to == TO_UPPER ? utf8proc_toupper((utf8proc_int32_t)c)
                                     : utf8proc_totitle((utf8proc_int32_t)c));
}

static void put_mapped(
    struct jinja_run *r, const struct jinja_string *s, size_t from, size_t end, enum letter_case to)
{
    unsigned bytes;
    for (size_t i = from; i < end; i += bytes) {
        uint8_t out[4];
        uint32_t c = unicode_decode(s->at + i, &bytes), mapped = map_char(r, c, to);
        if (mapped == c)
            jinja_put(r, s->at + i, bytes);
        else
            jinja_put(r, out, (size_t)utf8proc_encode_char((utf8proc_int32_t)mapped, out));
    }
    jinja_spend(r, (end - from) / 8);
}

static struct jinja_value finish(struct jinja_run *r, const struct jinja_string *s, size_t begin)
{
    jinja_mark_changed(r, begin, s);
    struct jinja_value v = jinja_cut(r, begin);
    return s->markup ? jinja_markup(r, v) : v;
}

static struct jinja_value mapped(
    struct jinja_run *r, const struct jinja_string *s, enum letter_case to)
{
    size_t begin = jinja_mark_here(r);
    put_mapped(r, s, 0, s->len, to);
    return finish(r, s, begin);
}

struct jinja_value jinja_upper(struct jinja_run *r, const struct jinja_string *s)
{
    return mapped(r, s, TO_UPPER);
}

struct jinja_value jinja_lower(struct jinja_run *r, const struct jinja_string *s)
{
    return mapped(r, s, TO_LOWER);
}

static void put_capitalized(
    struct jinja_run *r, const struct jinja_string *s, size_t from, size_t end, enum letter_case to)
{
    struct jinja_string rest = {.at = s->at + from, .len = end - from};
    size_t first = jinja_char_offset(&rest, 1);
    put_mapped(r, s, from, from + first, to);
    put_mapped(r, s, from + first, end, TO_LOWER);
}

struct jinja_value jinja_capitalize(struct jinja_run *r, const struct jinja_string *s)
{
    size_t begin = jinja_mark_here(r);
    put_capitalized(r, s, 0, s->len, TO_TITLE);
    return finish(r, s, begin);
}

static int begins_word(const struct jinja_string *s, size_t i)
{
    unsigned bytes;
    return (s->at[i] < 0x80 && strchr("-({[<", s->at[i]) && s->at[i]) ||
           unicode_is_python_space(unicode_decode(s->at + i, &bytes));
}

/* The filter `title`: words are what white space, hyphens and opening brackets separate. */
struct jinja_value jinja_title(struct jinja_run *r, const struct jinja_string *s)
{
    size_t begin = jinja_mark_here(r), i = 0, end;
    unsigned bytes;
    while (i < s->len) {
        int is_gap = begins_word(s, i);
        for (end = i; end < s->len && begins_word(s, end) == is_gap; end += bytes)
            unicode_decode(s->at + end, &bytes);
        put_capitalized(r, s, i, end, TO_UPPER);
        i = end;
    }
    return finish(r, s, begin);
}

/* ---- asking ---- */

enum asked { ASK_DIGIT, ASK_ALPHA, ASK_ALNUM, ASK_SPACE };

static int is_one(struct jinja_run *r, uint32_t c, enum asked what)
{
    if (what == ASK_SPACE)
        return unicode_is_python_space(c);
    switch (utf8proc_category((utf8proc_int32_t)c)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
        return what != ASK_DIGIT;
    case UTF8PROC_CATEGORY_ND:
        return what != ASK_ALPHA;
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_NO:
        if (what != ASK_ALPHA)
            jinja_fail(r, "asking whether U+%04X is a digit is not supported", c);
        return 0;
    default:
        return 0;
    }
}

static struct jinja_value all_are(
    struct jinja_run *r, const struct jinja_string *s, enum asked what)
{
    unsigned bytes;
    int all = s->len > 0;
    for (size_t i = 0; all && i < s->len; i += bytes)
        all = is_one(r, unicode_decode(s->at + i, &bytes), what);
    jinja_spend(r, s->len / 8);
    return jinja_bool(all);
}

/* Python's islower and isupper: of the characters that have a case, all have this one. */
int jinja_has_case(struct jinja_run *r, const struct jinja_string *s, int upper)
{
    unsigned bytes;
    int found = 0;
    for (size_t i = 0; i < s->len; i += bytes) {
        uint32_t c = unicode_decode(s->at + i, &bytes);
        utf8proc_category_t of = utf8proc_category((utf8proc_int32_t)c);
        if (of == UTF8PROC_CATEGORY_LU || of == UTF8PROC_CATEGORY_LT ||
            of == UTF8PROC_CATEGORY_LL) {
            if (of != (upper ? UTF8PROC_CATEGORY_LU : UTF8PROC_CATEGORY_LL))
                return 0;
            found = 1;
        } else if (c >= 0x80 &&
                   (of == UTF8PROC_CATEGORY_LM || of == UTF8PROC_CATEGORY_NL ||
                       of == UTF8PROC_CATEGORY_SO || c == 0xaa || c == 0xba || c == 0x345))
            jinja_fail(r, "asking for the case of U+%04X is not supported", c);
    }
    jinja_spend(r, s->len / 8);
    return found;
}

static int is_ascii_only(struct jinja_run *r, const struct jinja_string *s)
{
    jinja_spend(r, s->len / 16);
    return jinja_n_chars(s) == s->len;
}

#define METHOD(name, expression)                                                                   \
    static struct jinja_value name(                                                                \
        struct jinja_run *r, struct jinja_value self, const struct jinja_value *p)                 \
    {                                                                                              \
        (void)p;                                                                                   \
        return expression;                                                                         \
    }

METHOD(upper, jinja_upper(r, self.u.s))
METHOD(lower, jinja_lower(r, self.u.s))
METHOD(capitalize, jinja_capitalize(r, self.u.s))
METHOD(is_digit, all_are(r, self.u.s, ASK_DIGIT))
METHOD(is_alpha, all_are(r, self.u.s, ASK_ALPHA))
METHOD(is_alnum, all_are(r, self.u.s, ASK_ALNUM))
METHOD(is_space, all_are(r, self.u.s, ASK_SPACE))
METHOD(is_ascii, jinja_bool(is_ascii_only(r, self.u.s)))
METHOD(is_lower, jinja_bool(jinja_has_case(r, self.u.s, 0)))
METHOD(is_upper, jinja_bool(jinja_has_case(r, self.u.s, 1)))

/* Python's title: a letter behind anything that is no letter begins a word. */
static struct jinja_value title(
    struct jinja_run *r, struct jinja_value self, const struct jinja_value *p)
{
    const struct jinja_string *s = self.u.s;
    size_t begin = jinja_mark_here(r);
    int in_word = 0;
    unsigned bytes;
    (void)p;
    for (size_t i = 0; i < s->len; i += bytes) {
        uint32_t c = unicode_decode(s->at + i, &bytes);
        utf8proc_category_t of = utf8proc_category((utf8proc_int32_t)c);
        put_mapped(r, s, i, i + bytes, in_word ? TO_LOWER : TO_TITLE);
        in_word =
            of == UTF8PROC_CATEGORY_LU || of == UTF8PROC_CATEGORY_LL || of == UTF8PROC_CATEGORY_LT;
        if (c >= 0x80 && (of == UTF8PROC_CATEGORY_LM || of == UTF8PROC_CATEGORY_NL ||
                             of == UTF8PROC_CATEGORY_SO || c == 0xaa || c == 0xba || c == 0x345))
            jinja_fail(r, "title beside U+%04X is not supported", c);
    }
    return finish(r, s, begin);
}

static const struct jinja_builtin methods[] = {
    {"upper", "", 0, upper},
    {"lower", "", 0, lower},
    {"capitalize", "", 0, capitalize},
    {"title", "", 0, title},
    {"isdigit", "", 0, is_digit},
    {"isalpha", "", 0, is_alpha},
    {"isalnum", "", 0, is_alnum},
    {"isspace", "", 0, is_space},
    {"isascii", "", 0, is_ascii},
    {"islower", "", 0, is_lower},
    {"isupper", "", 0, is_upper},
};

const struct jinja_builtin *jinja_case_method(struct slice name)
{
    return jinja_find(methods, sizeof methods / sizeof methods[0], name);
}
