/* loop.h - the event loop: passes over what workers, clients and the clock bring (broker.h has the order). */
#ifndef ASSAY_LOOP_H
#define ASSAY_LOOP_H

#include "broker/broker.h"

/* Until stopped by a signal: 0; or negative. */
int loop_run(struct broker *b, struct err *e);

#endif
