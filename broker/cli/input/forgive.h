/* forgive.h - rewrites a line that the JSON reader refuses because of columns that nobody reads.
 *
 * Data sets hold hashes beyond 64 bits, NaN, 1e999, and halves of surrogate pairs. In a column that
 * the row does not depend on, that is no reason to refuse the row: a number out of range becomes a
 * string of its digits, NaN and the infinities become null, and half a pair becomes U+FFFD. In
 * columns that are read, only two things are rewritten: NaN, which exporters write for null, and an
 * id that is too large a number, so that the error can name it. Anything else stays an error. */
#ifndef ASSAY_FORGIVE_H
#define ASSAY_FORGIVE_H

#include <stddef.h>

#include "broker/cli/input/renames.h"
#include "broker/text/buffer.h"

/* Appends the repaired line to `out`. Accepts any bytes; what is not a JSON object is copied as it
 * is. Returns the bits of the id keys (renames_is_id) whose number was too large and is now a string;
 * the caller must report those. */
int forgive_line(const char *text, size_t len, const struct renames *names, struct buffer *out);
/* Returns the position in the line that corresponds to `place` in the appended text. */
size_t forgive_origin(const char *text, size_t len, const struct renames *names, size_t place);

#endif
