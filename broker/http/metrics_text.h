/* metrics_text.h - Prometheus' text format, version 0.0.4: what metrics.c and metrics_broker.c
 * write alike. */
#ifndef ASSAY_HTTP_METRICS_TEXT_H
#define ASSAY_HTTP_METRICS_TEXT_H

#include <stdint.h>
#include <stdio.h>

#include "broker/ask/card.h"

/* HELP and TYPE, once in front of a name's samples. type: counter, gauge or histogram. */
void metrics_put_head(FILE *f, const char *name, const char *type, const char *help);
/* All of a name that has one sample, a whole number. */
void metrics_put_one(FILE *f, const char *name, const char *type, const char *help, int64_t value);
/* NAME="VALUE" with what must be escaped. */
void metrics_put_label(FILE *f, const char *name, const char *value);

/* The samples of a histogram: n[k] up to bounds[k], n[n_bounds] above all. labels: in front of `le`,
 * with a comma behind them; "" for none. */
struct metrics_histogram {
    const double *bounds;
    const uint64_t *n;
    int n_bounds;
    double sum;
};
void metrics_put_histogram(
    FILE *f, const char *name, const char *labels, const struct metrics_histogram *h);

/* metrics_broker.c: what the broker said of itself last; NULL: it does not answer. */
void metrics_put_broker(FILE *f, const struct card *card);

#endif
