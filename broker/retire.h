/* retire.h - the end of a model that another checkpoint has replaced (reload.h). */
#ifndef ASSAY_RETIRE_H
#define ASSAY_RETIRE_H

#include "broker/broker.h"

/* Ends old models that no unfinished job needs any more, step by step. Outside of a transaction.
 * Returns when it is due again. */
long long retire_tick(struct broker *b, long long now_ms);

#endif
