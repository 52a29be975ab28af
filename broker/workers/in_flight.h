/* in_flight.h - a group's batches: which ranks are done with which, and which pipeline stage may
 * run which next. */
#ifndef ASSAY_IN_FLIGHT_H
#define ASSAY_IN_FLIGHT_H

#include "broker/batch.h"
#include "schema/control.h"
#include "schema/err.h"
#include "shm/stage.h"

/* A batch that was handed over, and what its ranks have reported. */
struct in_flight_batch {
    struct batch *batch;
    struct stage_token token;
    uint32_t done; /* a bit for each rank */
    uint32_t sent; /* pipeline stages that were told to run it */
    uint32_t ms;   /* time to compute it, in all stages that are done with it */
    uint64_t digest;
};

struct in_flight {
    uint32_t tp, pp; /* ranks of a pipeline stage, and stages */
    uint32_t n;
    struct in_flight_batch at[STAGE_MAX_SLOTS]; /* [n] in order of hand-over */
};

struct in_flight_batch *in_flight_find(struct in_flight *f, const struct stage_token *token);
void in_flight_remove(struct in_flight *f, struct in_flight_batch *b);

/* The batch that this rank is running, by its place in `at`; n: none. Rank -1, unknown: the oldest,
 * which is the one that the others wait for. */
uint32_t in_flight_running(const struct in_flight *f, int rank);

/* Whether the batch's next stage, number b->sent, may run it: the stage before is done with it, and
 * there is room for what it gives the stage after. */
int in_flight_may_go_on(const struct in_flight *f, const struct in_flight_batch *b);

/* Takes a rank's CONTROL_DONE of the batch: 1: all ranks are done; 0; or ASSAY_EFORMAT: it was not
 * given the batch, or has other scores than the rest of the last stage. */
int in_flight_done(
    const struct in_flight *f, struct in_flight_batch *b, const struct control *c, struct err *e);

#endif
