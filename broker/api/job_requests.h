/* job_requests.h - the requests that name a job, and `purge`. Each returns as request_handle does. */
#ifndef ASSAY_JOB_REQUESTS_H
#define ASSAY_JOB_REQUESTS_H

#include "broker/api/inbox.h"
#include "broker/broker.h"

/* `status`, `results`, `cancel`, `pause`, `resume`. */
int job_request(
    struct broker *b, const struct envelope *env, const struct request *q, struct err *e);
/* REQUEST_AGAIN: it goes on in a later tick, with what m->retried has. */
int job_request_retry(struct broker *b, struct message *m, struct err *e);
int job_request_purge(
    struct broker *b, const struct envelope *env, const struct request *q, struct err *e);

#endif
