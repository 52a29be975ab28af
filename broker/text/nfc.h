/* nfc.h - Unicode normalization form C, as the tokenizer's reference does it.
 *
 * Nearly all text is in that form already and is passed over at the speed of a table lookup. Only a
 * stretch that may change (a head and the tails behind it, unicode.h) is decomposed and composed,
 * by utf8proc. What the reference does not know as combining never gets there, so a newer utf8proc
 * gives the reference's result. Linear but for the sorting of long runs of marks, O(n log n). */
#ifndef ASSAY_NFC_H
#define ASSAY_NFC_H

#include "broker/text/buffer.h"

/* Appends the normalized form of text (valid UTF-8) to out. `classes` as made by unicode_classes.
 */
void nfc_append(struct buffer *out, const uint8_t *classes, const uint8_t *text, size_t len);

#endif
