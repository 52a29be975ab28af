/* retire.c - ends a model that was replaced (retire.h):
 *     OLD     no unfinished job has rows of it, or its groups cannot start any more; and no message
 *             that was prepared under an earlier list of models is under way
 *             -> it leaves the catalog, its groups finish what they have and stop: ENDING
 *     ENDING  they have stopped, their batches are taken, and nobody reads the earlier catalog
 *             -> the store and the planner forget it, and its memory is free
 * Nothing of it is given to a group meanwhile: groups that stop take no batches. Rows that are
 * queued all the same (somebody has retried a job just now) are held, as their checkpoint is gone. */
#include "broker/retire.h"

#include <stdlib.h>

#include "broker/api/catalog.h"
#include "broker/reload.h"
#include "broker/transaction.h"
#include "schema/log.h"

#define LOOK_MS 250 /* between two looks whether jobs need it */
#define END_MS 20   /* while it ends */
#define IDLE_MS (1ll << 40)

/* Lets earlier catalogs go that nobody else uses. Returns whether one is left. */
static int earlier_are_used(struct broker *b)
{
    struct catalog **at = &b->earlier;
    while (*at) {
        struct catalog *c = *at;
        if (atomic_load(&c->n_users) > 1) {
            at = &c->next;
            continue;
        }
        *at = c->next;
        catalog_let_go(&c);
    }
    return b->earlier != NULL;
}

/* ---- whether it is needed ---- */

struct need {
    struct broker *broker;
    struct served_model *of;
    int found;
};

static void look_at_mode(void *arg, int64_t mode)
{
    struct need *n = arg;
    n->found |= store_place_of(n->broker->store, mode) == (int)n->of->number;
}

/* Ends the walk at the first job that needs it. */
static int look_at_job(void *arg, const struct store_job *j)
{
    struct need *n = arg;
    struct err e = {0};
    if (store_job_modes(n->broker->store, j->job, look_at_mode, n, &e) < 0)
        transaction_die(n->broker, &e);
    n->of->needed_by = n->found ? j->job : 0;
    return n->found;
}

/* Does the job that needed it last need it still? Then the others need not be looked at. */
static int look_at_last(struct need *n)
{
    struct store_job j;
    struct err e = {0};
    int rc = n->of->needed_by ? store_get_job(n->broker->store, n->of->needed_by, &j, &e) : 0;
    if (rc < 0)
        transaction_die(n->broker, &e);
    return rc == 1 && j.finished_ms == 0 && look_at_job(n, &j);
}

static int is_needed(struct broker *b, struct served_model *m)
{
    struct need n = {b, m, 0};
    struct err e = {0};
    struct store_job_page unfinished = {JOBS_UNFINISHED, 0, UINT32_MAX};
    if (look_at_last(&n))
        return 1;
    if (store_each_job(b->store, &unfinished, look_at_job, &n, &e) < 0)
        transaction_die(b, &e);
    return n.found;
}

/* Whether none of its groups can start, for a cause that stays: its files are not what they were. */
static int is_hopeless(const struct broker *b, const struct served_model *m)
{
    for (int i = 0; i < b->options->replicas; i++) {
        const struct group *g = b->groups[served_group(b, m, i)];
        if (!group_is_hopeless(g) || !group_failure_stays(g))
            return 0;
    }
    return 1;
}

/* ---- its end ---- */

static void begin_end(struct broker *b, struct served_model *m, int is_given_up)
{
    int code;
    if (is_given_up)
        log_warn("event=model_given_up model=%s digest=%.12s reason=\"its jobs are held: %s\"",
            m->info.name, m->info.digest,
            group_last_failure(b->groups[served_group(b, m, 0)], &code));
    m->state = SERVED_ENDING;
    reload_publish(b);
    for (int i = 0; i < b->options->replicas; i++)
        group_stop(b->groups[served_group(b, m, i)]);
}

static int has_ended(const struct broker *b, const struct served_model *m)
{
    int ended = !b->held.first;
    for (int i = 0; ended && i < b->options->replicas; i++) {
        const struct group *g = b->groups[served_group(b, m, i)];
        ended = group_state(g) == GROUP_STOPPED && group_is_empty(g);
    }
    return ended;
}

/* The database may be full, or locked: then later. */
static void forget(struct broker *b, struct served_model *m)
{
    struct err e = {0};
    if (transaction_commit(b, &e) != 0)
        transaction_forgo(b, &e);
    int rc = store_serve(b->store, (int)m->number, NULL, &e);
    if (store_may_pass(rc))
        return;
    if (rc != 0)
        transaction_die(b, &e);
    planner_forget_lane(b->planner, m->number);
    log_info("event=model_ended model=%s digest=%.12s", m->info.name, m->info.digest);
    served_drop(b, m);
    served_jobs_changed(b);
}

/* One step with this model. Returns when the next is due. */
static long long go_on(struct broker *b, struct served_model *m, int are_used, long long now_ms)
{
    if (m->state == SERVED_ENDING) {
        if (!are_used && has_ended(b, m))
            forget(b, m);
        return now_ms + END_MS;
    }
    if (now_ms < b->look_ms)
        return b->look_ms;
    int is_given_up = is_hopeless(b, m);
    if (!are_used && (is_given_up || !is_needed(b, m)))
        begin_end(b, m, is_given_up);
    return now_ms + (m->state == SERVED_ENDING ? END_MS : LOOK_MS);
}

long long retire_tick(struct broker *b, long long now_ms)
{
    long long next_ms = now_ms + IDLE_MS;
    int is_due = now_ms >= b->look_ms;
    if (b->draining || !b->catalog)
        return next_ms;
    for (int k = 0; k < BROKER_MODELS; k++) {
        struct served_model *m = b->models[k];
        if (!m || m->state < SERVED_OLD)
            continue;
        long long due_ms = go_on(b, m, earlier_are_used(b), now_ms);
        next_ms = due_ms < next_ms ? due_ms : next_ms;
    }
    if (is_due)
        b->look_ms = now_ms + LOOK_MS;
    return next_ms;
}
