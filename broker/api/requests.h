/* requests.h - handles one message from a client. */
#ifndef ASSAY_REQUESTS_H
#define ASSAY_REQUESTS_H

#include "broker/broker.h"

/* Puts the reply into the outbox and the job it wrote to into `touched`. Returns 0, or ASSAY_EFULL,
 * ASSAY_ELOCKED or ASSAY_EIO when the database failed: then nothing of this tick's requests may be
 * kept. */
int request_handle(
    struct broker *b, const struct envelope *env, const uint8_t *bytes, size_t len, struct err *e);

#endif
