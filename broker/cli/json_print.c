/* json_print.c - escapes what a terminal would act on, and shortens reals to what reads back the
 * same (json_print.h). */
#include "broker/cli/json_print.h"

#include <stdlib.h>
#include <string.h>

#include "schema/json.h"
#include "schema/utf8.h"

/* ---- characters ---- */

/* Writes the character at p as an escape. All characters that count as control are in the basic
 * plane. */
static void put_escaped(FILE *f, const uint8_t *p, int len)
{
    unsigned code = len == 1 ? p[0] : p[0] & (0x7fu >> len);
    for (int i = 1; i < len; i++)
        code = code << 6 | (p[i] & 0x3fu);
    fprintf(f, "\\u%04x", code);
}

/* Writes JSON text, with escapes for characters that a terminal would act on. */
static void print_quietly(FILE *f, const char *text, size_t left)
{
    const uint8_t *from = (const uint8_t *)text, *at = from;
    while (left > 0) {
        int len = *at < 0x7f ? 1 : utf8_length(at, left);
        len = len > 0 ? len : 1;
        if (*at >= 0x7f && utf8_is_control(at, len)) { /* jansson escapes those below */
            fwrite(from, 1, (size_t)(at - from), f);
            put_escaped(f, at, len);
            from = at + len;
        }
        at += len;
        left -= (size_t)len;
    }
    fwrite(from, 1, (size_t)(at - from), f);
}

/* ---- real numbers ---- */

#define ALL_DIGITS 17

/* Writes the shortest form of v, with ".0" if nothing else shows that it is a real number. */
static void write_shortest(double v, char *out, size_t size)
{
    int digits = 1, exponent;
    do
        snprintf(out, size, "%.*e", digits - 1, v);
    while (strtod(out, NULL) != v && digits++ < ALL_DIGITS);
    exponent = atoi(strchr(out, 'e') + 1);
    if (exponent >= digits && exponent < ALL_DIGITS) /* 100000.0 rather than 1e+05 */
        digits = exponent + 1;
    snprintf(out, size, "%.*g", digits, v);
    if (!strpbrk(out, ".e"))
        strcat(out, ".0");
}

static int is_number(char c)
{
    return c != '\0' && strchr("0123456789+-.eE", c) != NULL;
}

/* Copies a number to `to`, which is at or before `from`, and shortens it. Returns the bytes
 * written. */
static size_t copy_number(char *to, const char *from, size_t len)
{
    char number[64], shortest[64];
    snprintf(number, sizeof number, "%.*s", (int)len, from);
    if (len < sizeof number && strpbrk(number, ".eE"))
        write_shortest(strtod(number, NULL), shortest, sizeof shortest);
    else
        shortest[0] = '\0';
    size_t n = strlen(shortest);
    if (n == 0 || n > len) {
        memmove(to, from, len);
        return len;
    }
    memcpy(to, shortest, n);
    return n;
}

/* Replaces each real number in JSON, which was printed with 17 digits, by the shortest form that
 * reads back as the same double. Works in place. */
static void shorten_reals(char *json)
{
    char *to = json;
    for (const char *at = json, *end = json + strlen(json), *stop; at < end; at = stop) {
        stop = *at == '"' ? json_string_end(at, end) : at + 1;
        size_t n = (size_t)(stop - at);
        if (strchr("-0123456789", *at)) {
            while (is_number(*stop))
                stop++;
            n = copy_number(to, at, (size_t)(stop - at));
        } else {
            memmove(to, at, n);
        }
        to += n;
    }
    *to = '\0';
}

/* ---- values ---- */

int json_print(FILE *f, const json_t *value, size_t flags)
{
    char *text = json_dumps(value, flags | JSON_REAL_PRECISION(9) | JSON_ENCODE_ANY);
    if (!text)
        return -1;
    print_quietly(f, text, strlen(text));
    free(text);
    return ferror(f) ? -1 : 0;
}

static int end_line(FILE *f, int rc, struct err *e)
{
    if (rc != 0 || fputc('\n', f) == EOF)
        return err_errno(e, ASSAY_EIO, "cannot write the output");
    return 0;
}

int json_print_line(FILE *f, const json_t *value, struct err *e)
{
    return end_line(f, json_print(f, value, JSON_COMPACT), e);
}

int json_print_with_input(FILE *f, const json_t *value, const json_t *input, struct err *e)
{
    char *line = json_dumps(value, JSON_COMPACT | JSON_REAL_PRECISION(9));
    char *text = json_dumps(input, JSON_COMPACT | JSON_REAL_PRECISION(17));
    int rc = line && text ? 0 : -1;
    if (rc == 0) {
        shorten_reals(text);
        print_quietly(f, line, strlen(line) - 1); /* without its last bracket */
        fputs(",\"input\":", f);
        print_quietly(f, text, strlen(text));
        rc = fputc('}', f) == EOF ? -1 : 0;
    }
    free(line);
    free(text);
    return end_line(f, rc, e);
}
