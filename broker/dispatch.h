/* dispatch.h - sends batches from the planner to the groups. */
#ifndef ASSAY_DISPATCH_H
#define ASSAY_DISPATCH_H

#include "broker/broker.h"

/* Fills the groups' free slots. 0, or negative: the database failed. */
int dispatch_batches(struct broker *b, struct err *e);

#endif
