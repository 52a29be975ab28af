/* split.h - cuts text into words before the merges, with handwritten scanners for the split
 * patterns.
 *
 * A pattern is recognised by its exact text and never run as a regular expression. Both known
 * patterns are this one, up to the length of a run of digits (1, 3):
 *     (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,digits}|
 *     ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+
 * Alternatives are tried in this order at each place; together they match any text completely. */
#ifndef ASSAY_SPLIT_H
#define ASSAY_SPLIT_H

#include <stddef.h>
#include <stdint.h>

/* Returns the digits of a known pattern, 0 if it is unknown. */
int split_pattern_digits(const char *pattern);

/* Returns the length in bytes of the word at text[0]; len >= 1, valid UTF-8. */
size_t split_word(const uint8_t *classes, int digits, const uint8_t *text, size_t len);

#endif
