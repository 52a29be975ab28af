/* planner.h - which rows run next, and in what batch.
 *
 * Ready rows are read from the store in windows, per job. Order: priority first; between jobs of
 * one priority the one that has been served the fewest tokens (a job that comes later starts at the
 * least of those that wait, so it neither starves nor is owed the past); within a job by index. A
 * batch is filled up to a token budget without padding; a row longer than the budget is a batch of
 * its own.
 *
 * Rows of a batch that begin alike are computed from there on (batch.c), and what counts, for the
 * budget and for the job, are the tokens that are computed. After a row come those that share with
 * it, before another job has its turn. They may go beyond the budget, within the slot, up to
 * PLANNER_SHARED_TIMES the tokens that they share: the fewer times those are computed the better, but
 * then they are a small part of the batch, and others wait for it.
 *
 * The first batches are small: of first_tokens, then of as many as went out before, up to the budget, so
 * that a slow model has something to show soon.
 *
 * When a group dies, batches that it had not begun come back whole. The one that was running comes
 * back as suspect: it is split in halves, each runs alone, and so on down to the row that kills a
 * group by itself; after three such deaths that row is failed (worker_killed). Leases live here, in
 * memory: a row is given out once until it is finished or returned.
 *
 * A row that is the same as one before needs no place in a batch: it waits for the one that is under way,
 * or goes to those whose results are known, or whose error. It costs its job nothing of its turn.
 *
 * LIMITS: the planner holds at most PLANNER_WINDOW rows a job in memory, fewer when they are long;
 * the queue itself is in the store. */
#ifndef ASSAY_PLANNER_H
#define ASSAY_PLANNER_H

#include "broker/batch.h"
#include "broker/store/store.h"
#include "broker/sched/dedupe.h"

#define PLANNER_WINDOW 1024
#define PLANNER_ATTEMPTS 3
#define PLANNER_SHARED_TIMES 16
/* A shared beginning is one more sequence for the attention, and makes its tiles of query tokens less
 * full: for fewer tokens than this it is not worth it. The usual system prompts alone are shorter. */
#define PLANNER_MIN_SHARED 32
/* The first batch of a broker: a small one is soon back, and shows that it works. */
#define PLANNER_FIRST_TOKENS 512
#define PLANNER_FIRST_SHARED_TIMES 2
/* Of rows whose result is known or under way: in a batch of known ones, and waiting for their duplicates. */
#define PLANNER_KNOWN_ROWS 1024
#define PLANNER_KNOWN_TOKENS (1u << 20)

struct planner;

struct planner_limits {
    uint32_t max_tokens, max_rows, max_positions, max_values; /* of one batch */
    uint32_t slot_tokens;  /* that may be computed or pooled in any batch, one of one row aside */
    uint32_t min_shared;   /* 0: rows do not share */
    uint32_t first_tokens; /* of the first batch, 0: max_tokens */
};

int planner_new(
    struct planner **p, struct store *store, const struct planner_limits *limits, struct err *e);
void planner_free(struct planner **p);

/* From now on rows that are the same are found (dedupe.h). Borrowed, NULL: none are; to be freed after the
 * planner. */
void planner_use_dedupe(struct planner *p, struct dedupe *dedupe);

/* Look at this job again: it got rows, changed state or priority, rows were retried. Jobs without
 * work are forgotten. */
int planner_job_changed(struct planner *p, int64_t job, struct err *e);

/* The next batch, owned by the caller: 1, or 0 when nothing is ready. With alone_ok = 0 (other
 * batches are in flight) a suspect batch is not given out, and nothing else is while a suspect
 * waits: 0. */
int planner_next(struct planner *p, int alone_ok, struct batch **b, struct err *e);

/* The next rows whose results are known already, with their values, as a batch that no group needs to
 * see: 1, or 0 when there is none. A bounded number, so that clients and groups do not wait for it; of
 * all jobs in turn that have had a first turn of planner_next. */
int planner_known(struct planner *p, struct batch **b, struct err *e);

/* Its rows have results (committed): leases end, batch freed. The duplicates of rows that were answered have
 * theirs too; those of others run like any row. */
void planner_finished(struct planner *p, struct batch **b);

/* The group died. was_running 0: comes again as it was. 1: split as above. A suspect batch of one
 * row has its attempts + 1; with PLANNER_ATTEMPTS of them 1 is returned and the batch stays the
 * caller's, to be recorded as worker_killed and then passed to planner_finished. Otherwise 0 and *b
 * is NULL. */
int planner_lost(struct planner *p, struct batch **b, int was_running);

/* A suspect batch is waiting or in flight. */
int planner_isolating(const struct planner *p);

#endif
