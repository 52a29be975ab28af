/* pack.h - JSON to msgpack and back, for what clients send and what the broker says of itself. */
#ifndef ASSAY_HTTP_PACK_H
#define ASSAY_HTTP_PACK_H

#include <jansson.h>

#include "schema/msg.h"

/* Writes any value. Its depth is bounded by who parsed it (body.h). */
void pack_json(struct msg_writer *w, const json_t *value);

/* Reads one value; refuses bin and extension types. Nested deeper than MSG_MAX_DEPTH it is
 * ASSAY_EBADMSG. Returns 0 and *value, which the caller releases, or a negative code. */
int pack_read(struct msg_reader *r, json_t **value, struct err *e);

/* A float32 as the double with the fewest digits that reads back as the same float32. */
json_t *pack_score(float score);

#endif
