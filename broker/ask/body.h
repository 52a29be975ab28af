/* body.h - a request's body: JSON text from outside, bounded in depth and number of values before
 * it is parsed, since a parsed value takes some thirty times the bytes of its text. */
#ifndef ASSAY_ASK_BODY_H
#define ASSAY_ASK_BODY_H

#include <jansson.h>
#include <stddef.h>

#include "schema/err.h"

#define BODY_MAX_DEPTH 16
#define BODY_MAX_VALUES (4u << 20)

/* Parses an object. Refused: what is not JSON or not UTF-8, a key that comes twice, deeper nesting,
 * more values, any other value than an object, bytes behind it. Returns 0 and *body, which the
 * caller releases, or ASSAY_EBADREQ (ASSAY_ETOOLARGE for too many values). */
int body_parse(const char *text, size_t len, json_t **body, struct err *e);

#endif
