/* pattern_syntax.c - see pattern_syntax.h. A parser by descent: alternatives, sequences, atoms and
 * their quantifiers. */
#include "broker/text/pattern_syntax.h"

#include <stdio.h>
#include <string.h>

#define MAX_DEPTH 30    /* of groups and classes in each other */
#define MAX_REPEAT 1000 /* in {n,m} */
#define NO_CHARACTER UINT32_MAX

struct parser {
    struct pattern_syntax *out;
    const uint8_t *text;
    size_t len, at;
    int depth, n_classes; /* of groups and classes in each other; of classes alone */
    int ignores_case;
    uint32_t letters_before; /* what the previous atom may be, without case; see check_folding */
    struct err *e;
};

struct atom {
    int nullable;     /* it may match nothing */
    int is_assertion; /* it always does */
    int is_set;       /* it is one character */
    uint32_t letters; /* without case, bit 0 is a; 0 unless case is ignored */
};

static int refuse(const struct parser *p, size_t at, const char *what)
{
    size_t end = at;
    while (end < p->len && end < at + 12)
        end++;
    while (end < p->len && p->text[end] >> 6 == 2)
        end++;
    return err_set(p->e, ASSAY_EFORMAT, "'%.*s' at byte %zu of the pattern: %s", (int)(end - at),
        (const char *)p->text + at, at, what);
}

static int peek(const struct parser *p, size_t ahead)
{
    return p->at + ahead < p->len ? p->text[p->at + ahead] : -1;
}

static int take(struct parser *p, const char *word)
{
    size_t n = strlen(word);
    if (p->len - p->at < n || memcmp(p->text + p->at, word, n) != 0)
        return 0;
    p->at += n;
    return 1;
}

static uint32_t take_character(struct parser *p)
{
    unsigned bytes;
    uint32_t c = unicode_decode(p->text + p->at, &bytes);
    p->at += bytes;
    return c;
}

static void write_text(struct parser *p, const char *text)
{
    buffer_text(&p->out->text, text);
}

/* Writes a set and takes it over. */
static int write_set(struct parser *p, struct charset *set)
{
    struct pattern_syntax *out = p->out;
    unsigned i = 0;
    while (i < out->n_sets && !charset_same(&out->sets[i], set))
        i++;
    if (i == PATTERN_MAX_SETS) {
        charset_release(set);
        return refuse(p, p->at, "expected at most 64 different sets of characters");
    }
    if (i == out->n_sets)
        out->sets[out->n_sets++] = *set;
    else
        charset_release(set);
    uint8_t code = (uint8_t)(0x80 + i);
    buffer_append(&out->text, &code, 1);
    return 0;
}

/* ---- case ---- */

static uint32_t letter_bit(uint32_t c)
{
    c |= 0x20;
    return c >= 'a' && c <= 'z' ? 1u << (c - 'a') : 0;
}

/* One character may stand for several where case is ignored: U+00DF for ss, U+FB01 for fi. Of
 * letters of ASCII these are ff, fi, fl, ss, st. */
static int check_folding(const struct parser *p, size_t at, uint32_t letters)
{
    uint32_t f = letter_bit('f'), s = letter_bit('s');
    uint32_t after_f = f | letter_bit('i') | letter_bit('l'), after_s = s | letter_bit('t');
    if (((p->letters_before & f) && (letters & after_f)) ||
        ((p->letters_before & s) && (letters & after_s)))
        return refuse(p, at, "letters for which one character may stand if case is ignored");
    return 0;
}

/* Adds the letters that differ in case. The long s and the Kelvin sign are cases of s and k. */
static int fold_set(struct parser *p, size_t at, struct charset *set, struct atom *a)
{
    if (set->n == 0 || set->at[set->n - 1].last >= 0x80)
        return refuse(p, at, "expected characters of ASCII where case is ignored");
    for (uint32_t c = 'a'; c <= 'z'; c++)
        if (charset_has(set, c) || charset_has(set, c - 0x20)) {
            a->letters |= letter_bit(c);
            charset_add(set, c, c);
            charset_add(set, c - 0x20, c - 0x20);
        }
    if (charset_has(set, 's'))
        charset_add(set, 0x17f, 0x17f);
    if (charset_has(set, 'k'))
        charset_add(set, 0x212a, 0x212a);
    return check_folding(p, at, a->letters);
}

/* ---- escapes ---- */

static int take_hex(struct parser *p, size_t at, int digits, uint32_t *c)
{
    uint32_t v = 0;
    int n = 0;
    for (; n < digits && peek(p, 0) >= 0; n++, p->at++) {
        int d = peek(p, 0), low = d | 0x20;
        if (d >= '0' && d <= '9')
            v = v << 4 | (uint32_t)(d - '0');
        else if (low >= 'a' && low <= 'f')
            v = v << 4 | (uint32_t)(low - 'a' + 10);
        else
            break;
    }
    if (n == 0 || v >= UNICODE_END || (v >= 0xd800 && v < 0xe000))
        return refuse(p, at, "expected the number of a character");
    *c = v;
    return n;
}

/* \xHH, \x{H..}, \uHHHH; behind the letter. */
static int read_number(struct parser *p, size_t at, int letter, uint32_t *c)
{
    int is_open = letter == 'x' && take(p, "{"), digits = letter == 'u' ? 4 : is_open ? 8 : 2;
    int n = take_hex(p, at, digits, c);
    if (n < 0)
        return n;
    if ((is_open && !take(p, "}")) || (!is_open && n != digits) ||
        (!is_open && *c >= 0x80 && letter == 'x'))
        return refuse(p, at, "expected \\x{..}, \\u and four digits, or \\x and two up to 7f");
    return 0;
}

/* {..} behind \p or \P. */
static int read_property(struct parser *p, size_t at, int inverted, struct charset *set)
{
    if (!take(p, "{"))
        return refuse(p, at, "expected \\p{..}");
    inverted ^= take(p, "^");
    const uint8_t *name = p->text + p->at;
    const uint8_t *end = memchr(name, '}', p->len - p->at);
    if (!end || charset_add_property(set, (const char *)name, (size_t)(end - name)) != 0)
        return refuse(p, at, "expected a general category or Han");
    if (inverted)
        charset_invert(set);
    p->at += (size_t)(end - name) + 1;
    return 0;
}

static uint32_t control_of(int letter)
{
    static const char letters[] = "nrtfvae", controls[] = "\n\r\t\f\v\a\x1b";
    const char *found = letter > 0 ? strchr(letters, letter) : NULL;
    return found ? (uint32_t)controls[found - letters] : NO_CHARACTER;
}

static int is_punctuation(int c)
{
    return c >= 0x20 && c < 0x7f && !letter_bit((uint32_t)c) && !(c >= '0' && c <= '9');
}

/* Reads what follows a backslash: one character, or NO_CHARACTER and a set. */
static int read_escape(struct parser *p, struct charset *set, uint32_t *c)
{
    size_t at = p->at - 1;
    int letter = peek(p, 0), is_inverted = letter == 'S' || letter == 'D' || letter == 'W';
    p->at += letter >= 0;
    *c = control_of(letter);
    if (*c != NO_CHARACTER)
        return 0;
    if (is_punctuation(letter)) {
        *c = (uint32_t)letter;
        return 0;
    }
    if (letter == 'x' || letter == 'u')
        return read_number(p, at, letter, c);
    if (letter == 'p' || letter == 'P')
        return read_property(p, at, letter == 'P', set);
    if (letter == 's' || letter == 'S')
        charset_add_spaces(set);
    else if (letter == 'd' || letter == 'D')
        charset_add_categories(set, 1u << UNICODE_ND);
    else if (letter == 'w' || letter == 'W')
        charset_add_words(set, p->n_classes == 0);
    else
        return refuse(p, at, "an escape that is not supported");
    if (is_inverted)
        charset_invert(set);
    return 0;
}

/* ---- classes ---- */

static int read_class(struct parser *p, struct charset *set, int *negated);

/* The end of a range, behind its hyphen. */
static int read_range_end(struct parser *p, uint32_t first, uint32_t *last)
{
    struct charset none = {0};
    size_t at = p->at;
    int next = peek(p, 0), rc = 0;
    *last = NO_CHARACTER;
    if (next >= 0 && next != '[' && next != '&' && next != '-') {
        *last = take_character(p);
        if (*last == '\\')
            rc = read_escape(p, &none, last);
    }
    charset_release(&none);
    if (rc == 0 && (*last == NO_CHARACTER || *last < first))
        rc = refuse(p, at, "expected the end of a range, not below its beginning");
    return rc;
}

static int is_range(const struct parser *p)
{
    return peek(p, 0) == '-' && peek(p, 1) != ']';
}

/* One member of a class: a class inside, an escape, a character, a range. */
static int read_member(struct parser *p, int is_first, struct charset *set)
{
    struct charset some = {0};
    uint32_t c = NO_CHARACTER, last;
    size_t at = p->at;
    int rc = 0, is_plain = 0, negated;
    if (take(p, "[")) {
        rc = read_class(p, &some, &negated);
    } else if (take(p, "\\")) {
        rc = read_escape(p, &some, &c);
    } else {
        c = take_character(p);
        is_plain = 1;
    }
    if (rc == 0 && is_plain && c == '-' && ((!is_first && peek(p, 0) != ']') || is_range(p)))
        rc = refuse(p, at, "expected \\- for a hyphen");
    last = c;
    if (rc == 0 && c != NO_CHARACTER && is_range(p)) {
        p->at++;
        rc = read_range_end(p, c, &last);
    }
    if (rc == 0 && is_range(p))
        rc = refuse(p, p->at, "expected \\- for a hyphen");
    if (rc == 0 && c != NO_CHARACTER)
        charset_add(set, c, last);
    else if (rc == 0)
        charset_add_all(set, &some);
    charset_release(&some);
    return rc;
}

/* What stands between && or the class's ends. */
static int read_members(struct parser *p, struct charset *set)
{
    size_t at = p->at;
    int n = 0, rc = 0;
    for (; rc == 0 && peek(p, 0) >= 0 && peek(p, 0) != ']'; n++) {
        if (peek(p, 0) == '&' && peek(p, 1) == '&')
            break;
        if (peek(p, 0) == '[' && peek(p, 1) == ':')
            return refuse(p, p->at, "a POSIX class is not supported");
        rc = read_member(p, n == 0, set);
    }
    if (rc == 0 && (n == 0 || peek(p, 0) < 0))
        rc = refuse(p, at, "expected characters and ]");
    return rc;
}

/* Behind the opening bracket. */
static int read_class(struct parser *p, struct charset *set, int *negated)
{
    if (++p->depth > MAX_DEPTH)
        return refuse(p, p->at, "too deep");
    p->n_classes++;
    *negated = take(p, "^");
    int rc = read_members(p, set);
    while (rc == 0 && take(p, "&&")) {
        struct charset other = {0};
        rc = read_members(p, &other);
        charset_intersect(set, &other);
        charset_release(&other);
    }
    if (rc == 0 && !take(p, "]"))
        rc = refuse(p, p->at, "expected ]");
    if (*negated)
        charset_invert(set);
    p->n_classes--;
    p->depth--;
    return rc;
}

/* ---- groups ---- */

static int read_alternatives(struct parser *p, int *nullable);

/* Behind the opening parenthesis: what kind of group it is. */
static int read_opening(struct parser *p, size_t at, struct atom *a)
{
    static const char *const assertions[] = {"?=", "?!", "?<=", "?<!"};
    write_text(p, "(");
    for (size_t i = 0; i < sizeof assertions / sizeof assertions[0]; i++)
        if (take(p, assertions[i])) {
            a->is_assertion = a->nullable = 1;
            write_text(p, assertions[i]);
            return 0;
        }
    if (take(p, "?>")) {
        write_text(p, "?>");
        return 0;
    }
    write_text(p, "?:");
    if (take(p, "?i:"))
        p->ignores_case = 1;
    else if (take(p, "?-i:"))
        p->ignores_case = 0;
    else if (!take(p, "?:") && peek(p, 0) == '?')
        return refuse(p, at, "a group of a kind that is not supported");
    return 0;
}

static int read_group(struct parser *p, size_t at, struct atom *a)
{
    int ignores_case = p->ignores_case, nullable = 0;
    if (++p->depth > MAX_DEPTH)
        return refuse(p, at, "too deep");
    int rc = read_opening(p, at, a);
    if (rc == 0)
        rc = read_alternatives(p, &nullable);
    if (rc == 0 && !take(p, ")"))
        rc = refuse(p, at, "expected a closing parenthesis");
    write_text(p, ")");
    a->nullable |= nullable;
    a->letters = p->ignores_case ? UINT32_MAX : 0;
    p->ignores_case = ignores_case;
    p->depth--;
    return rc;
}

/* ---- atoms ---- */

/* A set: what stands at `at` means it. */
static int add_set(struct parser *p, size_t at, struct charset *set, struct atom *a)
{
    int rc = p->ignores_case ? fold_set(p, at, set, a) : 0;
    a->is_set = 1;
    if (rc == 0)
        return write_set(p, set);
    charset_release(set);
    return rc;
}

static int add_end_of_line(struct parser *p, struct atom *a)
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

static int read_set(struct parser *p, size_t at, struct atom *a)
{
    struct charset set = {0};
    uint32_t c = NO_CHARACTER;
    int rc = 0, negated = 0;
    if (take(p, "[")) {
        rc = read_class(p, &set, &negated);
    } else if (take(p, "\\")) {
        rc = read_escape(p, &set, &c);
    } else if (take(p, ".")) {
        charset_add(&set, '\n', '\n');
        charset_invert(&set);
    } else {
        c = take_character(p);
    }
    if (c != NO_CHARACTER)
        charset_add(&set, c, c);
    if (rc == 0)
        return add_set(p, at, &set, a);
    charset_release(&set);
    return rc;
}

static int read_atom(struct parser *p, struct atom *a)
{
    size_t at = p->at;
    int c = peek(p, 0);
    if (take(p, "("))
        return read_group(p, at, a);
    if (take(p, "$"))
        return add_end_of_line(p, a);
    if (take(p, "\\A") || take(p, "\\z")) {
        a->is_assertion = a->nullable = 1;
        write_text(p, p->text[p->at - 1] == 'A' ? "\\A" : "\\z");
        return 0;
    }
    if (strchr("^*+?{}]", c))
        return refuse(p, at, "not supported here; a character of its own needs a \\ before it");
    return read_set(p, at, a);
}

/* ---- quantifiers ---- */

static int take_number(struct parser *p, int none)
{
    int v = 0, n = 0;
    for (; peek(p, 0) >= '0' && peek(p, 0) <= '9' && n < 5; n++)
        v = v * 10 + (p->text[p->at++] - '0');
    return n ? v : none;
}

/* {n}, {n,}, {,m}, {n,m}; *most: -1 without end. Returns 1, or 0 if none of them is here. */
static int take_interval(struct parser *p, int *least, int *most)
{
    size_t at = p->at;
    if (!take(p, "{"))
        return 0;
    *least = take_number(p, -1);
    int is_open = take(p, ",");
    *most = is_open ? take_number(p, -1) : *least;
    if (take(p, "}") && (*least >= 0 || *most >= 0))
        return 1;
    p->at = at;
    return 0;
}

/* Returns 1 and how often the atom is repeated, or 0. */
static int take_repeat(struct parser *p, int *least, int *most)
{
    *least = peek(p, 0) == '+';
    *most = peek(p, 0) == '?' ? 1 : -1;
    if (take(p, "*") || take(p, "+") || take(p, "?"))
        return 1;
    return take_interval(p, least, most);
}

static int check_repeat(
    const struct parser *p, size_t at, const struct atom *a, int least, int most)
{
    uint32_t risky = letter_bit('s') | letter_bit('f');
    if (a->is_assertion || a->nullable)
        return refuse(p, at, "a repetition of what may match nothing");
    if (a->is_set && (a->letters & risky) && most != 1)
        return refuse(p, at, "a repeated letter for which another character may stand");
    if (least > MAX_REPEAT || most > MAX_REPEAT || (most >= 0 && least > most))
        return refuse(p, at, "expected at most 1000 repetitions, and the smaller number first");
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
static void write_interval(struct parser *p, size_t from, const struct atom *a, int least, int most)
{
    char text[32];
    int again = take(p, "+");
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
    else if (take(p, "?"))
        write_text(p, "?");
}

/* from: where the atom begins in what is written. */
static int read_quantifier(struct parser *p, size_t from, struct atom *a)
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
    if (is_interval && ((peek(p, 0) == '?' && least == most) || (peek(p, 0) == '+' && least == 0)))
        return refuse(p, at, "a quantifier on a quantifier");
    if (is_interval) {
        write_interval(p, from, a, least, most);
    } else {
        write_text(p, sign);
        if (take(p, "?"))
            write_text(p, "?");
        else if (take(p, "+"))
            write_text(p, "+");
    }
    a->nullable = least == 0;
    a->letters = p->ignores_case && a->letters ? UINT32_MAX : 0;
    int next = peek(p, 0), dummy;
    if (next == '*' || next == '+' || next == '?' || take_interval(p, &dummy, &dummy))
        return refuse(p, at, "a quantifier on a quantifier");
    return 0;
}

static int read_sequence(struct parser *p, int *nullable)
{
    *nullable = 1;
    while (peek(p, 0) >= 0 && peek(p, 0) != '|' && peek(p, 0) != ')') {
        struct atom a = {0};
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

static int read_alternatives(struct parser *p, int *nullable)
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
        if (peek(p, 0) != '|')
            return 0;
        write_text(p, "|");
    } while (take(p, "|"));
    return 0;
}

int pattern_syntax_read(struct pattern_syntax *s, const char *pattern, struct err *e)
{
    struct parser p = {.out = s, .text = (const uint8_t *)pattern, .len = strlen(pattern), .e = e};
    int nullable;
    p.ignores_case = take(&p, "(?i)");
    int rc = read_alternatives(&p, &nullable);
    if (rc == 0 && p.at < p.len)
        rc = refuse(&p, p.at, "a parenthesis that was not opened");
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
