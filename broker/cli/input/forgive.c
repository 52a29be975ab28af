/* forgive.c - see forgive.h. The line is walked once, token by token, whether or not it is JSON;
 * text that is not JSON comes out unchanged. */
#include "broker/cli/input/forgive.h"

#include <errno.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "schema/json.h"

struct walk {
    const char *at, *end;
    int depth, key_is_next;
    int ignored; /* the row does not depend on the current member */
    int is_id, large_ids;
    struct buffer *out;
};

static void copy_to(struct walk *w, const char *to)
{
    buffer_append(w->out, w->at, (size_t)(to - w->at));
    w->at = to;
}

/* ---- strings ---- */

static const char *end_of_string(const struct walk *w)
{
    const char *end = json_string_end(w->at, w->end);
    return end ? end : w->end;
}

/* Returns the code of a \uXXXX at p, -1 if there is none. */
static int escaped_unit(const char *p, const char *end)
{
    int code = 0;
    if (end - p < 6 || p[0] != '\\' || p[1] != 'u')
        return -1;
    for (int i = 2; i < 6; i++) {
        const char *digits = "0123456789abcdefABCDEF", *d = strchr(digits, p[i]);
        if (!d || !*d)
            return -1;
        code = code * 16 + (int)(d - digits < 16 ? d - digits : d - digits - 6);
    }
    return code;
}

static int is_high(int unit)
{
    return unit >= 0xd800 && unit <= 0xdbff;
}

static int is_low(int unit)
{
    return unit >= 0xdc00 && unit <= 0xdfff;
}

/* Copies a string up to `to`, and replaces unpaired surrogates. */
static void mend_string(struct walk *w, const char *to)
{
    while (w->at < to) {
        int unit = escaped_unit(w->at, to);
        if (is_high(unit) && is_low(escaped_unit(w->at + 6, to))) {
            copy_to(w, w->at + 12);
        } else if (is_high(unit) || is_low(unit)) {
            buffer_text(w->out, "\\ufffd");
            w->at += 6;
        } else {
            copy_to(w, w->at + (*w->at == '\\' && w->at + 1 < to ? 2 : 1));
        }
    }
}

/* ---- numbers and words ---- */

static int is_word(char c)
{
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '-' ||
           c == '+' || c == '.';
}

/* Is it a number that the JSON reader cannot hold? */
static int is_too_large(const char *text, size_t len)
{
    char number[512], *rest;
    if (*text != '-' && (*text < '0' || *text > '9'))
        return 0;
    for (size_t i = 0; i < len; i++)
        if (!strchr("-+.0123456789eE", text[i]))
            return 0;
    if (len >= sizeof number)
        return 1;
    memcpy(number, text, len);
    number[len] = '\0';
    errno = 0;
    if (strpbrk(number, ".eE"))
        return isinf(strtod(number, &rest)) && *rest == '\0';
    return strtoll(number, &rest, 10) != 0 && errno == ERANGE && *rest == '\0';
}

static int is(const char *text, size_t len, const char *word)
{
    return strlen(word) == len && memcmp(text, word, len) == 0;
}

static void walk_word(struct walk *w)
{
    const char *from = w->at, *to = from;
    while (to < w->end && is_word(*to))
        to++;
    size_t len = (size_t)(to - from);
    int infinite = is(from, len, "Infinity") || is(from, len, "-Infinity");
    int integer = !memchr(from, '.', len) && !memchr(from, 'e', len) && !memchr(from, 'E', len);
    if ((is(from, len, "NaN") && (w->ignored || w->depth == 1)) || (infinite && w->ignored)) {
        buffer_text(w->out, "null");
        w->at = to;
    } else if ((w->ignored || (w->is_id && w->depth == 1 && integer)) && is_too_large(from, len)) {
        w->large_ids |= w->ignored ? 0 : w->is_id;
        buffer_text(w->out, "\"");
        copy_to(w, to);
        buffer_text(w->out, "\"");
    } else {
        copy_to(w, to);
    }
}

/* ---- the line ---- */

static void walk_mark(struct walk *w)
{
    char c = *w->at;
    w->depth += (c == '{' || c == '[') - (c == '}' || c == ']');
    if (w->depth == 1 && (c == '{' || c == ','))
        w->key_is_next = 1;
    copy_to(w, w->at + 1);
}

/* A key with escapes may be any key, so it counts as read. */
static void walk_key(struct walk *w, const char *to, const struct renames *names)
{
    size_t len = (size_t)(to - w->at) > 2 ? (size_t)(to - w->at) - 2 : 0;
    w->ignored = !memchr(w->at, '\\', len + 1) && !renames_is_read(names, w->at + 1, len);
    w->is_id = renames_is_id(names, w->at + 1, len);
    w->key_is_next = 0;
    copy_to(w, to);
}

/* Walks to the end of the line, or until `out` has `most` bytes. */
static void walk(struct walk *w, size_t most, const struct renames *names)
{
    while (w->at < w->end && w->out->len < most) {
        const char *to = *w->at == '"' ? end_of_string(w) : NULL;
        if (to && w->key_is_next)
            walk_key(w, to, names);
        else if (to && w->ignored)
            mend_string(w, to);
        else if (to)
            copy_to(w, to);
        else if (is_word(*w->at))
            walk_word(w);
        else
            walk_mark(w);
    }
}

int forgive_line(const char *text, size_t len, const struct renames *names, struct buffer *out)
{
    struct walk w = {.at = text, .end = text + len, .out = out};
    walk(&w, SIZE_MAX, names);
    return w.large_ids;
}

size_t forgive_origin(const char *text, size_t len, const struct renames *names, size_t place)
{
    struct buffer out = {0};
    struct walk w = {.at = text, .end = text + len, .out = &out};
    walk(&w, place, names);
    size_t at = (size_t)(w.at - text), beyond = out.len > place ? out.len - place : 0;
    buffer_release(&out);
    return beyond < at ? at - beyond : 0;
}
