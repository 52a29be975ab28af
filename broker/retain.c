/* retain.c - see retain.h. A purge takes the job at once, and its rows bit by bit (store/purge.c).
 *
 * LIMITS: ages are differences of the machine's clock. A clock that is set far ahead makes all jobs
 * old. */
#include "broker/retain.h"

#include "broker/api/progress.h"
#include "broker/api/waiters.h"
#include "broker/transaction.h"
#include "schema/clock.h"
#include "schema/log.h"

#define LOOK_MS 1000
#define AGAIN_MS 20 /* there are more */
#define MOST 64     /* jobs of a look */
#define READING_MS 10000

struct due {
    int64_t jobs[MOST];
    int n; /* all that were found, those with waiters too */
    int n_purged;
};

/* Purges one: it is looked for again in the transaction, since its age alone decides. */
static int purge_one(struct broker *b, int64_t job, int64_t before_ms, struct due *d, struct err *e)
{
    struct store_purged purged = {0};
    int rc = transaction_begin(b, e);
    if (rc == 0)
        rc = store_purge(b->store, job, before_ms, &purged, e);
    if (rc == 0 && purged.jobs > 0)
        d->jobs[d->n_purged++] = job; /* never ahead of the one that is looked at */
    return rc;
}

/* Tells all that know of the jobs. It runs after the commit, as loop.c's does. */
static void tell(struct broker *b, const struct due *d)
{
    struct err e = {0};
    for (int i = 0; i < d->n_purged; i++) {
        waiters_job_changed(b, d->jobs[i]);
        progress_job_changed(b, d->jobs[i]);
        if (planner_job_changed(b->planner, d->jobs[i], &e) < 0)
            transaction_die(b, &e);
    }
}

/* The job's place, else the one that is over first. */
static struct reading *find(struct broker *b, int64_t job)
{
    struct reading *found = b->readings;
    for (int i = 0; i < BROKER_READINGS; i++) {
        struct reading *r = &b->readings[i];
        if (r->job == job)
            return r;
        found = r->until_ms < found->until_ms ? r : found;
    }
    return found;
}

void retain_note_page(struct broker *b, int64_t job, int done, long long now_ms)
{
    struct reading *r = find(b, job);
    if (!done)
        *r = (struct reading){job, now_ms + READING_MS};
    else if (r->job == job)
        *r = (struct reading){0, 0};
}

static int is_read(struct broker *b, int64_t job, long long now_ms)
{
    const struct reading *r = find(b, job);
    return r->job == job && now_ms < r->until_ms;
}

/* Returns whether there may be more. */
static int purge_due(struct broker *b, int is_ephemeral, int64_t before_ms, long long now_ms)
{
    struct err e = {0};
    struct due d = {.n_purged = 0};
    int rc = d.n = store_over(b->store, is_ephemeral, before_ms, d.jobs, MOST, &e);
    if (rc > 0)
        rc = 0;
    for (int i = 0; rc == 0 && i < d.n; i++)
        if (!waiters_has_job(b, d.jobs[i]) && !is_read(b, d.jobs[i], now_ms))
            rc = purge_one(b, d.jobs[i], before_ms, &d, &e);
    if (rc == 0 && d.n_purged > 0)
        rc = transaction_commit(b, &e);
    if (rc != 0)
        transaction_forgo(b, &e);
    if (rc != 0 || d.n_purged == 0)
        return 0;
    b->purge_due_ms = 0;
    log_debug("event=retained_no_longer jobs=%d ephemeral=%d", d.n_purged, is_ephemeral);
    tell(b, &d);
    return d.n == MOST;
}

long long retain_tick(struct broker *b, long long now_ms)
{
    const struct options *o = b->options;
    int64_t wall_ms = now_wall_ms();
    if (now_ms < b->retain_due_ms)
        return b->retain_due_ms;
    int more = purge_due(b, 1, wall_ms - o->retain_ephemeral_s * 1000, now_ms);
    if (o->retain_s > 0)
        more |= purge_due(b, 0, wall_ms - o->retain_s * 1000, now_ms);
    b->retain_due_ms = now_ms + (more ? AGAIN_MS : LOOK_MS);
    return b->retain_due_ms;
}
