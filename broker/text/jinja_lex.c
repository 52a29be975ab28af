/* jinja_lex.c - template text to tokens, as jinja2's lexer makes them with trim_blocks and
 * lstrip_blocks: text between tags loses white space as the tags' signs say, a newline behind a
 * block or a comment goes, and so do blanks before one that begins its line. */
#include "broker/text/jinja_private.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "broker/text/unicode.h"
#include "schema/utf8.h"

struct lexer {
    struct jinja_parser *p;
    const uint8_t *s;
    size_t n, i;
    uint32_t line;
    int line_starts; /* the last match ended in a newline */
    char open[JINJA_MAX_DEPTH];
    int n_open;
};

static void add_token(struct lexer *l, enum jinja_token_type type, struct slice text)
{
    struct jinja_parser *p = l->p;
    p->tokens = list_grow(p->tokens, p->n_tokens, &p->tokens_room, sizeof *p->tokens);
    p->tokens[p->n_tokens++] = (struct jinja_token){.type = type, .line = l->line, .text = text};
}

static int looking_at(const struct lexer *l, size_t i, const char *text)
{
    size_t len = strlen(text);
    return i + len <= l->n && memcmp(l->s + i, text, len) == 0;
}

/* Moves on to `to`, counting lines. */
static void advance(struct lexer *l, size_t to)
{
    if (to > l->i)
        l->line_starts = l->s[to - 1] == '\n';
    for (; l->i < to; l->i++)
        l->line += l->s[l->i] == '\n';
}

static size_t skip_space(const struct lexer *l, size_t i)
{
    unsigned bytes;
    while (i < l->n && unicode_is_python_space(unicode_decode(l->s + i, &bytes)))
        i += bytes;
    return i;
}

/* ---- text between tags ---- */

static size_t strip_right(const uint8_t *s, size_t n)
{
    unsigned bytes;
    while (n > 0) {
        size_t last = n - 1;
        while (last > 0 && s[last] >> 6 == 2)
            last--;
        if (!unicode_is_python_space(unicode_decode(s + last, &bytes)))
            break;
        n = last;
    }
    return n;
}

/* lstrip_blocks: drops white space alone between the last newline and a tag. */
static size_t strip_line(const struct lexer *l, const uint8_t *s, size_t n)
{
    size_t end = strip_right(s, n), newline = n;
    while (newline > 0 && s[newline - 1] != '\n')
        newline--;
    return (newline > 0 || l->line_starts) && end <= newline ? newline : n;
}

/* Adds the text from here to a tag at `tag` whose sign is `sign`. */
static void add_data(struct lexer *l, size_t tag, uint8_t sign, int is_print)
{
    const uint8_t *s = l->s + l->i;
    size_t n = tag - l->i;
    if (sign == '-')
        n = strip_right(s, n);
    else if (sign != '+' && !is_print)
        n = strip_line(l, s, n);
    if (n > 0)
        add_token(l, T_DATA, (struct slice){s, n});
}

static uint8_t sign_at(const struct lexer *l, size_t i)
{
    return i < l->n && (l->s[i] == '-' || l->s[i] == '+') ? l->s[i] : 0;
}

/* Where a tag that ends at `i` lets the text go on. sign: what stands before its end; trims: a
 * newline behind it goes. */
static size_t after_tag(const struct lexer *l, size_t i, uint8_t sign, int trims)
{
    if (sign == '-')
        return skip_space(l, i);
    return trims && sign != '+' && i < l->n && l->s[i] == '\n' ? i + 1 : i;
}

static void lex_comment(struct lexer *l, size_t begin)
{
    const uint8_t *end = memmem(l->s + begin, l->n - begin, "#}", 2);
    if (!end)
        jinja_parse_fail(l->p, l->line, "the comment that begins here has no end");
    size_t at = (size_t)(end - l->s);
    uint8_t sign = at > begin ? sign_at(l, at - 1) : 0;
    advance(l, after_tag(l, at + 2, sign, 1));
}

/* If the block tag at `i` is {% NAME %}, returns where it ends and its right sign, else 0. */
static size_t bare_tag(const struct lexer *l, size_t i, const char *name, uint8_t *sign)
{
    i += 2 + (sign_at(l, i + 2) != 0);
    i = skip_space(l, i);
    if (!looking_at(l, i, name))
        return 0;
    i = skip_space(l, i + strlen(name));
    *sign = sign_at(l, i);
    i += *sign != 0;
    return looking_at(l, i, "%}") ? i + 2 : 0;
}

static void lex_raw(struct lexer *l, size_t begin, uint8_t begin_sign)
{
    uint32_t line = l->line;
    uint8_t sign = 0;
    advance(l, after_tag(l, begin, begin_sign, 0));
    for (size_t i = l->i; i + 2 <= l->n; i++) {
        size_t end = looking_at(l, i, "{%") ? bare_tag(l, i, "endraw", &sign) : 0;
        if (end == 0)
            continue;
        add_data(l, i, sign_at(l, i + 2), 0);
        advance(l, after_tag(l, end, sign, 1));
        return;
    }
    jinja_parse_fail(l->p, line, "the raw block that begins here has no end");
}

/* ---- in a tag ---- */

static void put_utf8(uint8_t **out, uint32_t c)
{
    uint8_t *o = *out;
    if (c < 0x80)
        *o++ = (uint8_t)c;
    else if (c < 0x800)
        *o++ = (uint8_t)(0xc0 | c >> 6);
    else if (c < 0x10000)
        *o++ = (uint8_t)(0xe0 | c >> 12);
    else
        *o++ = (uint8_t)(0xf0 | c >> 18);
    if (c >= 0x10000)
        *o++ = (uint8_t)(0x80 | (c >> 12 & 0x3f));
    if (c >= 0x800)
        *o++ = (uint8_t)(0x80 | (c >> 6 & 0x3f));
    if (c >= 0x80)
        *o++ = (uint8_t)(0x80 | (c & 0x3f));
    *out = o;
}

static int digit_value(uint8_t c)
{
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                  : 99;
}

/* Reads up to `most` digits at *i; exactly `most` where `base` is 16. */
static uint32_t read_digits(struct lexer *l, size_t *i, size_t end, int most, int base)
{
    uint32_t c = 0;
    int k = 0;
    for (; k < most && *i < end && digit_value(l->s[*i]) < base; k++)
        c = c * (uint32_t)base + (uint32_t)digit_value(l->s[(*i)++]);
    if (base == 16 && k < most)
        jinja_parse_fail(
            l->p, l->line, "expected %d hexadecimal digits in a string's escape", most);
    if (c >= UNICODE_END || (c >= 0xd800 && c < 0xe000))
        jinja_parse_fail(l->p, l->line, "a string's escape is no character: U+%04X", c);
    return c;
}

/* One escape behind the backslash at *i - 1, as Python's unicode-escape reads it. */
static void unescape(struct lexer *l, size_t *i, size_t end, uint8_t **out)
{
    static const char from[] = "abfnrtv\\'\"", to[] = "\a\b\f\n\r\t\v\\'\"";
    uint8_t c = l->s[(*i)++];
    const char *found = c ? strchr(from, c) : NULL;
    if (c == '\n')
        return;
    if (found)
        *(*out)++ = (uint8_t)to[found - from];
    else if (c == 'x' || c == 'u' || c == 'U')
        put_utf8(out, read_digits(l, i, end, c == 'x' ? 2 : c == 'u' ? 4 : 8, 16));
    else if (c >= '0' && c <= '7') {
        (*i)--;
        put_utf8(out, read_digits(l, i, end, 3, 8));
    } else if (c == 'N' || c >= 0x80)
        jinja_parse_fail(l->p, l->line,
            "a string's escape \\N or \\ before a letter that is not "
            "ASCII is not supported");
    else {
        *(*out)++ = '\\';
        *(*out)++ = c;
    }
}

static void lex_string(struct lexer *l)
{
    uint8_t quote = l->s[l->i];
    size_t begin = l->i + 1, end = begin;
    while (end < l->n && l->s[end] != quote)
        end += l->s[end] == '\\' ? 2 : 1;
    if (end >= l->n)
        jinja_parse_fail(l->p, l->line, "the string that begins here has no end");
    uint8_t *text = arena_take(&l->p->t->arena, end - begin + 1), *out = text;
    for (size_t i = begin; i < end;)
        if (l->s[i] == '\\') {
            i++;
            unescape(l, &i, end, &out);
        } else
            *out++ = l->s[i++];
    add_token(l, T_STRING, (struct slice){text, (size_t)(out - text)});
    advance(l, end + 1);
}

/* Skips digits with single underscores between them. */
static size_t skip_digits(const struct lexer *l, size_t i)
{
    while (
        i < l->n && (isdigit(l->s[i]) || (l->s[i] == '_' && i + 1 < l->n && isdigit(l->s[i + 1]))))
        i++;
    return i;
}

/* The end of a number with a fraction or an exponent that begins at i; 0: it is an integer. */
static size_t float_end(const struct lexer *l, size_t i)
{
    size_t whole = skip_digits(l, i), end = 0;
    if (i > 0 && l->s[i - 1] == '.')
        return 0;
    if (whole + 1 < l->n && l->s[whole] == '.' && isdigit(l->s[whole + 1]))
        whole = end = skip_digits(l, whole + 1);
    if (whole < l->n && (l->s[whole] | 32) == 'e') {
        size_t k = whole + 1;
        k += k < l->n && (l->s[k] == '+' || l->s[k] == '-');
        if (k < l->n && isdigit(l->s[k]))
            end = skip_digits(l, k);
    }
    return end;
}

static size_t integer_end(const struct lexer *l, size_t i)
{
    if (l->s[i] != '0')
        return skip_digits(l, i);
    if (i + 2 < l->n && strchr("xXoObB", l->s[i + 1]))
        jinja_parse_fail(l->p, l->line, "numbers in other bases than ten are not supported");
    while (i < l->n && l->s[i] == '0')
        i++;
    return i;
}

static void lex_number(struct lexer *l)
{
    char text[80];
    size_t end = float_end(l, l->i), n = 0;
    int is_float = end != 0;
    if (!is_float)
        end = integer_end(l, l->i);
    for (size_t i = l->i; i < end && n < sizeof text - 1; i++)
        if (l->s[i] != '_')
            text[n++] = (char)l->s[i];
    text[n] = '\0';
    add_token(l, is_float ? T_FLOAT : T_INT, (struct slice){l->s + l->i, end - l->i});
    struct jinja_token *token = &l->p->tokens[l->p->n_tokens - 1];
    errno = 0;
    token->f = strtod(text, NULL);
    if (!is_float)
        token->n = strtoll(text, NULL, 10);
    if (n == sizeof text - 1 || (!is_float && errno == ERANGE))
        jinja_parse_fail(l->p, l->line, "the integer %.40s is beyond 64 bits", text);
    advance(l, end);
}

static int is_name_byte(uint8_t c)
{
    return isalnum(c) || c == '_';
}

static void lex_name(struct lexer *l)
{
    size_t end = l->i;
    while (end < l->n && is_name_byte(l->s[end]))
        end++;
    add_token(l, T_NAME, (struct slice){l->s + l->i, end - l->i});
    advance(l, end);
}

/* Keeps brackets in pairs: within them }} and %} end nothing. */
static void count_bracket(struct lexer *l, char c)
{
    char closing = c == '(' ? ')' : c == '[' ? ']' : c == '{' ? '}' : '\0';
    if (closing && l->n_open == JINJA_MAX_DEPTH)
        jinja_parse_fail(l->p, l->line, "brackets are nested deeper than %d", JINJA_MAX_DEPTH);
    if (closing)
        l->open[l->n_open++] = closing;
    else if ((c == ')' || c == ']' || c == '}') && (l->n_open == 0 || l->open[--l->n_open] != c))
        jinja_parse_fail(l->p, l->line, "unexpected '%c'", c);
}

static void lex_operator(struct lexer *l)
{
    static const char *const operators[] = {"//", "**", "==", "!=", ">=", "<=", "+", "-", "/", "*",
        "%", "~", "[", "]", "(", ")", "{", "}", ">", "<", "=", ".", ":", "|", ",", ";"};
    for (size_t k = 0; k < sizeof operators / sizeof operators[0]; k++) {
        if (!looking_at(l, l->i, operators[k]))
            continue;
        count_bracket(l, operators[k][0]);
        size_t len = strlen(operators[k]);
        add_token(l, T_OPERATOR, (struct slice){l->s + l->i, len});
        advance(l, l->i + len);
        return;
    }
    uint8_t c = l->s[l->i];
    if (c >= 0x80)
        jinja_parse_fail(l->p, l->line, "names with letters that are not ASCII are not supported");
    jinja_parse_fail(
        l->p, l->line, "unexpected character %s%c", c < 0x20 ? "^" : "", c < 0x20 ? c + 0x40 : c);
}

/* Is this the end of the tag? Then moves behind it. */
static int end_tag(struct lexer *l, int is_print)
{
    const char *end = is_print ? "}}" : "%}";
    uint8_t sign = sign_at(l, l->i);
    if (is_print && sign == '+')
        sign = 0;
    if (l->n_open > 0 || !looking_at(l, l->i + (sign != 0), end))
        return 0;
    add_token(l, is_print ? T_PRINT_END : T_BLOCK_END, (struct slice){0});
    advance(l, after_tag(l, l->i + (sign != 0) + 2, sign, !is_print));
    return 1;
}

static void lex_tag(struct lexer *l, size_t begin, int is_print)
{
    uint32_t line = l->line;
    add_token(l, is_print ? T_PRINT : T_BLOCK, (struct slice){0});
    advance(l, begin);
    while (l->i < l->n && !end_tag(l, is_print)) {
        uint8_t c = l->s[l->i];
        size_t space = skip_space(l, l->i);
        if (space > l->i)
            advance(l, space);
        else if (isdigit(c))
            lex_number(l);
        else if (is_name_byte(c))
            lex_name(l);
        else if (c == '\'' || c == '"')
            lex_string(l);
        else
            lex_operator(l);
    }
    enum jinja_token_type last = l->p->tokens[l->p->n_tokens - 1].type;
    if (last != T_PRINT_END && last != T_BLOCK_END)
        jinja_parse_fail(l->p, line, "the tag that begins here has no end");
}

static size_t find_tag(const struct lexer *l)
{
    for (size_t i = l->i; i + 1 < l->n; i++)
        if (l->s[i] == '{' && (l->s[i + 1] == '{' || l->s[i + 1] == '%' || l->s[i + 1] == '#'))
            return i;
    return l->n;
}

static void lex_next(struct lexer *l)
{
    size_t tag = find_tag(l), raw_end = 0;
    uint8_t sign = sign_at(l, tag + 2), raw_sign = 0;
    if (tag == l->n) {
        add_token(l, T_DATA, (struct slice){l->s + l->i, l->n - l->i});
        advance(l, l->n);
        return;
    }
    uint8_t kind = l->s[tag + 1];
    add_data(l, tag, sign, kind == '{');
    advance(l, tag);
    if (kind == '%')
        raw_end = bare_tag(l, tag, "raw", &raw_sign);
    if (raw_end && raw_sign != '+')
        lex_raw(l, raw_end, raw_sign);
    else if (kind == '#')
        lex_comment(l, tag + 2 + (sign != 0));
    else
        lex_tag(l, tag + 2 + (sign != 0), kind == '{');
}

/* Makes CR LF and CR newlines, and drops one at the end. */
static struct slice plain_newlines(struct jinja *t, struct slice source)
{
    uint8_t *text = arena_take(&t->arena, source.len + 1);
    size_t n = 0;
    for (size_t i = 0; i < source.len; i++)
        if (source.at[i] != '\r')
            text[n++] = source.at[i];
        else if (i + 1 == source.len || source.at[i + 1] != '\n')
            text[n++] = '\n';
    return (struct slice){text, n > 0 && text[n - 1] == '\n' ? n - 1 : n};
}

void jinja_lex(struct jinja_parser *p, struct slice source)
{
    struct slice text = plain_newlines(p->t, source);
    struct lexer l = {.p = p, .s = text.at, .n = text.len, .line = 1, .line_starts = 1};
    size_t valid = utf8_valid(text.at, text.len);
    if (valid < text.len) {
        advance(&l, valid);
        jinja_parse_fail(p, l.line, "expected UTF-8, found byte 0x%02x", text.at[valid]);
    }
    while (l.i < l.n)
        lex_next(&l);
    add_token(&l, T_END, (struct slice){0});
}
