/* beginning.h - the intact start of a line that is not JSON, so that its error can carry its id. */
#ifndef ASSAY_BEGINNING_H
#define ASSAY_BEGINNING_H

#include <stddef.h>

#include "broker/text/buffer.h"

#define BEGINNING_BYTES 65536 /* nothing is searched beyond this */

/* Appends to `out`, as an object, the members of the line's object that end before `fault`. Appends
 * nothing when there are none, or when a key for which is_id is true may stand in the rest of the
 * line, which would leave the id ambiguous. Accepts any bytes. */
void beginning_of(const char *text, size_t len, size_t fault,
    int (*is_id)(const char *key, size_t len), struct buffer *out);

#endif
