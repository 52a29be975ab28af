/* pattern_class.c - sets of characters in a pattern: escapes, classes, and both without case
 * (pattern_parser.h). */
#include "broker/text/pattern_parser.h"

/* ---- case ---- */

uint32_t pattern_letter(uint32_t c)
{
    c |= 0x20;
    return c >= 'a' && c <= 'z' ? 1u << (c - 'a') : 0;
}

/* One character may stand for several where case is ignored: U+00DF for ss, U+FB01 for fi. Of
 * letters of ASCII these are ff, fi, fl, ss, st. */
static int check_folding(const struct pattern_parser *p, size_t at, uint32_t letters)
{
    uint32_t f = pattern_letter('f'), s = pattern_letter('s');
    uint32_t after_f = f | pattern_letter('i') | pattern_letter('l'),
             after_s = s | pattern_letter('t');
    if (((p->letters_before & f) && (letters & after_f)) ||
        ((p->letters_before & s) && (letters & after_s)))
        return pattern_refuse(
            p, at, "letters for which one character may stand if case is ignored");
    return 0;
}

/* Adds the letters that differ in case. The long s and the Kelvin sign are cases of s and k. */
int pattern_fold_set(
    struct pattern_parser *p, size_t at, struct charset *set, struct pattern_atom *a)
{
    if (set->n == 0 || set->at[set->n - 1].last >= 0x80)
        return pattern_refuse(p, at, "expected characters of ASCII where case is ignored");
    for (uint32_t c = 'a'; c <= 'z'; c++)
        if (charset_has(set, c) || charset_has(set, c - 0x20)) {
            a->letters |= pattern_letter(c);
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

static int take_hex(struct pattern_parser *p, size_t at, int digits, uint32_t *c)
{
    uint32_t v = 0;
    int n = 0;
    for (; n < digits && pattern_peek(p, 0) >= 0; n++, p->at++) {
        int d = pattern_peek(p, 0), low = d | 0x20;
        if (d >= '0' && d <= '9')
            v = v << 4 | (uint32_t)(d - '0');
        else if (low >= 'a' && low <= 'f')
            v = v << 4 | (uint32_t)(low - 'a' + 10);
        else
            break;
    }
    if (n == 0 || v >= UNICODE_END || (v >= 0xd800 && v < 0xe000))
        return pattern_refuse(p, at, "expected the number of a character");
    *c = v;
    return n;
}

/* \xHH, \x{H..}, \uHHHH; behind the letter. */
static int read_number(struct pattern_parser *p, size_t at, int letter, uint32_t *c)
{
    int is_open = letter == 'x' && pattern_take(p, "{"), digits = letter == 'u' ? 4
                                                                  : is_open     ? 8
                                                                                : 2;
    int n = take_hex(p, at, digits, c);
    if (n < 0)
        return n;
    if ((is_open && !pattern_take(p, "}")) || (!is_open && n != digits) ||
        (!is_open && *c >= 0x80 && letter == 'x'))
        return pattern_refuse(
            p, at, "expected \\x{..}, \\u and four digits, or \\x and two up to 7f");
    return 0;
}

/* {..} behind \p or \P. */
static int read_property(struct pattern_parser *p, size_t at, int inverted, struct charset *set)
{
    if (!pattern_take(p, "{"))
        return pattern_refuse(p, at, "expected \\p{..}");
    inverted ^= pattern_take(p, "^");
    const uint8_t *name = p->text + p->at;
    const uint8_t *end = memchr(name, '}', p->len - p->at);
    if (!end || charset_add_property(set, (const char *)name, (size_t)(end - name)) != 0)
        return pattern_refuse(p, at, "expected a general category or Han");
    if (inverted)
        charset_invert(set);
    p->at += (size_t)(end - name) + 1;
    return 0;
}

static uint32_t control_of(int letter)
{
    static const char letters[] = "nrtfvae", controls[] = "\n\r\t\f\v\a\x1b";
    const char *found = letter > 0 ? strchr(letters, letter) : NULL;
    return found ? (uint32_t)controls[found - letters] : PATTERN_NO_CHARACTER;
}

static int is_punctuation(int c)
{
    return c >= 0x20 && c < 0x7f && !pattern_letter((uint32_t)c) && !(c >= '0' && c <= '9');
}

int pattern_read_escape(struct pattern_parser *p, struct charset *set, uint32_t *c)
{
    size_t at = p->at - 1;
    int letter = pattern_peek(p, 0), is_inverted = letter == 'S' || letter == 'D' || letter == 'W';
    p->at += letter >= 0;
    *c = control_of(letter);
    if (*c != PATTERN_NO_CHARACTER)
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
        return pattern_refuse(p, at, "an escape that is not supported");
    if (is_inverted)
        charset_invert(set);
    return 0;
}

/* ---- classes ---- */

/* The end of a range, behind its hyphen. */
static int read_range_end(struct pattern_parser *p, uint32_t first, uint32_t *last)
{
    struct charset none = {0};
    size_t at = p->at;
    int next = pattern_peek(p, 0), rc = 0;
    *last = PATTERN_NO_CHARACTER;
    if (next >= 0 && next != '[' && next != '&' && next != '-') {
        *last = pattern_take_character(p);
        if (*last == '\\')
            rc = pattern_read_escape(p, &none, last);
    }
    charset_release(&none);
    if (rc == 0 && (*last == PATTERN_NO_CHARACTER || *last < first))
        rc = pattern_refuse(p, at, "expected the end of a range, not below its beginning");
    return rc;
}

static int is_range(const struct pattern_parser *p)
{
    return pattern_peek(p, 0) == '-' && pattern_peek(p, 1) != ']';
}

/* One member of a class: a class inside, an escape, a character, a range. */
static int read_member(struct pattern_parser *p, int is_first, struct charset *set)
{
    struct charset some = {0};
    uint32_t c = PATTERN_NO_CHARACTER, last;
    size_t at = p->at;
    int rc = 0, is_plain = 0, negated;
    if (pattern_take(p, "[")) {
        rc = pattern_read_class(p, &some, &negated);
    } else if (pattern_take(p, "\\")) {
        rc = pattern_read_escape(p, &some, &c);
    } else {
        c = pattern_take_character(p);
        is_plain = 1;
    }
    if (rc == 0 && is_plain && c == '-' &&
        ((!is_first && pattern_peek(p, 0) != ']') || is_range(p)))
        rc = pattern_refuse(p, at, "expected \\- for a hyphen");
    last = c;
    if (rc == 0 && c != PATTERN_NO_CHARACTER && is_range(p)) {
        p->at++;
        rc = read_range_end(p, c, &last);
    }
    if (rc == 0 && is_range(p))
        rc = pattern_refuse(p, p->at, "expected \\- for a hyphen");
    if (rc == 0 && c != PATTERN_NO_CHARACTER)
        charset_add(set, c, last);
    else if (rc == 0)
        charset_add_all(set, &some);
    charset_release(&some);
    return rc;
}

/* What stands between && or the class's ends. */
static int read_members(struct pattern_parser *p, struct charset *set)
{
    size_t at = p->at;
    int n = 0, rc = 0;
    for (; rc == 0 && pattern_peek(p, 0) >= 0 && pattern_peek(p, 0) != ']'; n++) {
        if (pattern_peek(p, 0) == '&' && pattern_peek(p, 1) == '&')
            break;
        if (pattern_peek(p, 0) == '[' && pattern_peek(p, 1) == ':')
            return pattern_refuse(p, p->at, "a POSIX class is not supported");
        rc = read_member(p, n == 0, set);
    }
    if (rc == 0 && (n == 0 || pattern_peek(p, 0) < 0))
        rc = pattern_refuse(p, at, "expected characters and ]");
    return rc;
}

int pattern_read_class(struct pattern_parser *p, struct charset *set, int *negated)
{
    if (++p->depth > PATTERN_MAX_DEPTH)
        return pattern_refuse(p, p->at, "too deep");
    p->n_classes++;
    *negated = pattern_take(p, "^");
    int rc = read_members(p, set);
    while (rc == 0 && pattern_take(p, "&&")) {
        struct charset other = {0};
        rc = read_members(p, &other);
        charset_intersect(set, &other);
        charset_release(&other);
    }
    if (rc == 0 && !pattern_take(p, "]"))
        rc = pattern_refuse(p, p->at, "expected ]");
    if (*negated)
        charset_invert(set);
    p->n_classes--;
    p->depth--;
    return rc;
}
