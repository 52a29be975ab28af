/* verify_report.h - what `assay verify` prints of the rows that it scored again. */
#ifndef ASSAY_VERIFY_REPORT_H
#define ASSAY_VERIFY_REPORT_H

#include <jansson.h>
#include <stdint.h>

#include "broker/cli/cli.h"

/* A row that is checked. */
struct verify_check {
    uint32_t i;
    json_t *id;
    float *stored, *now; /* [n_values] */
    uint32_t n_values, n_now;
    json_t *error;     /* the row's error if it failed this time; NULL: none */
    int is_other_mode; /* scored under another checkpoint or mode */
};

struct verify_result {
    int64_t job;
    const char *key;
    const struct verify_check *checks; /* [n_compared] */
    size_t n_compared;
};

/* Prints the rows that differ, and how many are equal. Returns the exit code. */
int verify_report(const struct cli *c, const struct verify_result *v);

#endif
