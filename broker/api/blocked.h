/* blocked.h - why a job waits: a model that its rows go through has no workers that start. */
#ifndef ASSAY_BLOCKED_H
#define ASSAY_BLOCKED_H

#include "broker/broker.h"

#define BLOCKED_BYTES 600

/* Writes why no group of workers of one of the job's models is ready, where a start of them has
 * failed; with the model's name where the broker serves several. "": each has a ready group, or
 * nothing failed. Returns 0, or negative from the store. */
int blocked_why(struct broker *b, int64_t job, char why[BLOCKED_BYTES], struct err *e);

#endif
