/* results.h - what the broker says of a request's rows, and the error that a failed row is. */
#ifndef ASSAY_ASK_RESULTS_H
#define ASSAY_ASK_RESULTS_H

#include <jansson.h>

#include "schema/msg.h"

/* One row's values: n positions of `width` each. A score is one position of one value; a score of
 * several labels one of several; steps and tokens are as many as were pooled. */
struct row_result {
    float *values; /* [n * width]; NULL in a failed row; of an ensemble the mean */
    float *each;   /* [n_each]; of an ensemble what each model gave, in their order; else NULL */
    uint32_t n_each;
    float mean, std; /* as they were read */
    int has_mean, has_std;
    uint32_t n, width;
    int is_read;  /* a score or steps were there */
    int is_steps; /* a value for each position: not a score */
    int64_t n_tokens;
    int64_t i, id; /* its place in the job, and the number that it was sent with; -1: none */
    int code;      /* 0, or the row's error */
    char *message;
};

void row_result_release(struct row_result *r);

/* Reads the broker's `rows`, exactly n of them. Returns 0, or ASSAY_EBADMSG: then nothing is read
 * that must be released. */
int results_read(struct row_result *out, uint32_t n, struct slice rows, struct err *e);

/* Reads one row that is JSON. Returns 0, or ASSAY_EBADMSG with nothing to release. */
int results_of_json(struct row_result *out, const json_t *row, struct err *e);

/* How many rows there are; 0 where that cannot be read. */
uint32_t results_count(struct slice rows);

/* The error of a reply with ok: false. Returns its code. */
int results_refusal(struct slice reply, struct err *e);

#endif
