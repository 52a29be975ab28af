/* call.h - requests to the broker, one after the other, for the thread that works on batches: over
 * a socket of its own, so that they never wait behind clients' rows. */
#ifndef ASSAY_HTTP_CALL_H
#define ASSAY_HTTP_CALL_H

#include "schema/msg.h"

struct call;

int call_new(struct call **call, const char *endpoint, struct err *e);
void call_free(struct call **call);
/* From any thread: what waits for a reply ends as ASSAY_ENOTREADY, and what comes later. */
void call_stop(struct call *call);

/* How long a reply is waited for; 30 s without it. */
void call_patience(struct call *call, long ms);
/* Begins a request with n_fields beside v, op and id; the caller writes them. */
struct msg_writer *call_begin(struct call *call, const char *op, uint32_t n_fields);
/* Sends it and waits. Returns 0 and the reply's bytes, which are there until the next call; the
 * code of a refusal; ASSAY_ENOTREADY when no reply comes. */
int call_send(struct call *call, struct slice *reply, struct err *e);

#endif
