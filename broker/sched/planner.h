/* planner.h - decides which rows run next, and in what batch.
 *
 * Each model that is served has a lane, whose number is its place in the store's list. A batch has
 * rows of one lane. A job may have rows of several: its turn is one for all, and what is read of it
 * waits in its lanes.
 *
 * Ready rows are read from the store in windows, per job. Higher priority goes first; among jobs of
 * one priority, the job with the fewest tokens served; within a job, rows go by index. A new job
 * starts at the least of its priority, so it neither starves nor claims the past. A batch is filled
 * up to a token budget, without padding. A row longer than the budget is a batch of its own.
 *
 * Rows that share first tokens with their prefix owner are computed from there on (batch.c). Both
 * the budget and the job's share count only computed tokens. Rows that share with the row before
 * them follow it before another job has its turn. They may exceed the budget, within the slot, up
 * to PLANNER_SHARED_TIMES the tokens that they share: shared tokens are best computed few times,
 * but beyond that they are a small part of the batch, and other jobs wait for it.
 *
 * The first batches are small, so that a slow model soon has results to show: first_tokens, then as
 * many tokens as went out so far, up to the budget.
 *
 * When a group dies, batches that it had not begun come back whole. The one that was running comes
 * back as suspect: it is split in halves that run alone, and so on down to the row that kills a
 * group by itself. After PLANNER_ATTEMPTS such deaths that row fails (worker_killed). Rows in
 * flight are noted in memory only: a row is given out once until it is finished or returned. Rows
 * that came back are dropped if their job was cancelled meanwhile.
 *
 * A row equal to an earlier one needs no place in a batch: it waits for its primary, or takes the
 * result or error that is known. It does not count against its job's share.
 *
 * A row of a session has a home (homes.h). A batch is filled for the replica that asks, which says
 * the rows of which homes it may take. A queue that has none of them is passed over.
 *
 * LIMITS: the planner holds at most PLANNER_WINDOW rows a job in memory, fewer when they are long;
 * the queue itself is in the store. */
#ifndef ASSAY_PLANNER_H
#define ASSAY_PLANNER_H

#include "broker/batch.h"
#include "broker/store/store.h"
#include "broker/sched/dedupe.h"
#include "broker/sched/homes.h"

#define PLANNER_WINDOW 1024
#define PLANNER_HELD (8 * PLANNER_WINDOW) /* of a job: then rows for other lanes are not read */
#define PLANNER_ATTEMPTS 3
#define PLANNER_SHARED_TIMES 16
/* A shared beginning is one more sequence for the attention, and leaves its tiles of query tokens
 * less full, so fewer tokens than this are not worth sharing. The usual system prompts alone are
 * shorter. */
#define PLANNER_MIN_SHARED 32
/* The broker's first batch is small: its results soon show that the broker works. */
#define PLANNER_FIRST_TOKENS 512
#define PLANNER_FIRST_SHARED_TIMES 2
/* Limits of a batch of known results, and also of all duplicates that wait for their primaries. */
#define PLANNER_KNOWN_ROWS 1024
#define PLANNER_KNOWN_TOKENS (1u << 20)

struct planner;

struct planner_limits {
    uint32_t max_tokens, max_rows, max_positions, max_values; /* of one batch */
    uint32_t slot_tokens;  /* most tokens computed or pooled in a batch of several rows */
    uint32_t min_shared;   /* 0: rows share nothing */
    uint32_t first_tokens; /* of the first batch; 0: max_tokens */
};

/* The limits are of all lanes, as long as planner_set_limits says no other. */
int planner_new(
    struct planner **p, struct store *store, const struct planner_limits *limits, struct err *e);
void planner_set_limits(struct planner *p, uint32_t lane, const struct planner_limits *limits);
void planner_free(struct planner **p);

/* Makes the planner find equal rows (dedupe.h) from now on. Borrowed; free it after the planner.
 * NULL: none are found. */
void planner_use_dedupe(struct planner *p, struct dedupe *dedupe);

/* Makes rows of sessions wait for their homes, of which there are n_homes. Borrowed; call it before
 * planner_next. */
void planner_use_homes(struct planner *p, struct homes *homes, uint32_t n_homes);

/* Looks at this job again: it got rows, its state or priority changed, or rows were retried.
 * Forgets a job without work. 0, or negative: the store failed. */
int planner_job_changed(struct planner *p, int64_t job, struct err *e);

/* Gives the next batch of the choice to the caller: 1, or 0 when nothing is ready, or negative: the
 * store failed. A batch that comes again is of any home. With alone_ok = 0 (other batches of the lane are in flight) no suspect batch is given
 * out; while one waits or runs, nothing else is either. */
int planner_next(struct planner *p, struct choice c, int alone_ok, struct batch **b, struct err *e);
/* All rows of the lane. */
static inline struct choice planner_all(uint32_t lane)
{
    return (struct choice){lane, HOMES_ANY};
}

/* Gives the next rows whose results are known, with their values, as a batch that no group
 * computes: 1, or 0 when there are none, or negative: the store failed. The number is bounded, so
 * that clients and groups do not wait for it. Jobs take turns; a job takes part after its first
 * turn in planner_next. */
int planner_known(struct planner *p, struct batch **b, struct err *e);

/* Frees a batch whose rows have committed results; they are no longer in flight. Duplicates of
 * answered rows have the same results; duplicates of others run like any row. */
void planner_finished(struct planner *p, struct batch **b);

/* Takes back a batch whose group died. was_running 0: it runs again as it was. was_running 1: it is
 * split as above. A suspect batch of one row gets attempts + 1; at PLANNER_ATTEMPTS, 1 is returned
 * and the batch stays the caller's, to record as worker_killed and pass to planner_finished.
 * Otherwise 0, and *b is NULL. */
int planner_lost(struct planner *p, struct batch **b, int was_running);

/* The lane's model is gone, and no group has a batch of it: drops what waits in it. The store has
 * these rows; call planner_job_changed for each unfinished job. */
void planner_forget_lane(struct planner *p, uint32_t lane);

/* How long jobs waited, from when they had rows to run until the first of these was given out: n[k]
 * of them up to planner_wait_bounds_ms[k], the last longer. Since the planner was made; a job that
 * ran out of rows and got more counts anew. */
#define PLANNER_WAIT_BOUNDS 12
extern const uint32_t planner_wait_bounds_ms[PLANNER_WAIT_BOUNDS];
struct planner_waits {
    uint64_t n[PLANNER_WAIT_BOUNDS + 1], sum_us;
};
const struct planner_waits *planner_waits(const struct planner *p);
/* How long the job that has waited longest for its next row has; 0: none waits. */
long long planner_longest_wait_us(const struct planner *p);

/* 1: a suspect batch of the lane waits or is in flight. */
int planner_isolating(const struct planner *p, uint32_t lane);
/* 1: no batch of the lane waits to run again. */
int planner_is_clear(const struct planner *p, uint32_t lane);

#endif
