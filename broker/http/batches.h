/* batches.h - OpenAI's batches: a file of requests, worked on by a thread while nobody waits.
 *
 * A batch is one job of the broker, which has its rows durably; the folder has the batch's record.
 * Each row's id is the number of its line. What is lost with this process is only what can be had
 * again: the lines are sent from the first chunk that was not known to be taken, under the same key
 * and number, and the results are read from the first one.
 *
 *     validating    every line is read: form, custom_id, url, one model
 *     in_progress   lines become rows, and results become lines of the output
 *     finalizing    both files are written; then completed
 *     failed        the input cannot be taken, or the broker does not take it
 *     cancelling    the job is cancelled; then cancelled, as expired after the completion window,
 *                   with what was answered until then
 *
 * All may be called from any thread. */
#ifndef ASSAY_HTTP_BATCHES_H
#define ASSAY_HTTP_BATCHES_H

#include "broker/http/files.h"
#include "broker/http/link.h"

#define BATCHES_MOST 10000     /* records */
#define BATCHES_ACTIVE 1000    /* that are not over */
#define BATCHES_AT_ONCE 16     /* that are worked on; those that are held do not count */
#define BATCHES_KEPT_S 2592000 /* a record goes so long after the batch was over */

struct batches;

struct batches_options {
    struct folder *folder;
    struct files *files;
    struct link *link;
    const char *endpoint;  /* the broker */
    size_t max_line_bytes; /* of the input */
};

/* Reads the records, and starts the thread. What the options name is borrowed. */
int batches_new(struct batches **batches, const struct batches_options *options, struct err *e);
void batches_stop(struct batches *batches);
void batches_free(struct batches **batches);

/* Each returns an object that the caller releases, or NULL with *e: ASSAY_EBADREQ with the field,
 * ASSAY_EGONE (also for a batch or file that the asker does not see: asker.h), ASSAY_ESTATE, ASSAY_ETOOLARGE, ASSAY_EFULL. */
json_t *batches_create(
    struct batches *batches, const struct asker *asker, const json_t *body, struct err *e);
json_t *batches_get(
    struct batches *batches, const struct asker *asker, const char *id, struct err *e);
json_t *batches_cancel(
    struct batches *batches, const struct asker *asker, const char *id, struct err *e);
/* Those that page->asker sees. */
json_t *batches_list(struct batches *batches, const struct page_of *page, struct err *e);

#endif
