/* homes.c - homes by session, and sessions by row (homes.h). */
#include "broker/sched/homes.h"

#include <stdlib.h>

#include "broker/row.h"
#include "broker/store/store.h"
#include "broker/table.h"
#include "schema/alloc.h"

/* Of one session, or of several that have been the same since a fork. */
struct home {
    uint32_t n_users;
    uint8_t of[STORE_MODELS];
};

struct expected {
    int64_t *sessions; /* [n] */
    uint32_t n;
};

struct homes {
    struct table sessions; /* by number: struct home */
    struct table jobs;     /* by number: struct expected */
};

struct homes *homes_new(void)
{
    return xcalloc(1, sizeof(struct homes));
}

static void free_expected(struct expected *x)
{
    if (x)
        free(x->sessions);
    free(x);
}

static void let_go(struct home *of)
{
    if (of && --of->n_users == 0)
        free(of);
}

void homes_free(struct homes **out)
{
    struct homes *h = *out;
    if (!h)
        return;
    for (size_t i = 0; i < h->sessions.room; i++)
        if (h->sessions.at[i].key != 0)
            let_go(h->sessions.at[i].value);
    for (size_t i = 0; i < h->jobs.room; i++)
        if (h->jobs.at[i].key != 0)
            free_expected(h->jobs.at[i].value);
    table_release(&h->sessions);
    table_release(&h->jobs);
    free(h);
    *out = NULL;
}

/* ---- sessions ---- */

void homes_open(struct homes *h, int64_t session)
{
    if (!h)
        return;
    struct home *of = xcalloc(1, sizeof *of);
    of->n_users = 1;
    table_set(&h->sessions, session, of);
}

void homes_fork(struct homes *h, int64_t session, int64_t fork)
{
    struct home *of = h ? table_find(&h->sessions, session) : NULL;
    if (!of)
        return;
    of->n_users++;
    table_set(&h->sessions, fork, of);
}

void homes_close(struct homes *h, int64_t session)
{
    if (!h)
        return;
    let_go(table_find(&h->sessions, session));
    table_remove(&h->sessions, session);
}

uint32_t homes_find(const struct homes *h, int64_t session, uint32_t lane)
{
    const struct home *of = h && session ? table_find(&h->sessions, session) : NULL;
    return of ? of->of[lane] : 0;
}

/* Leaves the home to the others that have it in common. */
static struct home *own_copy(struct homes *h, int64_t session, struct home *of)
{
    struct home *copy = xcalloc(1, sizeof *copy);
    *copy = *of;
    copy->n_users = 1;
    of->n_users--;
    table_set(&h->sessions, session, copy);
    return copy;
}

void homes_went(struct homes *h, int64_t session, uint32_t lane, uint32_t home)
{
    struct home *of = h && session ? table_find(&h->sessions, session) : NULL;
    if (!of || of->of[lane] == home)
        return;
    if (of->of[lane] != 0 && of->n_users > 1)
        of = own_copy(h, session, of);
    of->of[lane] = (uint8_t)home;
}

/* ---- rows ---- */

void homes_expect(struct homes *h, int64_t job, int64_t **sessions, uint32_t n)
{
    if (!h || !*sessions)
        return;
    struct expected *x = xcalloc(1, sizeof *x);
    *x = (struct expected){*sessions, n};
    *sessions = NULL;
    homes_forget_job(h, job);
    table_set(&h->jobs, job, x);
}

int64_t homes_session_of(const struct homes *h, int64_t row_id)
{
    const struct expected *x = h ? table_find(&h->jobs, row_job(row_id)) : NULL;
    return x && row_index(row_id) < x->n ? x->sessions[row_index(row_id)] : 0;
}

void homes_forget_job(struct homes *h, int64_t job)
{
    if (!h || h->jobs.n == 0)
        return;
    free_expected(table_find(&h->jobs, job));
    table_remove(&h->jobs, job);
}
