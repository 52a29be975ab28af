/* loop.h - the event loop: handles workers, clients and the clock (broker.h has the order), and
 * measures how long its ticks take. */
#ifndef ASSAY_LOOP_H
#define ASSAY_LOOP_H

#include "broker/broker.h"

/* Runs until a signal stops it. The first signal drains the groups, a second one stops at once. 0,
 * or negative with *e when the broker cannot go on. */
int loop_run(struct broker *b, struct err *e);

#endif
