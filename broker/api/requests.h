/* requests.h - handles one message from a client. */
#ifndef ASSAY_REQUESTS_H
#define ASSAY_REQUESTS_H

#include "broker/api/inbox.h"
#include "broker/broker.h"

#define REQUEST_AGAIN 1
#define REQUEST_LATER 2

/* Puts the reply to a prepared message into the outbox and the job it wrote to into `touched`.
 * Returns 0; or REQUEST_AGAIN before anything was written: chunks that the message lets go on,
 * added to it, must be prepared first; or REQUEST_LATER, likewise: give it to ahead_add; or ASSAY_EFULL, ASSAY_ELOCKED or ASSAY_EIO when the database
 * failed: then nothing of this tick's requests may be kept. */
int request_handle(struct broker *b, struct message *m, struct err *e);

#endif
