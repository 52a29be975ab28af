/* dispatch.h - batches from the planner to the groups. */
#ifndef ASSAY_DISPATCH_H
#define ASSAY_DISPATCH_H

#include "broker/broker.h"

/* Fill the groups' free slots. */
int dispatch_batches(struct broker *b, struct err *e);

#endif
