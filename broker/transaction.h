/* transaction.h - the one open transaction: begin, commit, and what to do when the database cannot write. */
#ifndef ASSAY_TRANSACTION_H
#define ASSAY_TRANSACTION_H

#include "broker/broker.h"

int transaction_begin(struct broker *b, struct err *e); /* opens a transaction if none is open */
/* A transaction that is on the disk when its commit returns, and nobody sees it before; what was open is
 * committed. */
int transaction_begin_synced(struct broker *b, struct err *e);
/* Commits what is open, if anything. When that fails nothing of it was kept (store_may_pass), or nobody
 * knows (the broker must exit). */
int transaction_commit(struct broker *b, struct err *e);
void transaction_rollback(struct broker *b);
/* Writing something that is only for show failed: goes on without it where the disk is full or the
 * database locked, dies of anything else. */
void transaction_forgo(struct broker *b, const struct err *e);
/* Nothing is written for now: says so, once; dies of anything that does not pass. */
void transaction_cannot_write(struct broker *b, const struct err *e);

/* The database failed for good: who waits hears so (broker.h, at_end), then the process ends, with the error in its
 * log and in its exit code. */
_Noreturn void transaction_die(struct broker *b, const struct err *e);

#endif
