/* dispatch.c - takes batches from the planner, records their start, and hands them to groups
 * with free slots (dispatch.h). */
#include "broker/dispatch.h"

#include "broker/outcomes.h"
#include "broker/transaction.h"
#include "schema/clock.h"
#include "schema/log.h"

#define DISPATCH_US 5000 /* from the tick's beginning; a batch at least goes out */

/* Of all groups of this one's model. */
static uint32_t in_flight(const struct broker *b, int group)
{
    int copies = b->options->replicas, first = group / copies * copies;
    uint32_t n = 0;
    for (int g = first; g < first + copies; g++)
        n += b->groups[g] ? group_in_flight(b->groups[g]) : 0;
    return n;
}

/* ---- homes ---- */

static uint32_t home_of(const struct broker *b, int group)
{
    return 1 + (uint32_t)(group % b->options->replicas);
}

/* Whether group g may take what has its home at the other (homes.h). */
static int may_take_of(const struct broker *b, int g, int other)
{
    const struct group *home = b->groups[other];
    return !home || !group_takes_batches(home) ||
           (group_in_flight(b->groups[g]) == 0 && group_in_flight(home) > HOMES_AHEAD);
}

/* The rows that group g may take. */
static struct choice choice_for(const struct broker *b, int g)
{
    int copies = b->options->replicas, first = g / copies * copies;
    struct choice c = {served_of_group(b, g)->number, HOMES_BIT(0) | HOMES_BIT(home_of(b, g))};
    for (int other = first; other < first + copies; other++)
        if (other != g && may_take_of(b, g, other))
            c.homes |= HOMES_BIT(home_of(b, other));
    return c;
}

static void note_homes(const struct broker *b, int g, const struct batch *batch)
{
    for (uint32_t i = 0; b->homes && i < batch->n_rows; i++)
        homes_went(b->homes, batch->rows[i]->session, batch->lane, home_of(b, g));
}

/* ---- batches ---- */

static void write_start(struct broker *b, int g, struct batch *batch)
{
    struct err e = {0};
    batch->started_wall_ms = now_wall_ms();
    if (transaction_begin(b, &e) != 0 ||
        store_batch_started(b->store, batch, g, group_incarnation(b->groups[g]), &e) != 0)
        transaction_forgo(b, &e);
}

/* Says which adapter each row goes through: 1, or 0 when one of them is gone. */
static int name_adapters(const struct broker *b, struct batch *batch)
{
    const struct adapters *list = &b->models[batch->lane]->info.adapters;
    for (uint32_t i = 0; i < batch->n_rows; i++) {
        struct sequence *r = batch->rows[i];
        uint32_t k = store_adapter_of(b->store, r->mode);
        if (k == ADAPTERS_UNKNOWN)
            return 0;
        r->adapter = k > 0 ? list->at[k - 1].digest : NULL;
    }
    return 1;
}

/* Sends the batch to group g. 1: gone; 0: the planner has it again; negative: the database
 * failed. */
static int send_out(struct broker *b, int g, struct batch **batch, struct err *e)
{
    struct err why = {0};
    int rc = name_adapters(b, *batch);
    if (rc == 1) {
        write_start(b, g, *batch);
        note_homes(b, g, *batch);
        rc = group_run(b->groups[g], batch, &why);
    }
    if (rc == 0)
        planner_lost(b->planner, batch, 0); /* not taken after all */
    if (rc >= 0)
        return rc;
    log_error("event=batch_refused error=\"%s\"", why.msg);
    rc = outcomes_refuse(b, batch, &why, e);
    return rc < 0 ? rc : 1;
}

/* Gives group g a batch, if it has room for one: 1; 0: there is none. */
static int dispatch_one(struct broker *b, int g, struct err *e)
{
    struct batch *batch = NULL;
    if (!b->groups[g] || group_free_slots(b->groups[g]) == 0 || b->held.first)
        return 0;
    int rc = planner_next(b->planner, choice_for(b, g), in_flight(b, g) == 0, &batch, e);
    return rc == 1 ? send_out(b, g, &batch, e) : rc;
}

/* Round by round, so that groups share the work; a tick that has no time for all goes on in the next
 * with the group whose turn it is. */
int dispatch_batches(struct broker *b, struct err *e)
{
    for (int n = 0; n < b->n_groups && !outcomes_block(b);) { /* groups in a row that got none */
        int rc = dispatch_one(b, b->turn % b->n_groups, e);
        if (rc < 0)
            return rc;
        b->turn = (b->turn + 1) % b->n_groups;
        n = rc == 1 ? 0 : n + 1;
        if (rc == 1 && ticks_has_taken(&b->ticks, DISPATCH_US)) {
            b->wake = 1;
            return 0;
        }
    }
    return 0;
}
