/* waiters.h - requests whose reply must wait for rows: `results` with wait_ms, and `score`. */
#ifndef ASSAY_WAITERS_H
#define ASSAY_WAITERS_H

#include "broker/broker.h"

enum waiter_kind { WAIT_RESULTS, WAIT_SCORE };
/* Makes room for one more waiter. When all places are taken, a waiter of the connection with the
 * most is answered early, if that has more than env's would. Returns 0 or ASSAY_EQUEUEFULL. */
int waiters_make_room(struct broker *b, const struct envelope *env, struct err *e);
void waiters_add(struct broker *b, enum waiter_kind kind, const struct envelope *env,
    const struct request *q, int64_t job, long long deadline_ms);
/* Ends the tick in which the newest waiters came. why: the tick was undone, and each of them gets
 * this error; NULL: it is on the disk. */
void waiters_settle(struct broker *b, const struct err *why);
void waiters_job_changed(struct broker *b, int64_t job); /* makes its waiters due */
/* Answers the waiters that can be answered. Returns when to call again (monotonic ms), the earliest
 * deadline at the latest. No row's result may be uncommitted. */
long long waiters_tick(struct broker *b, long long now_ms);
/* Drops the waiters whose connection has gone: nobody would hear the reply. */
void waiters_let_go(struct broker *b);
int waiters_has_job(const struct broker *b, int64_t job); /* does a request wait for it? */
int waiters_count(const struct broker *b);
/* Answers all waiters with not_ready, into the outbox, because the broker stops. why: the reason
 * that it cannot go on; NULL: a normal shutdown. */
void waiters_end(struct broker *b, const char *why);
struct waiters *waiters_new(void);
void waiters_free(struct waiters **w);

#endif
