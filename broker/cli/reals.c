/* reals.c - see reals.h. */
#include "broker/cli/reals.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "schema/json.h"

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

void reals_shorten(char *json)
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
