/* beginning.h - the intact start of a line that is not JSON, so that its error can carry its id. */
#ifndef ASSAY_BEGINNING_H
#define ASSAY_BEGINNING_H

#include <stddef.h>

#include "broker/cli/input/renames.h"
#include "broker/text/buffer.h"

#define BEGINNING_BYTES 65536 /* nothing is searched beyond this */

/* Appends to `out`, as an object, the members of the line's object that end before `fault`. Appends
 * nothing when there are none, or when an id's key (renames_is_id) may stand in the rest of the
 * line, which would leave the id ambiguous. Accepts any bytes. */
void beginning_of(
    const char *text, size_t len, size_t fault, const struct renames *names, struct buffer *out);

#endif
