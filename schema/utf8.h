/* utf8.h - what counts as UTF-8 here: shortest forms only, no surrogates, nothing past U+10FFFF. */
#ifndef ASSAY_UTF8_H
#define ASSAY_UTF8_H

#include <stddef.h>
#include <stdint.h>

/* Bytes of the character at p, of which n >= 1 bytes can be read: 1 to 4, or 0 when it is none. */
int utf8_length(const uint8_t *p, size_t n);

/* Where in the n bytes the first one stands that is not UTF-8; n when all is. */
size_t utf8_valid(const uint8_t *p, size_t n);

/* Is the character at p, of len bytes (utf8_length), one that a terminal does something with, or that
 * turns what is beside it around? Control characters (C0, DEL, C1), marks of direction, line separators. */
int utf8_is_control(const uint8_t *p, int len);

/* Makes text fit for a terminal, a log line and a msgpack string: each byte that is not UTF-8 (what
 * a peer sent, what a cut left of a character) and each control character (utf8_is_control) becomes '?'. */
void utf8_make_printable(char *s);

#endif
