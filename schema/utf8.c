/* utf8.c - see utf8.h. */
#include "schema/utf8.h"

#include <string.h>

int utf8_length(const uint8_t *p, size_t n)
{
    static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    int len = p[0] < 0x80 ? 1 : p[0] >> 5 == 6 ? 2 : p[0] >> 4 == 14 ? 3 : p[0] >> 3 == 30 ? 4 : 0;
    if (len <= 1)
        return len;
    if ((size_t)len > n)
        return 0;
    uint32_t code = p[0] & (0x7f >> len);
    for (int i = 1; i < len; i++) {
        if (p[i] >> 6 != 2)
            return 0;
        code = code << 6 | (p[i] & 0x3f);
    }
    return code < least[len] || code > 0x10ffff || (code >= 0xd800 && code < 0xe000) ? 0 : len;
}

size_t utf8_valid(const uint8_t *p, size_t n)
{
    size_t i = 0;
    while (i < n) {
        int len = p[i] < 0x80 ? 1 : utf8_length(p + i, n - i);
        if (len == 0)
            break;
        i += (size_t)len;
    }
    return i;
}

int utf8_is_control(const uint8_t *p, int len)
{
    static const uint16_t ranges[][2] = {{0, 0x1f}, {0x7f, 0x9f}, {0x61c, 0x61c}, {0x200e, 0x200f},
        {0x2028, 0x202e}, {0x2066, 0x2069}};
    uint32_t code = len == 1 ? p[0] : p[0] & (0x7fu >> len);
    for (int i = 1; i < len; i++)
        code = code << 6 | (p[i] & 0x3f);
    for (size_t k = 0; k < sizeof ranges / sizeof ranges[0]; k++)
        if (code >= ranges[k][0] && code <= ranges[k][1])
            return 1;
    return 0;
}

void utf8_make_printable(char *s)
{
    char *to = s;
    for (size_t left = strlen(s); left > 0;) {
        int len = utf8_length((const uint8_t *)s, left);
        int shown = len > 0 && !utf8_is_control((const uint8_t *)s, len);
        len = len > 0 ? len : 1;
        if (shown)
            memmove(to, s, (size_t)len);
        else
            *to = '?';
        to += shown ? len : 1;
        s += len;
        left -= (size_t)len;
    }
    *to = '\0';
}
