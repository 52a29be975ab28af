/* planner_private.h - what planner.c and known_rows.c share: the planner, and rows in flight. */
#ifndef ASSAY_PLANNER_PRIVATE_H
#define ASSAY_PLANNER_PRIVATE_H

#include "broker/sched/homes.h"
#include "broker/sched/planner.h"
#include "broker/sched/queues.h"
#include "broker/table.h"

/* What a model has of its own. */
struct planner_lane {
    struct planner_limits limits;
    uint64_t given_out;             /* tokens given out so far, counted up to max_tokens */
    struct batch *suspects, *again; /* lists */
    uint32_t suspects_running;
};

struct planner {
    struct store *store;
    struct planner_lane lanes[STORE_MODELS];
    struct queues queues;
    struct table in_flight; /* by row number; struct row, NULL for a row of one sequence */
    struct dedupe *dedupe;  /* NULL: rows are not compared */
    struct homes *homes;    /* NULL: rows have none */
    struct batch *known;    /* the batch of known rows being filled; NULL: empty */
    uint32_t n_waiting, waiting_tokens; /* duplicates that wait for primaries */
    uint64_t round;                     /* calls of planner_known: each begins at another queue */
    uint64_t clock;                     /* `served` of the last queue chosen */
    int clock_priority;                 /* its priority */
    struct planner_waits waits;
};

/* planner.c */
/* The first row of the choice; NULL: there is none. A row that has got a home since it was read
 * waits for that from now on. */
struct sequence *planner_first(const struct planner *p, struct queue *q, struct choice c);
/* Reads windows until the queue has a row of the choice, or the store has no more, or the queue
 * holds PLANNER_HELD others. */
int planner_fill_window(struct planner *p, struct queue *q, struct choice c, struct err *e);
/* Marks a row in flight: from when its first sequence is given out until its last one is back. */
void planner_mark_in_flight(struct planner *p, const struct sequence *r);
void planner_clear_in_flight(struct planner *p, const struct sequence *r);
/* Puts a row that is in flight into the batches that run again; drops any result that was found for
 * it. */
void planner_run_again(struct planner *p, struct sequence *r);

/* Notes that rows of the queue are given out, and how long the job waited for its first. */
void planner_note_turn(struct planner *p, struct queue *q);

/* known_rows.c */
/* Takes the first rows of the choice that need not be computed. 1: the first one now must be; 0:
 * there is none for now. */
int planner_skip_known(struct planner *p, struct queue *q, struct choice c, struct err *e);
/* Says that a duplicate no longer waits for its primary. */
void planner_stop_waiting(struct planner *p, const struct sequence *r);
/* Ends a row that has come back. Its duplicates share its answer; without an answer, they are
 * computed. */
void planner_end_row(struct planner *p, struct sequence *r, const float *values);

#endif
