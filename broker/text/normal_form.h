/* normal_form.h - Unicode's normal forms, as the tokenizer's reference does them.
 *
 * Nearly all text is already in NFC and passes at the speed of a table lookup; under the other
 * forms ASCII does. utf8proc decomposes and composes only a stretch that may change (unicode.h).
 * Characters that the reference does not treat as combining or decomposable never reach it, so a
 * newer utf8proc gives the reference's result. Linear, except that sorting long runs of marks is
 * O(n log n). */
#ifndef ASSAY_NORMAL_FORM_H
#define ASSAY_NORMAL_FORM_H

#include "broker/text/buffer.h"

enum normal_form { NORMAL_NFC, NORMAL_NFD, NORMAL_NFKC, NORMAL_NFKD };

/* Appends the normalized form of text (valid UTF-8) to out. `classes` comes from
 * unicode_classes. */
void normal_form_append(struct buffer *out, enum normal_form form, const uint8_t *classes,
    const uint8_t *text, size_t len);

#endif
