/* nfc.h - Unicode normalization form C, as the tokenizer's reference does it.
 *
 * Nearly all text is already in that form and passes at the speed of a table lookup. utf8proc
 * decomposes and composes only a stretch that may change (a head and the tails after it,
 * unicode.h). Characters that the reference does not treat as combining never reach it, so a newer
 * utf8proc gives the reference's result. Linear, except that sorting long runs of marks is O(n log
 * n). */
#ifndef ASSAY_NFC_H
#define ASSAY_NFC_H

#include "broker/text/buffer.h"

/* Appends the normalized form of text (valid UTF-8) to out. `classes` comes from
 * unicode_classes. */
void nfc_append(struct buffer *out, const uint8_t *classes, const uint8_t *text, size_t len);

#endif
