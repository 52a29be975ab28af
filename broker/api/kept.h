/* kept.h - places the rows of chunks that are kept, bit by bit.
 *
 * A chunk that came past a gap is kept (store/pending.c), and so is one that would take long to
 * place: each row that is born failed has a result to be written. Once it is the next of its job,
 * its rows are placed. What is small is placed with the request that closes the gap. For the rest
 * the job waits here, in the order of arrival, and each tick does a part of the first one's next
 * chunk: it reads the bytes, a thread prepares the rows, they are placed in several transactions,
 * the bytes are deleted. Then comes the chunk after it, until the next is missing.
 *
 * The chunk that closed the gap is accepted when all this begins. Its message waits here for its
 * reply until the end, so that the reply has the job as it is then. A broker that ends meanwhile
 * goes on at its next start. */
#ifndef ASSAY_KEPT_H
#define ASSAY_KEPT_H

#include "broker/api/inbox.h"
#include "broker/broker.h"

/* Places what is small. Returns 1 when the job's next chunk is kept still, which is for kept_add; 0
 * when there is none. Call it in a transaction. */
int kept_place_small(struct broker *b, int64_t job, struct err *e);
/* Adds the job. The message, or NULL, stays the first in its line of the inbox until kept_next
 * gives it. */
void kept_add(struct broker *b, int64_t job, struct message *m);
/* The same, if the job's next chunk is kept. */
int kept_look(struct broker *b, int64_t job, struct err *e);
int kept_begin(struct broker *b, struct err *e); /* all jobs, at the start */
/* Gives a message whose chunks are placed, to be handled once more; NULL: none. */
struct message *kept_next(struct broker *b);
/* Call it once that was handled; until then kept_has_come says 1 of it. */
void kept_done(struct broker *b);
int kept_has_come(const struct broker *b, const struct prepared *p);
/* Does a part of the work, in a transaction: 1, or 0 when there was nothing to do. The job may be
 * one of b->touched then. */
int kept_go_on(struct broker *b);
void kept_release(struct broker *b); /* call it once the inbox's threads have ended */

#endif
