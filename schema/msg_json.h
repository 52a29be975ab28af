/* msg_json.h - JSON values in messages. */
#ifndef ASSAY_MSG_JSON_H
#define ASSAY_MSG_JSON_H

#include <jansson.h>

#include "schema/msg.h"

/* Writes any value, an object as it is. Its depth is bounded by the parser that made it. */
void msg_json(struct msg_writer *w, const json_t *value);

/* Reads one value; refuses bin and extension types. Nested deeper than MSG_MAX_DEPTH it is
 * ASSAY_EBADMSG. A float32 becomes its msg_shortest, an integer above INT64_MAX that. Returns 0 and
 * *value, which the caller releases, or a negative code. */
int msg_read_json(struct msg_reader *r, json_t **value, struct err *e);

/* Returns the double with the shortest decimal form, of 6 to 9 digits, that reads back as the same
 * float32. */
double msg_shortest(float value);

#endif
