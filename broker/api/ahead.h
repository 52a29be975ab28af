/* ahead.h - large messages whose rows are written before they are accepted, bit by bit.
 *
 * Writing the rows of a large chunk in the tick that accepts it would hold the loop for long. So
 * its message waits here, in the order of arrival, and each tick writes some of the first one's
 * rows ahead (store_write_ahead), for a few milliseconds. Once all are written, the next tick
 * handles the message as any other, which then finds little left to do. What may refuse it is asked
 * both before the first row is written and when it is handled.
 *
 * While rows of a job are written, other messages that add rows to it wait here as well.
 *
 * Of a chunk that is to be kept the bytes are written (kept.h). */
#ifndef ASSAY_AHEAD_H
#define ASSAY_AHEAD_H

#include "broker/api/inbox.h"
#include "broker/broker.h"

/* Whether this request, which would add rows under this key, must wait: give its message to
 * ahead_add. */
int ahead_must_wait(const struct broker *b, const struct prepared *p, struct slice key);
/* Takes the message to keep, which stays the first in its line of the inbox. */
void ahead_add(struct broker *b, struct message *m);
/* Gives the first message if its turn has come, else NULL. It is not kept here any more. */
struct message *ahead_next(struct broker *b);
/* Call it once that was handled. */
void ahead_done(struct broker *b);
/* Writes some rows of the first message, in a transaction: 1, or 0 when there was nothing to do. */
int ahead_go_on(struct broker *b);

#endif
