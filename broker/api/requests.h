/* requests.h - handles one message from a client. */
#ifndef ASSAY_REQUESTS_H
#define ASSAY_REQUESTS_H

#include "broker/api/inbox.h"
#include "broker/broker.h"

#define REQUEST_LATER 1
#define REQUEST_KEPT 2
#define REQUEST_AGAIN 3
#define REQUEST_TAKEN 4

/* Puts the reply to a prepared message into the outbox and the job it wrote to into `touched`.
 * Returns 0; or REQUEST_LATER before anything was written: give it to ahead_add; or REQUEST_KEPT:
 * its chunk is accepted, and the reply is to come once chunks are placed: give it to kept_add with
 * m->task.prepared.job; or REQUEST_AGAIN: it has become another message, or its rows are for
 * another model, and it is to be prepared, or it has work for a thread: give it to inbox_again; or
 * REQUEST_TAKEN: it waits where it is; or ASSAY_EFULL, ASSAY_ELOCKED or ASSAY_EIO when the database
 * failed: then
 * nothing of this tick's requests may be kept. */
int request_handle(struct broker *b, struct message *m, struct err *e);
/* Whether the message's rows take long to place, so that their chunk is kept first (kept.h). */
int request_is_slow(const struct prepared *p);
/* 0, or ASSAY_ENOTREADY: the broker is shutting down. */
int request_check_draining(const struct broker *b, struct err *e);
/* The id of the model that the job's rows are for, and what names mean in them; CATALOG_NONE: it is
 * not served. */
uint32_t request_model_of_job(struct broker *b, int64_t job, struct catalog_pins *pins);
/* Says that the job was written to. */
void request_touch(struct broker *b, int64_t job);

#endif
