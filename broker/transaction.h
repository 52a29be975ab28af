/* transaction.h - begins and commits the broker's one open transaction, and handles a database that
 * cannot write. */
#ifndef ASSAY_TRANSACTION_H
#define ASSAY_TRANSACTION_H

#include "broker/broker.h"

int transaction_begin(struct broker *b, struct err *e); /* opens a transaction if none is open */
/* Opens a transaction that is on disk when its commit returns; no reader sees it before. Commits an
 * open transaction first. */
int transaction_begin_synced(struct broker *b, struct err *e);
/* Commits the open transaction, if any. If it fails with store_may_pass, nothing was kept; with any
 * other error the outcome is unknown, and the broker must exit. */
int transaction_commit(struct broker *b, struct err *e);
void transaction_rollback(struct broker *b);
/* Gives up the open transaction after a write for display failed. Goes on if the disk is full or
 * the database locked; any other error ends the broker. */
void transaction_forgo(struct broker *b, const struct err *e);
/* Makes the error that a transaction failed with, store_may_pass, the one that a client gets. */
void transaction_refuse(struct err *e);
/* Logs, once, that the database cannot be written for now. Ends the broker if the error cannot
 * pass. */
void transaction_cannot_write(struct broker *b, const struct err *e);

/* Ends the broker because the database failed for good: clients that wait get the error first
 * (broker.h, at_end), then it goes to the log and decides the exit code. */
_Noreturn void transaction_die(struct broker *b, const struct err *e);

#endif
