/* pack.h - what the broker says of itself, and scores, as JSON. */
#ifndef ASSAY_ASK_PACK_H
#define ASSAY_ASK_PACK_H

#include <jansson.h>

#include "schema/msg.h"

/* Reads one value; refuses bin and extension types. Nested deeper than MSG_MAX_DEPTH it is
 * ASSAY_EBADMSG. Returns 0 and *value, which the caller releases, or a negative code. */
int pack_read(struct msg_reader *r, json_t **value, struct err *e);

/* A float32 as msg_shortest has it. */
json_t *pack_score(float score);

#endif
