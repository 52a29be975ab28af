/* split.c - see split.h. Each alternative of the pattern is a function that returns the length of
 * its match, or 0. */
#include "broker/text/split.h"

#include <string.h>

#include "broker/text/unicode.h"

int split_pattern_digits(const char *pattern)
{
    static const char start[] = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}";
    static const char end[] = "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
    if (strncmp(pattern, start, sizeof start - 1) != 0)
        return 0;
    pattern += sizeof start - 1;
    if (strcmp(pattern, end) == 0)
        return 1;
    return strncmp(pattern, "{1,3}", 5) == 0 && strcmp(pattern + 5, end) == 0 ? 3 : 0;
}

struct text {
    const uint8_t *classes, *at;
    size_t len;
};

static int class_at(const struct text *t, size_t i, unsigned *bytes)
{
    return t->classes[unicode_decode(t->at + i, bytes)];
}

static int is_newline(uint8_t c)
{
    return c == '\r' || c == '\n';
}

/* Returns the end of the run from i on whose characters all have one of `classes` (wanted), or all
 * have none of them. */
static size_t run(const struct text *t, size_t i, int classes, int wanted)
{
    unsigned bytes;
    while (i < t->len && !(class_at(t, i, &bytes) & classes) == !wanted)
        i += bytes;
    return i;
}

static uint8_t lower(uint8_t c)
{
    return c >= 'A' && c <= 'Z' ? c | 0x20 : c;
}

/* 's 't 're 've 'm 'll 'd in any case; the long s (U+017F) is a case of s. */
static size_t contraction(const struct text *t)
{
    static const char pairs[][2] = {{'r', 'e'}, {'v', 'e'}, {'l', 'l'}};
    if (t->len < 2 || t->at[0] != '\'')
        return 0;
    uint8_t a = lower(t->at[1]), b = t->len > 2 ? lower(t->at[2]) : 0;
    if (a == 's' || a == 't' || a == 'm' || a == 'd')
        return 2;
    if (t->len > 2 && t->at[1] == 0xc5 && t->at[2] == 0xbf)
        return 3;
    for (size_t i = 0; i < sizeof pairs / sizeof pairs[0]; i++)
        if (a == pairs[i][0] && b == pairs[i][1])
            return 3;
    return 0;
}

/* Letters, after at most one character that is neither newline, letter nor number. */
static size_t letters(const struct text *t, int first, unsigned bytes)
{
    unsigned next;
    if (first & UNICODE_LETTER)
        return run(t, bytes, UNICODE_LETTER, 1);
    if ((first & UNICODE_NUMBER) || is_newline(t->at[0]) || bytes >= t->len ||
        !(class_at(t, bytes, &next) & UNICODE_LETTER))
        return 0;
    return run(t, bytes + next, UNICODE_LETTER, 1);
}

static size_t numbers(const struct text *t, int digits)
{
    unsigned bytes;
    size_t i = 0;
    for (int n = 0; n < digits && i < t->len && (class_at(t, i, &bytes) & UNICODE_NUMBER); n++)
        i += bytes;
    return i;
}

/* Any other visible characters, with a space before and newlines after them. */
static size_t symbols(const struct text *t)
{
    size_t from = t->at[0] == ' ';
    size_t i = run(t, from, UNICODE_SPACE | UNICODE_LETTER | UNICODE_NUMBER, 0);
    if (i == from)
        return 0;
    while (i < t->len && is_newline(t->at[i]))
        i++;
    return i;
}

/* White space up to the run's last newline. A run without newline is taken whole at the end of the
 * text; before a word it leaves its last character to the word. */
static size_t spaces(const struct text *t)
{
    size_t end = run(t, 0, UNICODE_SPACE, 1), last = end;
    for (size_t i = end; i > 0; i--)
        if (is_newline(t->at[i - 1]))
            return i;
    if (end == t->len)
        return end;
    do
        last--;
    while (last > 0 && t->at[last] >> 6 == 2);
    return last > 0 ? last : end;
}

size_t split_word(const uint8_t *classes, int digits, const uint8_t *text, size_t len)
{
    struct text t = {classes, text, len};
    unsigned bytes;
    int first = class_at(&t, 0, &bytes);
    size_t n = contraction(&t);
    if (n == 0)
        n = letters(&t, first, bytes);
    if (n == 0 && (first & UNICODE_NUMBER))
        n = numbers(&t, digits);
    if (n == 0)
        n = symbols(&t);
    return n > 0 ? n : spaces(&t);
}
