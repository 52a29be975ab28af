/* faults.h - errors as HTTP has them, in the form of vLLM and OpenAI: {"error": {message, type,
 * param, code}}. */
#ifndef ASSAY_ASK_FAULTS_H
#define ASSAY_ASK_FAULTS_H

#include <jansson.h>

#include "broker/ask/results.h"
#include "schema/err.h"

/* The status of an error's code. Clients give up on 4xx and try again after 5xx, so what passes
 * with time is 5xx: 503 for what the broker has no room for, is not ready for or is late with. */
int fault_status(int code);
/* Seconds for Retry-After; 0: the header is not sent. */
int fault_retry_s(const struct err *e);
/* The reply's body, which the caller releases; and as text, which the caller frees. */
json_t *fault_object(const struct err *e, int status);
char *fault_body(const struct err *e, int status);

/* The first failed row's error, named as a row: *e and its code, or 0 where none failed. */
int fault_of_rows(const struct row_result *rows, uint32_t n, struct err *e);

#endif
