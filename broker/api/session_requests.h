/* session_requests.h - the operations on sessions (sessions.h), as requests. */
#ifndef ASSAY_SESSION_REQUESTS_H
#define ASSAY_SESSION_REQUESTS_H

#include "broker/api/inbox.h"
#include "broker/broker.h"

/* Handles open, append, fork and close: 0 with a reply in the outbox, or a code. 1: an append is
 * begun, and its work is for a thread: give it to inbox_again, and then here once more. 2: it waits
 * for another append, and was taken. */
int session_request(struct broker *b, struct message *m, struct err *e);
/* Makes of the message, a score of sessions, a score of their rows as a client would send it, or
 * gives it m->task.work that does so; it is to be prepared anew (inbox_again). 0, or a code and the
 * message is as before. */
int session_request_expand(struct broker *b, struct message *m, struct err *e);

#endif
