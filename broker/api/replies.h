/* replies.h - replies that only read the store. */
#ifndef ASSAY_REPLIES_H
#define ASSAY_REPLIES_H

#include "broker/broker.h"

#define REPLY_DEFAULT_LIMIT 1000 /* of jobs or results, where a request has none */

void reply_hello(struct broker *b, const struct envelope *env, const struct request *q);
void reply_info(struct broker *b, const struct envelope *env, const struct request *q);
int reply_status(struct broker *b, const struct envelope *env, const struct request *q, int64_t job,
    struct err *e);
int reply_jobs(
    struct broker *b, const struct envelope *env, const struct request *q, struct err *e);
void reply_write_labels(struct msg_writer *w, const struct model_info *m); /* nil: it has none */
const char *job_state_name(enum job_state state);

/* ---- reply_looks.c: some milliseconds each, or the page is shorter ---- */

int reply_throughput(
    struct broker *b, const struct envelope *env, const struct request *q, struct err *e);
int reply_failed(struct broker *b, const struct envelope *env, const struct request *q, int64_t job,
    struct err *e);
int reply_sample(struct broker *b, const struct envelope *env, const struct request *q,
    const struct store_job *j, struct err *e);

/* ---- reply_results.c: replies with results, made in parts ---- */

/* The model that has this mode; NULL: it is not served. */
const struct model_info *reply_model_of(const struct broker *b, int64_t mode);

/* A reply that takes longer than a call may. One thread; free it unless it is NULL. */
struct reply_part;
enum { REPLY_MORE = 2 };

void reply_part_free(struct reply_part **part);
/* Writes one page, of the default size if its limit is 0. Returns 1 when it was written, and *part
 * is NULL; REPLY_MORE when some milliseconds were not enough: call again with the same page and
 * *part (at first NULL); or 0 with nothing written when there is no row, more may come and `wait`
 * is set. What changes between two calls counts as between two pages. */
int reply_results(struct broker *b, const struct envelope *env, struct slice id,
    struct store_page page, int wait, struct reply_part **part, struct err *e);
/* Writes the page without rows of a job that goes on. */
void reply_no_results(
    struct broker *b, const struct envelope *env, struct slice id, uint64_t after);
/* Writes all rows of a job that is over, in order: 1, or REPLY_MORE as above; too_large when they
 * do not fit into one message. When rows change between two calls, begin anew. */
int reply_score(struct broker *b, const struct envelope *env, struct slice id, int64_t job,
    struct reply_part **part, struct err *e);

#endif
