/* msg_json.h - JSON values in messages. */
#ifndef ASSAY_MSG_JSON_H
#define ASSAY_MSG_JSON_H

#include <jansson.h>

#include "schema/msg.h"

/* Writes any value, an object as it is. Its depth is bounded by the parser that made it. */
void msg_json(struct msg_writer *w, const json_t *value);

/* Returns the double with the shortest decimal form, of 6 to 9 digits, that reads back as the same
 * float32. */
double msg_shortest(float value);

#endif
