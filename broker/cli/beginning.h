/* beginning.h - what stands whole at the beginning of a line that is no JSON, so that its error can have its id. */
#ifndef ASSAY_BEGINNING_H
#define ASSAY_BEGINNING_H

#include <stddef.h>

#include "broker/text/buffer.h"

#define BEGINNING_BYTES 65536 /* further on nothing is looked for */

/* The members of the line's object that are over before `fault`, as an object of their own, appended to `out`; nothing where
 * there are none. Empty as well when a key for which is_id is true may stand in the rest of the line, so that it is not
 * certain which is meant. Any bytes will do. */
void beginning_of(const char *text, size_t len, size_t fault,
    int (*is_id)(const char *key, size_t len), struct buffer *out);

#endif
