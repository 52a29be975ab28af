/* progress.h - how jobs get on: rates for the views, events for the PUB socket. */
#ifndef ASSAY_PROGRESS_H
#define ASSAY_PROGRESS_H

#include "broker/broker.h"

struct progress_table *progress_new(void *zmq, const char *endpoint, struct err *e);
void *progress_socket(const struct progress_table *p); /* PUB, borrowed */
void progress_free(struct progress_table **p);
void progress_job_changed(struct broker *b, int64_t job);
/* Publishes what changed, a few times a second at most; returns when it wants to be called again.
 */
long long progress_tick(struct broker *b, long long now_ms);
/* As outbox_send, for events: part of send_replies. */
int progress_send(struct broker *b, uint64_t written, uint64_t synced);

#endif
