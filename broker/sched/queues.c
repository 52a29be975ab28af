/* queues.c - whose turn it is among the jobs: goes_before is the order. */
#include "broker/sched/queues.h"

#include <stdlib.h>
#include <string.h>

#include "broker/row.h"
#include "schema/alloc.h"
#include "schema/clock.h"

/* ---- the heap ---- */

static int goes_before(const struct queue *a, const struct queue *b)
{
    if (a->stalled != b->stalled)
        return b->stalled;
    if (a->priority != b->priority)
        return a->priority > b->priority;
    return a->served != b->served ? a->served < b->served : a->job < b->job;
}

static void put(struct queues *all, size_t at, struct queue *q)
{
    all->heap[at] = q;
    q->at = at;
}

static void move_up(struct queues *all, struct queue *q)
{
    size_t at = q->at;
    for (; at > 0 && goes_before(q, all->heap[(at - 1) / 2]); at = (at - 1) / 2)
        put(all, at, all->heap[(at - 1) / 2]);
    put(all, at, q);
}

static void move_down(struct queues *all, struct queue *q)
{
    size_t at = q->at;
    for (size_t next; (next = 2 * at + 1) < all->n; at = next) {
        if (next + 1 < all->n && goes_before(all->heap[next + 1], all->heap[next]))
            next++;
        if (!goes_before(all->heap[next], q))
            break;
        put(all, at, all->heap[next]);
    }
    put(all, at, q);
}

/* ---- by job ---- */

/* Returns where the job's queue is in by_job, or would be. */
static size_t place_of(const struct queues *all, int64_t job)
{
    size_t low = 0, high = all->n;
    if (all->n > 0 && all->by_job[all->n - 1]->job < job) /* most jobs are new */
        return all->n;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (all->by_job[middle]->job < job)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

struct queue *queues_find(const struct queues *all, int64_t job)
{
    size_t at = place_of(all, job);
    return at < all->n && all->by_job[at]->job == job ? all->by_job[at] : NULL;
}

/* ---- both ---- */

/* Returns the fewest tokens served among queues of this priority; 0 when there are none. */
static uint64_t floor_of(const struct queues *all, int priority)
{
    uint64_t least = UINT64_MAX;
    if (all->n > 0 && all->heap[0]->priority == priority && !all->any_stalled)
        return all->heap[0]->served;
    for (size_t i = 0; i < all->n; i++)
        if (all->heap[i]->priority == priority && all->heap[i]->served < least)
            least = all->heap[i]->served;
    return least == UINT64_MAX ? 0 : least;
}

struct queue *queues_add(struct queues *all, int64_t job, int priority)
{
    size_t at = place_of(all, job);
    struct queue *q = xcalloc(1, sizeof *q);
    if (all->n == all->room) {
        all->room = all->room ? 2 * all->room : 16;
        all->heap = xgrow(all->heap, all->n, all->room, sizeof(struct queue *));
        all->by_job = xgrow(all->by_job, all->n, all->room, sizeof(struct queue *));
    }
    *q = (struct queue){.job = job,
        .priority = priority,
        .served = floor_of(all, priority),
        .since_us = now_mono_us(),
        .n_homes = all->n_homes ? all->n_homes : 1,
        .at = all->n};
    memmove(all->by_job + at + 1, all->by_job + at, (all->n - at) * sizeof(struct queue *));
    all->by_job[at] = q;
    all->n++;
    move_up(all, q);
    return q;
}

void queues_remove(struct queues *all, struct queue **out)
{
    struct queue *q = *out, *last = all->heap[all->n - 1];
    size_t at = place_of(all, q->job);
    all->n--;
    memmove(all->by_job + at, all->by_job + at + 1, (all->n - at) * sizeof(struct queue *));
    if (last != q) {
        put(all, q->at, last);
        move_up(all, last);
        move_down(all, last);
    }
    free(q->lines);
    free(q);
    *out = NULL;
}

void queues_serve(struct queues *all, struct queue *q, uint64_t served)
{
    q->served = served;
    move_down(all, q);
}

void queues_stall(struct queues *all, struct queue *q)
{
    q->stalled = all->any_stalled = 1;
    move_down(all, q);
}

void queues_begin_round(struct queues *all)
{
    if (!all->any_stalled)
        return;
    all->any_stalled = 0;
    for (size_t i = 0; i < all->n; i++)
        all->heap[i]->stalled = 0;
    for (size_t i = all->n / 2; i-- > 0;)
        move_down(all, all->heap[i]);
}

/* ---- rows ---- */

struct line *queues_line_of(const struct queue *q, const struct sequence *r)
{
    return &q->lines[r->lane * q->n_homes + r->home];
}

static void add_lanes(struct queue *q, uint32_t n_lanes)
{
    struct line *more = xcalloc((size_t)n_lanes * q->n_homes, sizeof *more);
    if (q->n_lanes > 0)
        memcpy(more, q->lines, (size_t)q->n_lanes * q->n_homes * sizeof *more);
    free(q->lines);
    q->lines = more;
    q->n_lanes = n_lanes;
}

void queues_put(struct queue *q, struct sequence *r)
{
    if (r->lane >= q->n_lanes)
        add_lanes(q, r->lane + 1);
    struct line *l = queues_line_of(q, r);
    r->next = NULL;
    *(l->first ? &l->last->next : &l->first) = r;
    l->last = r;
    q->n_held++;
}

struct sequence *queues_first(const struct queue *q, struct choice c)
{
    struct sequence *first = NULL;
    for (uint32_t home = 0; c.lane < q->n_lanes && home < q->n_homes; home++) {
        struct sequence *r = q->lines[c.lane * q->n_homes + home].first;
        if (r && c.homes >> home & 1 && (!first || r->row_id < first->row_id))
            first = r;
    }
    return first;
}

struct sequence *queues_take(struct queue *q, struct choice c)
{
    struct sequence *r = queues_first(q, c);
    queues_line_of(q, r)->first = r->next;
    r->next = NULL;
    q->n_held--;
    return r;
}

void queues_release(struct queues *all)
{
    free(all->heap);
    free(all->by_job);
    *all = (struct queues){0};
}
