/* forgive.h - a line that JSON's reader refuses for the sake of columns that nobody reads.
 *
 * Data sets hold hashes beyond 64 bits, NaN, 1e999, and halves of characters that were cut. Where such a thing
 * stands in a column that the row does not depend on, it is no reason to refuse the row: the line is
 * written anew with a number beyond what can be held as a text of its digits, NaN and the infinities as
 * null, and half a character as U+FFFD. In the columns that are read only NaN, which exporters write for
 * null, and a number too large for an id, so that it can be named, are mended; the rest stays, and stays an error. */
#ifndef ASSAY_FORGIVE_H
#define ASSAY_FORGIVE_H

#include <stddef.h>

#include "broker/text/buffer.h"

/* Appends the line as it should have been to `out`. Any bytes will do; what is no JSON object comes out as
 * it is. is_read: does the row depend on this key? is_id: 0, or a bit that stands for this key of an id. Returns the bits
 * of those whose number is too large: it is a text now, and the caller has to say so. */
int forgive_line(const char *text, size_t len, int (*is_read)(const char *key, size_t len),
    int (*is_id)(const char *key, size_t len), struct buffer *out);
/* Where in the line that is which is at `place` in what was appended. */
size_t forgive_origin(const char *text, size_t len, int (*is_read)(const char *key, size_t len),
    int (*is_id)(const char *key, size_t len), size_t place);

#endif
