/* metrics.h - counts of requests, as Prometheus reads them. */
#ifndef ASSAY_HTTP_METRICS_H
#define ASSAY_HTTP_METRICS_H

#include "broker/http/link.h"

struct metrics;

struct metrics *metrics_new(void);
void metrics_free(struct metrics **metrics);

/* A request is over. endpoint: a route's index, metrics_other for a path that is none. */
void metrics_note(struct metrics *m, int endpoint, unsigned status, long long us);
/* A request's rows went to the broker, so long after they were there. */
void metrics_note_queue(struct metrics *m, long long us);

/* The page; card: NULL while the broker does not answer. The caller frees it. */
char *metrics_page(struct metrics *m, struct link *link, const struct card *card);
long long metrics_own_memory(void); /* resident bytes of this process */

#endif
