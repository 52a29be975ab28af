/* adapters.h - adapters that come and go while the broker runs: `adapter_add`, `adapter_remove` and
 * `adapters` of schema/PROTOCOL.md.
 *
 * One change is under way at a time, and the loop never waits for it:
 *     add      a thread has the worker check the directory, and compares the text files
 *              the groups start anew with it, one after the other (group_adapters_changed)
 *              when all of them are ready the store and admission get to know it, and the client
 *     remove   the store and admission forget it; the ranks drop it at their next start
 * An addition that fails leaves everything as it was. If a group dies while it loads the adapter,
 * that is such a failure: whatever the cause, the next start is without it.
 *
 * The list is that of the options at each start of the broker: what came at run time is not kept. A
 * job whose rows name it waits until it is added again (store/adapters.c). */
#ifndef ASSAY_BROKER_ADAPTERS_H
#define ASSAY_BROKER_ADAPTERS_H

#include "broker/api/outbox.h"
#include "broker/broker.h"

void adapters_open(struct served_model *m); /* those of the options, once it is described */
void adapters_release(struct served_model *m);
void adapters_end(struct broker *b); /* the change under way is refused; waits for its thread */

/* Take a request; its answer may come later. 0, or negative: refused. */
int adapters_add(
    struct broker *b, const struct envelope *env, const struct request *q, struct err *e);
int adapters_remove(
    struct broker *b, const struct envelope *env, const struct request *q, struct err *e);
void adapters_list(struct broker *b, const struct envelope *env, const struct request *q);

/* Goes on with the change under way. Outside of a tick's requests. Returns when it is due again. */
long long adapters_tick(struct broker *b, long long now_ms);

#endif
