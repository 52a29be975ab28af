/* progress.h - jobs' progress: rates for the views, events for the PUB socket. */
#ifndef ASSAY_PROGRESS_H
#define ASSAY_PROGRESS_H

#include "broker/broker.h"

struct progress_table *progress_new(void *zmq, const char *endpoint, struct err *e);
void *progress_socket(const struct progress_table *p); /* PUB, borrowed */
void progress_free(struct progress_table **p);
void progress_job_changed(struct broker *b, int64_t job);
/* Publishes changes, at most a few times a second. Returns when to call it again (monotonic ms). */
long long progress_tick(struct broker *b, long long now_ms);
/* outbox_send for events; send_replies calls it. */
int progress_send(struct broker *b, uint64_t written, uint64_t synced);

#endif
