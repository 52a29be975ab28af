/* outcomes.h - what comes back from the groups, into the store. */
#ifndef ASSAY_OUTCOMES_H
#define ASSAY_OUTCOMES_H

#include "broker/broker.h"

/* Outcomes of batches into the store, synced: values checked for NaN and infinity, lost batches planned again. */
int outcomes_take(struct broker *b, struct err *e);
/* Results of rows that are the same as others, of which results are known. */
int outcomes_take_known(struct broker *b, struct err *e);
/* Outcomes that are held when the broker stops: their rows are queued, as the database has them. */
void outcomes_drop(struct broker *b);
/* A batch that no group can take, and why: its rows fail. 0 when that is written or held; the batch is taken over. */
int outcomes_refuse(struct broker *b, struct batch **batch, const struct err *why, struct err *e);
/* Nothing new is to begin: the broker stops, or what came back must be written first. */
int outcomes_block(const struct broker *b);

#endif
