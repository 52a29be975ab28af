/* outcomes.h - writes what comes back from the groups to the store.
 *
 * Each function that returns int with *e: 0, or negative when the database has failed. A full disk
 * or a locked database is no failure: the outcomes are held and written later. */
#ifndef ASSAY_OUTCOMES_H
#define ASSAY_OUTCOMES_H

#include "broker/broker.h"

/* Takes the groups' outcomes and writes them, synced. Values that are NaN or infinite become
 * errors; lost batches are planned again. */
int outcomes_take(struct broker *b, struct err *e);
/* Writes results that need no computing: of rows equal to others that have one (dedupe.h). */
int outcomes_take_known(struct broker *b, struct err *e);
/* Frees held outcomes when the broker stops. In the database their rows are still queued. */
void outcomes_drop(struct broker *b);
/* Fails the rows of a batch that no group can take, because of `why`. Takes over *batch. 0: written
 * or held. */
int outcomes_refuse(struct broker *b, struct batch **batch, const struct err *why, struct err *e);
/* Why results that are there cannot be written, as of the last try; NULL: none wait for that. */
const char *outcomes_unwritten(const struct broker *b);
/* 1: no new work may start, as the broker stops or earlier outcomes must be written first. */
int outcomes_block(const struct broker *b);

#endif
