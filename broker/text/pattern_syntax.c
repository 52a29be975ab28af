/* pattern_syntax.c - see pattern_syntax.h. A parser by descent: alternatives, sequences, atoms and
 * their quantifiers. */
#include "broker/text/pattern_syntax.h"

#include <stdio.h>
#include <string.h>

#include "broker/text/pattern_parser.h"

#define MAX_REPEAT 1000 /* in {n,m} */

int pattern_refuse(const struct pattern_parser *p, size_t at, const char *what)
{
    size_t end = at;
    while (end < p->len && end < at + 12)
        end++;
    while (end < p->len && p->text[end] >> 6 == 2)
        end++;
    return err_set(p->e, ASSAY_EFORMAT, "'%.*s' at byte %zu of the pattern: %s", (int)(end - at),
        (const char *)p->text + at, at, what);
}

static void write_text(struct pattern_parser *p, const char *text)
{
    buffer_text(&p->out->text, text);
}

/* Writes a set and takes it over. */
static int write_set(struct pattern_parser *p, struct charset *set)
{
    struct pattern_syntax *out = p->out;
    unsigned i = 0;
    while (i < out->n_sets && !charset_same(&out->sets[i], set))
        i++;
    if (i == PATTERN_MAX_SETS) {
        charset_release(set);
        return pattern_refuse(p, p->at, "expected at most 64 different sets of characters");
    }
    if (i == out->n_sets)
        out->sets[out->n_sets++] = *set;
    else
        charset_release(set);
    uint8_t code = (uint8_t)(0x80 + i);
    buffer_append(&out->text, &code, 1);
    return 0;
}

/* ---- groups ---- */

static int read_alternatives(struct pattern_parser *p, int *nullable);

/* Behind the opening parenthesis: what kind of group it is. */
static int read_opening(struct pattern_parser *p, size_t at, struct pattern_atom *a)
{
    static const char *const assertions[] = {"?=", "?!", "?<=", "?<!"};
    write_text(p, "(");
    for (size_t i = 0; i < sizeof assertions / sizeof assertions[0]; i++)
        if (pattern_take(p, assertions[i])) {
            a->is_assertion = a->nullable = 1;
            write_text(p, assertions[i]);
            return 0;
        }
    if (pattern_take(p, "?>")) {
        write_text(p, "?>");
        return 0;
    }
    write_text(p, "?:");
    if (pattern_take(p, "?i:"))
        p->ignores_case = 1;
    else if (pattern_take(p, "?-i:"))
        p->ignores_case = 0;
    else if (!pattern_take(p, "?:") && pattern_peek(p, 0) == '?')
        return pattern_refuse(p, at, "a group of a kind that is not supported");
    return 0;
}

static int read_group(struct pattern_parser *p, size_t at, struct pattern_atom *a)
{
    int ignores_case = p->ignores_case, nullable = 0;
    if (++p->depth > PATTERN_MAX_DEPTH)
        return pattern_refuse(p, at, "too deep");
    int rc = read_opening(p, at, a);
    if (rc == 0)
        rc = read_alternatives(p, &nullable);
    if (rc == 0 && !pattern_take(p, ")"))
        rc = pattern_refuse(p, at, "expected a closing parenthesis");
    write_text(p, ")");
    a->nullable |= nullable;
    a->letters = p->ignores_case ? UINT32_MAX : 0;
    p->ignores_case = ignores_case;
    p->depth--;
    return rc;
}

/* ---- atoms ---- */

/* A set: what stands at `at` means it. */
static int add_set(struct pattern_parser *p, size_t at, struct charset *set, struct pattern_atom *a)
{
    int rc = p->ignores_case ? pattern_fold_set(p, at, set, a) : 0;
    a->is_set = 1;
    if (rc == 0)
        return write_set(p, set);
    charset_release(set);
    return rc;
}

static int add_end_of_line(struct pattern_parser *p, struct pattern_atom *a)
{
    struct charset set = {0};
    a->is_assertion = a->nullable = 1;
    charset_add(&set, '\n', '\n');
    charset_invert(&set);
    write_text(p, "(?!");
    int rc = write_set(p, &set);
    write_text(p, ")");
    return rc;
}

static int read_set(struct pattern_parser *p, size_t at, struct pattern_atom *a)
{
    struct charset set = {0};
    uint32_t c = PATTERN_NO_CHARACTER;
    int rc = 0, negated = 0;
    if (pattern_take(p, "[")) {
        rc = pattern_read_class(p, &set, &negated);
    } else if (pattern_take(p, "\\")) {
        rc = pattern_read_escape(p, &set, &c);
    } else if (pattern_take(p, ".")) {
        charset_add(&set, '\n', '\n');
        charset_invert(&set);
    } else {
        c = pattern_take_character(p);
    }
    if (c != PATTERN_NO_CHARACTER)
        charset_add(&set, c, c);
    if (rc == 0)
        return add_set(p, at, &set, a);
    charset_release(&set);
    return rc;
}

static int read_atom(struct pattern_parser *p, struct pattern_atom *a)
{
    size_t at = p->at;
    int c = pattern_peek(p, 0);
    if (pattern_take(p, "("))
        return read_group(p, at, a);
    if (pattern_take(p, "$"))
        return add_end_of_line(p, a);
    if (pattern_take(p, "\\A") || pattern_take(p, "\\z")) {
        a->is_assertion = a->nullable = 1;
        write_text(p, p->text[p->at - 1] == 'A' ? "\\A" : "\\z");
        return 0;
    }
    if (strchr("^*+?{}]", c))
        return pattern_refuse(
            p, at, "not supported here; a character of its own needs a \\ before it");
    return read_set(p, at, a);
}

/* ---- quantifiers ---- */

static int take_number(struct pattern_parser *p, int none)
{
    int v = 0, n = 0;
    for (; pattern_peek(p, 0) >= '0' && pattern_peek(p, 0) <= '9' && n < 5; n++)
        v = v * 10 + (p->text[p->at++] - '0');
    return n ? v : none;
}

/* {n}, {n,}, {,m}, {n,m}; *most: -1 without end. Returns 1, or 0 if none of them is here. */
static int take_interval(struct pattern_parser *p, int *least, int *most)
{
    size_t at = p->at;
    if (!pattern_take(p, "{"))
        return 0;
    *least = take_number(p, -1);
    int is_open = pattern_take(p, ",");
    *most = is_open ? take_number(p, -1) : *least;
    if (pattern_take(p, "}") && (*least >= 0 || *most >= 0))
        return 1;
    p->at = at;
    return 0;
}

/* Returns 1 and how often the atom is repeated, or 0. */
static int take_repeat(struct pattern_parser *p, int *least, int *most)
{
    *least = pattern_peek(p, 0) == '+';
    *most = pattern_peek(p, 0) == '?' ? 1 : -1;
    if (pattern_take(p, "*") || pattern_take(p, "+") || pattern_take(p, "?"))
        return 1;
    return take_interval(p, least, most);
}

static int check_repeat(
    const struct pattern_parser *p, size_t at, const struct pattern_atom *a, int least, int most)
{
    uint32_t risky = pattern_letter('s') | pattern_letter('f');
    if (a->is_assertion || a->nullable)
        return pattern_refuse(p, at, "a repetition of what may match nothing");
    if (a->is_set && (a->letters & risky) && most != 1)
        return pattern_refuse(p, at, "a repeated letter for which another character may stand");
    if (least > MAX_REPEAT || most > MAX_REPEAT || (most >= 0 && least > most))
        return pattern_refuse(
            p, at, "expected at most 1000 repetitions, and the smaller number first");
    return 0;
}

static void put_in(struct buffer *b, size_t at, const char *text)
{
    size_t n = strlen(text), behind = b->len - at;
    buffer_append(b, text, n);
    memmove(b->at + at + n, b->at + at, behind);
    memcpy(b->at + at, text, n);
}

/* {n,m}+ is no possessive quantifier but a + on {n,m}: of one character, from n on any number for
 * n = 1. */
static void write_interval(
    struct pattern_parser *p, size_t from, const struct pattern_atom *a, int least, int most)
{
    char text[32];
    int again = pattern_take(p, "+");
    if (again && a->is_set && least == 1) {
        write_text(p, "+");
        return;
    }
    if (again)
        put_in(&p->out->text, from, "(?:");
    if (most < 0)
        snprintf(text, sizeof text, "{%d,}", least);
    else
        snprintf(text, sizeof text, "{%d,%d}", least, most);
    write_text(p, text);
    if (again)
        write_text(p, ")+");
    else if (pattern_take(p, "?"))
        write_text(p, "?");
}

/* from: where the atom begins in what is written. */
static int read_quantifier(struct pattern_parser *p, size_t from, struct pattern_atom *a)
{
    size_t at = p->at;
    char sign[2] = {p->text[at < p->len ? at : 0], 0};
    int least, most;
    if (!take_repeat(p, &least, &most))
        return 0;
    int is_interval = sign[0] == '{';
    if (is_interval && least < 0)
        least = 0;
    int rc = check_repeat(p, at, a, least, most);
    if (rc != 0)
        return rc;
    if (is_interval &&
        ((pattern_peek(p, 0) == '?' && least == most) || (pattern_peek(p, 0) == '+' && least == 0)))
        return pattern_refuse(p, at, "a quantifier on a quantifier");
    if (is_interval) {
        write_interval(p, from, a, least, most);
    } else {
        write_text(p, sign);
        if (pattern_take(p, "?"))
            write_text(p, "?");
        else if (pattern_take(p, "+"))
            write_text(p, "+");
    }
    a->nullable = least == 0;
    a->letters = p->ignores_case && a->letters ? UINT32_MAX : 0;
    int next = pattern_peek(p, 0), dummy;
    if (next == '*' || next == '+' || next == '?' || take_interval(p, &dummy, &dummy))
        return pattern_refuse(p, at, "a quantifier on a quantifier");
    return 0;
}

static int read_sequence(struct pattern_parser *p, int *nullable)
{
    *nullable = 1;
    while (pattern_peek(p, 0) >= 0 && pattern_peek(p, 0) != '|' && pattern_peek(p, 0) != ')') {
        struct pattern_atom a = {0};
        size_t from = p->out->text.len;
        int rc = read_atom(p, &a);
        if (rc == 0)
            rc = read_quantifier(p, from, &a);
        if (rc != 0)
            return rc;
        if (!a.nullable)
            *nullable = 0;
        if (!a.is_assertion)
            p->letters_before = a.letters;
    }
    return 0;
}

static int read_alternatives(struct pattern_parser *p, int *nullable)
{
    uint32_t before = p->letters_before;
    int one, rc;
    *nullable = 0;
    do {
        p->letters_before = before;
        rc = read_sequence(p, &one);
        *nullable |= one;
        if (rc != 0)
            return rc;
        if (pattern_peek(p, 0) != '|')
            return 0;
        write_text(p, "|");
    } while (pattern_take(p, "|"));
    return 0;
}

int pattern_syntax_read(struct pattern_syntax *s, const char *pattern, struct err *e)
{
    struct pattern_parser p = {
        .out = s, .text = (const uint8_t *)pattern, .len = strlen(pattern), .e = e};
    int nullable;
    p.ignores_case = pattern_take(&p, "(?i)");
    int rc = read_alternatives(&p, &nullable);
    if (rc == 0 && p.at < p.len)
        rc = pattern_refuse(&p, p.at, "a parenthesis that was not opened");
    if (rc == 0 && nullable)
        rc = err_set(e, ASSAY_EFORMAT, "'%.80s' may match nothing", pattern);
    return rc;
}

void pattern_syntax_release(struct pattern_syntax *s)
{
    buffer_release(&s->text);
    for (unsigned i = 0; i < s->n_sets; i++)
        charset_release(&s->sets[i]);
}
