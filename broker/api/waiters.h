/* waiters.h - requests whose reply must wait for rows: results with wait_ms, score. */
#ifndef ASSAY_WAITERS_H
#define ASSAY_WAITERS_H

#include "broker/broker.h"

enum waiter_kind { WAIT_RESULTS, WAIT_SCORE };
/* 0, or ASSAY_EQUEUEFULL. When all places are taken, a waiter of the connection that has the most is answered to make
 * room, unless that is this one. */
int waiters_make_room(struct broker *b, const struct envelope *env, struct err *e);
void waiters_add(struct broker *b, enum waiter_kind kind, const struct envelope *env,
    const struct request *q, int64_t job, long long deadline_ms);
/* The tick that the newest waiters came in is over. why: it was undone, they all hear that; NULL:
 * it is on the disk. */
void waiters_settle(struct broker *b, const struct err *why);
void waiters_job_changed(struct broker *b, int64_t job); /* its waiters are looked at in a tick */
/* Answers who can be answered; returns the earliest deadline (monotonic ms). No row's result may be
 * uncommitted. */
long long waiters_tick(struct broker *b, long long now_ms);
/* Those whose connection has gone: nobody would hear the reply. */
void waiters_let_go(struct broker *b);
int waiters_count(const struct broker *b);
/* The broker stops: not_ready for all that are left, into the outbox. why: it cannot go on; NULL: it was told to. */
void waiters_end(struct broker *b, const char *why);
struct waiters *waiters_new(void);
void waiters_free(struct waiters **w);

#endif
