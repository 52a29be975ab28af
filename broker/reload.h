/* reload.h - another checkpoint for a model of the running broker: `reload` of schema/PROTOCOL.md.
 *
 * One reload is under way at a time, and the loop never waits for it:
 *     open     a thread has the worker describe and digest the directory, and reads the text files
 *     start    its groups start beside the others; each rank computes its canary
 *     switch   when all of them are ready: one transaction makes it the current model of the name,
 *              new jobs are its own, and the client is told
 *     old      the one before stays in the list, with its place, groups and lane of the planner, as
 *              long as an unfinished job was begun with it; names in such a job's later messages
 *              mean it (struct catalog_pins)
 *     ending   then its groups stop, and it leaves the list
 * What fails before the switch, or is cancelled, leaves everything as it was.
 *
 * The adapters of the model go over to the new checkpoint: its groups load those that are there when
 * the reload begins, whose files must have the contents that they had. The one before keeps its own,
 * for the jobs that began with it; what is added and removed later is the current one's alone.
 *
 * An old model whose groups cannot start any more (its files were replaced) ends, too: its jobs are
 * held, as after a start of the broker with other files. A checkpoint that an old model still has is
 * not loaded again: that one is made current.
 *
 * Nothing of this is kept: a broker that is started again serves what its options name, and holds
 * the jobs of other checkpoints. Which checkpoint a job belongs to is in the database from its
 * beginning, so a kill at any moment leaves each row with the one that it had. */
#ifndef ASSAY_RELOAD_H
#define ASSAY_RELOAD_H

#include "broker/api/outbox.h"
#include "broker/broker.h"

/* Takes a request; its answer comes later. 0, or negative: refused. */
int reload_begin(
    struct broker *b, const struct envelope *env, const struct request *q, struct err *e);
/* Ends the reload under way, unless it has switched; its client is told. 0, or ASSAY_ESTATE: there is
 * none. */
int reload_cancel(
    struct broker *b, const struct envelope *env, const struct request *q, struct err *e);
/* Goes on with the reload under way, and with the end of models that no job needs. Outside of a
 * tick's requests. Returns when it is due again. */
long long reload_tick(struct broker *b, long long now_ms);
void reload_end(struct broker *b); /* the one under way is refused; waits for its thread */
void reload_release(struct broker *b);

/* Writes fields `reload` and `earlier` of `info`. */
void reload_write(const struct broker *b, struct msg_writer *w);

/* Makes the catalog anew from the list of models. */
void reload_publish(struct broker *b);

#endif
