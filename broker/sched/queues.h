/* queues.h - jobs with rows to run, and whose turn it is: a heap by (stalled, priority, tokens served, job), and the
 * same queues by their jobs. Both hold however many jobs there are; a turn costs the logarithm of that. */
#ifndef ASSAY_QUEUES_H
#define ASSAY_QUEUES_H

#include <stddef.h>
#include <stdint.h>

struct queue {
    int64_t job;
    int priority;
    uint64_t served; /* tokens given out, from the floor at which it came */
    int64_t after;   /* row number behind which the next window begins */
    struct sequence *first, **end;
    uint32_t row_tokens; /* of the last row read; 0: none yet */
    int exhausted;       /* the store has no row behind `after` now */
    int rescan; /* the job changed since its first row was read: rows before `after` may be queued
                   again */
    int fresh;
    int stalled;     /* its first row cannot be taken this round */
    int copies;      /* the row that was last taken was known */
    uint32_t looked; /* of its first rows, so many were announced to the duplicates */
    size_t at;       /* in the heap */
};

/* All 0: none. */
struct queues {
    struct queue **heap;   /* [n] the first is the one whose turn it is */
    struct queue **by_job; /* [n] ascending */
    size_t n, room;
    int any_stalled;
};

struct queue *queues_find(const struct queues *all, int64_t job); /* NULL: none */
/* A new one, of a job that has none, no worse served than others of its priority. */
struct queue *queues_add(struct queues *all, int64_t job, int priority);
void queues_remove(struct queues *all, struct queue **q);                /* frees it */
void queues_serve(struct queues *all, struct queue *q, uint64_t served); /* not fewer than before */
void queues_stall(struct queues *all, struct queue *q);
void queues_begin_round(struct queues *all); /* none is stalled any more */
void queues_release(struct queues *all);     /* of none: frees the arrays */

#endif
