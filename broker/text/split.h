/* split.h - the patterns that cut text into words before the merges, scanned by hand.
 *
 * Which pattern is recognised by its exact text; no pattern is ever run as one. Both known ones
 * are, up to the length of a run of digits (1, 3):
 *     (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,digits}|
 *     ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+
 * Alternatives are tried in this order at each place; together they match any text whole. */
#ifndef ASSAY_SPLIT_H
#define ASSAY_SPLIT_H

#include <stddef.h>
#include <stdint.h>

/* Digits of the known pattern, or 0 when it is not known. */
int split_pattern_digits(const char *pattern);

/* Length in bytes of the word that begins at text[0]; len >= 1, valid UTF-8. */
size_t split_word(const uint8_t *classes, int digits, const uint8_t *text, size_t len);

#endif
