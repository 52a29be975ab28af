/* utf8.h - what counts as UTF-8 here: shortest forms only, no surrogates, nothing past U+10FFFF. */
#ifndef ASSAY_UTF8_H
#define ASSAY_UTF8_H

#include <stddef.h>
#include <stdint.h>

#define UTF8_BOM "\xef\xbb\xbf" /* a byte order mark */

/* Returns the length of the character at p, of which n >= 1 bytes can be read: 1 to 4, or 0 when it
 * is not UTF-8. */
int utf8_length(const uint8_t *p, size_t n);

/* Returns the offset of the first byte that is not UTF-8; n when all is. */
size_t utf8_valid(const uint8_t *p, size_t n);

/* Is the character at p, len bytes long (utf8_length), one that a terminal acts on or that reverses
 * the text around it? Control characters (C0, DEL, C1), marks of direction, line separators. */
int utf8_is_control(const uint8_t *p, int len);

/* Makes text safe for a terminal, a log line and a msgpack string: each byte that is not UTF-8
 * (sent by a peer, or left when a character was cut) and each control character (utf8_is_control)
 * becomes '?'. */
void utf8_make_printable(char *s);

#endif
