/* retain.h - purges jobs that have been over for long enough, about once a second. */
#ifndef ASSAY_RETAIN_H
#define ASSAY_RETAIN_H

#include "broker/broker.h"

/* Purges some of those that are due: jobs that have been over for --retain, and ephemeral ones that
 * have been so and over for --retain-ephemeral. A job that a request waits for stays, and one whose
 * results are being read. Returns when to call again (monotonic ms). */
long long retain_tick(struct broker *b, long long now_ms);
/* A page of the job's results leaves: the next one is likely to be asked for in some seconds, or
 * `done`: none will. */
void retain_note_page(struct broker *b, int64_t job, int done, long long now_ms);

#endif
